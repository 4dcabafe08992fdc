"""Runs by watershed: in any cut the labels of the whole volume, from spots and from components."""

import numpy as np
import pytest
import scipy.ndimage as ndi
import tifffile
from decoding import decode_in_blocks
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from reference import keep_volumes, number_spots, spots_plain
from segmenting import run, store
from test_decoding_blocks import ALL, parameters_of, random_prediction, serpent
from test_watershed import watershed_plain

from cellseg3d_dist import segmentation
from cellseg3d_dist.config import make_config
from cellseg3d_dist.engine.folder import RunFolder
from cellseg3d_dist.engine.method import resolve_method
from cellseg3d_dist.errors import ConfigError
from cellseg3d_dist.grid import Region
from cellseg3d_dist.instances.filters import gaussian
from cellseg3d_dist.instances.levels import levels_of
from cellseg3d_dist.instances.seeded import watershed_from_spots, watershed_from_threshold
from cellseg3d_dist.instances.voronoi import VoronoiSpec
from cellseg3d_dist.volumes import open_volume

SHAPE = (21, 26, 31)
ISOTROPIC = (1.0, 1.0, 1.0)
SIGMAS = {"spot_sigma": "0.8", "outline_sigma": "0.5"}
SPEC = VoronoiSpec((0.8,) * 3, (0.5,) * 3, 110.0)
FROM = {
    "spots": {"threshold": 110, **SIGMAS},
    "threshold": {
        "threshold": 110, "seeds": "threshold", "seed_threshold": 150, "min_seed_voxels": 4,
        **SIGMAS,
    },
}  # fmt: skip


@pytest.fixture(autouse=True)
def _no_report(monkeypatch):
    """The report has tests of its own."""
    monkeypatch.setattr(segmentation.running, "write_run_report", lambda *args, **kwargs: None)


def hills(shape=SHAPE, seed=0, sigma=1.5):
    """Noise without large scales, 0 to 255."""
    image = ndi.gaussian_filter(np.random.default_rng(seed).normal(size=shape), sigma)
    return ((image - image.min()) / np.ptp(image) * 255).astype(np.uint8)


def whole(image, seeds, connectivity=6):
    if seeds == "spots":
        return watershed_from_spots(image, SPEC, connectivity)
    return watershed_from_threshold(image, SPEC, 150, 4, connectivity)


def by_watershed(source, out, **options):
    return run(source, out, instances="watershed", **options)


def test_the_whole_volume_is_spots_and_a_plain_watershed():
    image = hills((12, 13, 14))
    outlined = gaussian(image, SPEC.outline_sigma)
    mask = outlined > 110
    seeds = number_spots(spots_plain(gaussian(image, SPEC.spot_sigma), mask))
    expected, _ = watershed_plain(mask, levels_of(outlined, downhill=True), seeds)
    np.testing.assert_array_equal(watershed_from_spots(image, SPEC), expected)
    # without smoothing 8-bit values are their own levels, as they would be as floats
    sharp = VoronoiSpec((1.0,) * 3, (0.0,) * 3, 110.0)
    np.testing.assert_array_equal(
        watershed_from_spots(image, sharp), watershed_from_spots(image.astype(np.float32), sharp)
    )


