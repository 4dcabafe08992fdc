"""Runs with networks: defaults from cards, faults, compatibility, and what a run records."""

from __future__ import annotations

import numpy as np
import pytest
from predicting import RESIDUAL, WNET, card_of, network_of
from segmenting import Answer, store

from cellseg3d_dist import resume, segment
from cellseg3d_dist.config import DEFAULT_MODEL, make_config
from cellseg3d_dist.engine.folder import RunFolder
from cellseg3d_dist.engine.method import resolve_method
from cellseg3d_dist.errors import ConfigError, EnvironmentFailedError, OutputError
from cellseg3d_dist.grid import Region
from cellseg3d_dist.networks.compat import cellseg3d_channels
from cellseg3d_dist.networks.weights import load_model, save_model
from cellseg3d_dist.volumes import open_volume

SHAPE = (20, 24, 28)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    image = np.random.default_rng(0).integers(0, 1000, SHAPE).astype(np.uint16)
    return store(tmp_path_factory.mktemp("image") / "image.zarr", image)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A bcd and a foreground model as files."""
    folder = tmp_path_factory.mktemp("models")
    for name, kind in (("bcd", RESIDUAL), ("wnet", WNET)):
        card = card_of(kind, decoder={"min_voxels": 3} if name == "bcd" else {})
        save_model(folder / name, network_of(card), card)
    return folder


def method_of(model, **options):
    return resolve_method(make_config({"image": "a.zarr", "model": str(model)} | options))


def test_the_default_is_the_bundled_network_without_labels():
    method = resolve_method(make_config({"image": "a.zarr"}))
    assert method.config.model == DEFAULT_MODEL
    assert method.card.architecture == "wnet3d"
    assert method.config.instances == "voronoi-otsu"
    assert method.config.threshold == method.card.threshold
    assert method.config.outline_sigma.value == method.card.decoder["outline_sigma"]


def test_what_is_given_wins_over_the_card(models):
    method = method_of(models / "wnet", threshold=0.7, spot_sigma="1.5um", instances="components")
    assert method.config.threshold == 0.7
    assert str(method.config.spot_sigma) == "1.5um"
    assert method.config.instances == "components"
    decoded = method_of(models / "bcd", decoder="seed_distance=0.2,min_seed_voxels=7")
    assert decoded.config.instances == "decode"
    assert decoded.parameters.seed_distance == 0.2
    assert decoded.parameters.min_seed_voxels == 7
    assert decoded.parameters.min_voxels == 3


@pytest.mark.parametrize(
    ("model", "options", "error", "match"),
    [
        ("wnet", {"threshold": 300}, ConfigError, "outside 0 to 1.*--model intensity"),
        ("bcd", {"decoder": "seed_distanse=0.2"}, ConfigError, "seed_distance"),
        ("bcd", {"decoder": "seed_distance=3"}, ConfigError, "seed_distance"),
        ("bcd", {"compat": "cellseg3d"}, ConfigError, "predicts bcd"),
        ("intensity", {"instances": "decode"}, ConfigError, "needs a network"),
        ("intensity", {"decoder": "a=1"}, ConfigError, "networks only"),
    ],
)
def test_options_that_do_not_apply(models, model, options, error, match):
    with pytest.raises(error, match=match):
        method_of(model if model == "intensity" else models / model, **options)


def test_cuda_is_never_the_cpu_silently(models, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(EnvironmentFailedError, match="finds no CUDA device"):
        method_of(models / "bcd", device="cuda")


@pytest.mark.parametrize("model", ["bcd", "wnet"])
def test_no_cut_shows(models, source, tmp_path, model):
    decoder = "foreground=0.4,seed_foreground=0.5" if model == "bcd" else None
    made = {}
    for block_shape in ((20, 24, 28), (11, 13, 12), (7, 24, 9)):
        out = tmp_path / str(block_shape[0])
        segment(
            source, out, model=str(models / model), executor="serial", block_shape=block_shape,
            spot_sigma="1", decoder=decoder,
        )  # fmt: skip
        prediction = [
            open_volume(RunFolder(out).prediction, channel=c).read(Region.whole(SHAPE))
            for c in range(3 if model == "bcd" else 1)
        ]
        made[block_shape] = (Answer.of(out), np.stack(prediction))
    (whole, predicted), *others = made.values()
    assert whole.labels.max() > 3
    for answer, prediction in others:
        np.testing.assert_array_equal(prediction, predicted)
        answer.assert_same(whole)


def test_a_run_records_its_network_and_refuses_another(models, source, tmp_path):
    card = card_of(RESIDUAL)
    save_model(tmp_path / "own", network_of(card), card)
    out = tmp_path / "out"
    segment(source, out, model=str(tmp_path / "own"), executor="serial")
    facts = RunFolder(out).status()["facts"]["model"]
    assert facts["sha256"] == load_model(tmp_path / "own").digest
    assert facts["constants"][0] < facts["constants"][1]
    assert resume(out).executed == 0
    save_model(tmp_path / "own", network_of(card, seed=1), card)
    with pytest.raises(OutputError, match=r"weights of model .* have changed"):
        resume(out)


def test_compat_is_window_by_window(models, source, tmp_path):
    out = tmp_path / "out"
    segment(source, out, model=str(models / "wnet"), executor="serial", compat="cellseg3d")
    found = open_volume(RunFolder(out).prediction).read(Region.whole(SHAPE))
    image = open_volume(source).read(Region.whole(SHAPE))
    expected = cellseg3d_channels(load_model(models / "wnet"), image)
    np.testing.assert_array_equal(found, expected[0])
    with pytest.raises(ConfigError, match="depends on the cut"):
        segment(
            source, tmp_path / "cut", model=str(models / "wnet"), compat="cellseg3d",
            block_shape=(8, 8, 8), executor="serial",
        )  # fmt: skip
