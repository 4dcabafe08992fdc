"""Flat volumes of coarse planes, odd shapes, and several channels of different ranges."""

import numpy as np
import pytest
from command_line import cells_image
from predicting import RESIDUAL, WNET, card_of, network_of
from segmenting import Answer, cells_of, in_one_piece, run, store

from cellseg3d_dist import plan, segment, segmentation
from cellseg3d_dist.networks.weights import save_model

SIZE = (5.0, 1.0, 1.0)
FLAT = (3, 40, 46)
SIGMAS = {"spot_sigma": "2um", "outline_sigma": "1um"}


@pytest.fixture(autouse=True)
def _no_report(monkeypatch):
    monkeypatch.setattr(segmentation.running, "write_run_report", lambda *args, **kwargs: None)


@pytest.mark.parametrize("shape", [FLAT, (13, 31, 46)])
def test_blocks_of_odd_shapes_give_what_the_whole_gives(tmp_path, shape):
    image = cells_image(shape, seed=3)
    found = run(image, tmp_path / "out", voxel_size=SIZE, block_shape=(2, 17, 19), **SIGMAS)
    expected = in_one_piece(image, voxel_size=SIZE, **SIGMAS)
    assert expected.max() > 3
    np.testing.assert_array_equal(found.labels, expected)


@pytest.mark.parametrize("kind", [WNET, RESIDUAL | {"patch": (16, 16, 16), "halo": (4, 4, 4)}])
def test_patches_deeper_than_the_volume(tmp_path, kind):
    card = card_of(kind, voxel_size=SIZE)
    save_model(tmp_path / "model", network_of(card), card)
    image = store(tmp_path / "image.zarr", cells_image(FLAT), SIZE)
    options = {"model": str(tmp_path / "model"), "executor": "serial", "threshold": 0.4, **SIGMAS}
    options["instances"] = "voronoi-otsu"
    segment(image, tmp_path / "blocks", block_shape=(3, 16, 24), **options)
    segment(image, tmp_path / "whole", block_shape=(64, 64, 64), **options)
    Answer.of(tmp_path / "blocks").assert_same(Answer.of(tmp_path / "whole"))


def test_a_flat_volume_is_not_padded_in_the_plan():
    image = np.zeros((7, 1150, 1150), np.uint8)
    made = plan(image, model="intensity", voxel_size=SIZE, workers=1)
    assert made.n_blocks == 25
    assert all(stage.read_region[0] <= 7 for stage in made.stages if stage.stage != "relabel")


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_every_channel_is_measured_in_its_own_range(tmp_path, dtype):
    cells = cells_image((12, 20, 22)).astype(np.float64)
    rng = np.random.default_rng(0)
    small, large = cells % 7, cells * 200 + rng.integers(0, 100, cells.shape)
    if dtype == np.float32:
        small, large = small * 1e-5 - 2e-5, large * 1e6
    channels = np.stack([cells, small, large]).astype(dtype)
    image = store(tmp_path / "image.zarr", channels, channels=("DAPI", "low one", "high"))
    options = {"spot_sigma": 1, "outline_sigma": 1, "voxel_size": None}
    found = run(image, tmp_path / "out", block_shape=(8, 9, 16), **options)
    table, labels = cells_of(tmp_path / "out"), found.labels
    inside = [labels == label for label in table["label"].to_pylist()]
    assert len(inside) > 2
    exact = {"rtol": 0} if dtype == np.uint16 else {"rtol": 1e-6}
    for name, channel in zip(("DAPI", "low one", "high"), channels.astype(np.float64), strict=True):
        for statistic in ("mean", "min", "max", "sum", "std"):
            expected = [getattr(channel[mask], statistic)() for mask in inside]
            column = table[f"intensity_{statistic}_{name}"].to_numpy()
            if statistic in ("mean", "std"):
                np.testing.assert_allclose(column, expected, rtol=1e-6, atol=1e-12)
            else:
                np.testing.assert_allclose(column, expected, **exact)