@pytest.mark.parametrize("seeds", FROM)
@given(
    st.tuples(st.integers(8, 22), st.integers(8, 27), st.integers(8, 32)),
    st.integers(1, 4),
    st.sampled_from([6, 18, 26]),
    st.integers(0, 10**6),
)
@settings(
    max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_cut_shows(tmp_path_factory, seeds, block_shape, flood_halo, connectivity, seed):
    folder, image = tmp_path_factory.mktemp("run"), hills(seed=seed)
    expected = keep_volumes(whole(image, seeds, connectivity), 6)
    assume(expected.max() > 1)
    found = by_watershed(
        store(folder / "image.zarr", image), folder / "out", block_shape=block_shape,
        flood_halo=flood_halo, connectivity=connectivity, min_volume=6, **FROM[seeds],
    )  # fmt: skip
    np.testing.assert_array_equal(found.labels, expected)
    assert found.facts["certificate"]["open_last"] == 0


def test_seeds_and_cells_that_wind_through_every_block(tmp_path):
    shape = (9, 18, 20)
    path = serpent(shape)
    image = np.where(path, 200, 0).astype(np.uint8)
    # two seeds, one a long component; a valley between them divides the path
    at = np.argwhere(path)
    order = np.arange(len(at))
    image[tuple(at[order % 5 == 0].T)] = 180
    image[2, :, :] = np.where(path[2], 120, 0)
    expected = watershed_from_threshold(image, VoronoiSpec((1.0,) * 3, (0.0,) * 3, 50.0), 150)
    assert expected.max() > 1
    found = by_watershed(
        store(tmp_path / "image.zarr", image), tmp_path / "out", threshold=50, outline_sigma=0,
        seeds="threshold", seed_threshold=150, block_shape=(3, 5, 4), flood_halo=1,
    )  # fmt: skip
    np.testing.assert_array_equal(found.labels, expected)
    one = np.where(path, 100, 0).astype(np.uint8)
    one[tuple(at[0])] = 255
    found = by_watershed(
        store(tmp_path / "one.zarr", one), tmp_path / "one", threshold=50, outline_sigma=0,
        spot_sigma=0, block_shape=(3, 5, 4), flood_halo=1,
        seeds="threshold", seed_threshold=150,
    )  # fmt: skip
    # one plateau: every block but one is open until the exchange comes by
    np.testing.assert_array_equal(found.labels, path)
    assert found.facts["certificate"]["rounds"] > 10


def test_a_mask_and_a_region(tmp_path):
    image = hills()
    mask = hills(seed=5, sigma=3) > 110
    options = {
        "mask": store(tmp_path / "mask.zarr", mask.astype(np.uint8)), "region": "2:20,1:25,3:30",
        **FROM["threshold"],
    }  # fmt: skip
    source = store(tmp_path / "image.zarr", image)
    one = by_watershed(source, tmp_path / "one", block_shape=(64, 64, 64), **options)
    assert one.labels.max() > 3
    assert not one.labels[~mask[2:20, 1:25, 3:30]].any()
    cut = by_watershed(source, tmp_path / "cut", block_shape=(7, 9, 8), flood_halo=1, **options)
    one.assert_same(cut)


@pytest.mark.parametrize("seeds", FROM)
def test_two_workers(tmp_path, client_of, seeds):
    source = store(tmp_path / "image.zarr", hills())
    found = run(
        source, tmp_path / "out", instances="watershed", executor="dask", client=client_of(2),
        block_shape=(11, 9, 16), flood_halo=2, **FROM[seeds],
    )  # fmt: skip
    np.testing.assert_array_equal(found.labels, whole(hills(), seeds))


def test_a_crop_of_mouse_brain(shared_data, tmp_path):
    image = tifffile.imread(shared_data / "mouse_brain_mesospim" / "c5image.tif")[:40, :56, :64]
    source = store(tmp_path / "image.zarr", image)
    level = float(np.percentile(image, 80))
    options = {"threshold": level, "spot_sigma": "1", "outline_sigma": "0"}
    found = by_watershed(source, tmp_path / "out", block_shape=(17, 23, 30), **options)
    expected = watershed_from_spots(image, VoronoiSpec((1.0,) * 3, (0.0,) * 3, level))
    assert expected.max() > 30
    np.testing.assert_array_equal(found.labels, expected)


@pytest.mark.parametrize("cut", [(14, 24, 28), (7, 8, 9)])
@pytest.mark.parametrize(
    ("name", "more"), [("bcd", {}), ("bcd", {"spot_sigma": 1.0}), ("boundary", {})]
)
def test_decoders_flood_their_landscape(name, more, cut, tmp_path):
    parameters = parameters_of(name, watershed=1, **more)
    prediction = random_prediction(name)
    found = decode_in_blocks(tmp_path / "run", ALL[name], parameters, prediction, cut)
    expected = ALL[name].decode(prediction, ISOTROPIC, parameters)
    np.testing.assert_array_equal(found.labels, expected)
    by_distance = ALL[name].decode(prediction, ISOTROPIC, parameters_of(name, **more))
    assert (by_distance != expected).any()


def test_a_networks_foreground_by_the_rules_of_cellseg3d(tmp_path):
    from predicting import WNET, card_of, network_of

    from cellseg3d_dist.networks.weights import save_model

    image = np.random.default_rng(0).integers(0, 1000, (12, 14, 13)).astype(np.uint16)
    source, card = store(tmp_path / "image.zarr", image), card_of(WNET, decoder={})
    save_model(tmp_path / "net", network_of(card), card)
    model = str(tmp_path / "net")
    run(source, tmp_path / "first", model=model, instances="components")
    foreground = open_volume(RunFolder(tmp_path / "first").prediction).read(
        Region.whole(image.shape)
    )
    low, high = (float(np.percentile(foreground, p)) for p in (60, 92))
    found = by_watershed(
        source, tmp_path / "out", model=model, block_shape=(7, 8, 13), threshold=low / 255,
        seed_threshold=high / 255, min_seed_voxels=2, min_volume=5,
    )  # fmt: skip
    spec = VoronoiSpec((1.0,) * 3, (0.0,) * 3, low / 255 * 255)
    expected = keep_volumes(watershed_from_threshold(foreground, spec, high / 255 * 255, 2), 5)
    assert expected.max() > 1
    np.testing.assert_array_equal(found.labels, expected)
    filled = resolve_method(
        make_config({"image": source, "instances": "watershed", "model": model})
    ).config
    assert (filled.seeds, filled.seed_threshold, filled.min_seed_voxels) == ("threshold", 0.9, 1)
    assert filled.outline_sigma.value == 0


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"instances": "components", "seeds": "spots"}, "seeds is for instances 'watershed'"),
        ({"instances": "watershed", "seeds": "threshold"}, "need seed_threshold"),
        ({"instances": "watershed", "seed_threshold": 4}, "seed_threshold is for seeds by thr"),
        ({"instances": "watershed", "seeds": "minima"}, "seeds"),
        (
            {"instances": "watershed", "model": "nuclei-wnet3d", "seed_threshold": 40},
            "outside 0 to 1",
        ),
    ],
)
def test_options_that_do_not_go_together(options, match):
    with pytest.raises(ConfigError, match=match):
        resolve_method(make_config({"image": "a.zarr", "model": "intensity"} | options))
