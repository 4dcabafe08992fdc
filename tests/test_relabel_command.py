"""Labelling again from what a finished run left behind: the same bytes as a new run."""

import json
import subprocess
import sys

import numpy as np
import pytest
from command_line import cells_image
from predicting import RESIDUAL, WNET, card_of, network_of
from segmenting import Answer, store, stored_bytes

from cellseg3d_dist import relabel, resume, segment, segmentation
from cellseg3d_dist.engine import executors
from cellseg3d_dist.engine.folder import RunFolder
from cellseg3d_dist.errors import ConfigError, EnvironmentFailedError, OutputError
from cellseg3d_dist.networks.weights import save_model

SHAPE = (10, 20, 22)
HOW = {"executor": "serial", "block_shape": (8, 16, 16)}
SMALL = {"spot_sigma": 1, "outline_sigma": 1}
BCD = RESIDUAL | {
    "decoder": {
        "seed_foreground": 0.3, "seed_contour": 0.95, "seed_distance": 0.3, "foreground": 0.2,
        "min_seed_voxels": 1, "min_voxels": 2,
    },
}  # fmt: skip
STAR = RESIDUAL | {"representation": "star", "representation_options": {"n_rays": 8}}


@pytest.fixture(autouse=True)
def _no_report(monkeypatch):
    monkeypatch.setattr(segmentation.running, "write_run_report", lambda *args, **kwargs: None)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An image, models with random weights, and runs of it by their model's name."""
    root = tmp_path_factory.mktemp("relabel")
    image = store(root / "image.zarr", cells_image(SHAPE))
    options = {"image": image, "intensity": {"model": "intensity", **SMALL, "csv": True}}
    for name, kind in (("wnet", WNET), ("bcd", BCD), ("star", STAR)):
        card = card_of(kind)
        save_model(root / name, network_of(card), card)
        options[name] = {"model": str(root / name), **SMALL}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segmentation.running, "write_run_report", lambda *args, **kwargs: None)
        for name in ("intensity", "wnet", "bcd", "star"):
            segment(image, root / f"run-{name}", **HOW, **options[name])
        segment(image, root / "kept", keep_work=True, **HOW, **options["intensity"])
    return root, options


def stages_of(out):
    return {path.stem for path in (out / "journal").iterdir()}


@pytest.mark.parametrize(
    ("name", "changed", "skipped"),
    [
        ("intensity", {"spot_sigma": 2, "min_volume": 20}, {"survey"}),
        ("intensity", {"outline_sigma": 0, "instances": "components"}, set()),
        ("wnet", {"threshold": 0.45, "spot_sigma": 2}, {"survey", "survey-foreground"}),
        ("bcd", {"decoder": "seed_foreground=0.35,min_voxels=3"}, {"survey"}),
        ("star", {"decoder": {"threshold": 0.75}}, {"survey"}),
    ],
)
def test_the_same_as_a_new_run(made, tmp_path, name, changed, skipped):
    root, options = made
    before = stored_bytes(root / f"run-{name}")
    relabel(root / f"run-{name}", tmp_path / "again", **changed)
    segment(options["image"], tmp_path / "fresh", **HOW, **options[name] | changed)
    again, fresh = Answer.of(tmp_path / "again"), Answer.of(tmp_path / "fresh")
    again.assert_same(fresh)
    assert fresh.labels.any()
    assert stored_bytes(tmp_path / "again" / "labels.ome.zarr") == stored_bytes(
        tmp_path / "fresh" / "labels.ome.zarr"
    )
    new = stages_of(tmp_path / "again")
    assert not new & (skipped | {"predict"})
    assert stored_bytes(root / f"run-{name}") == before
    assert resume(tmp_path / "again").executed == 0


def test_what_was_labelled_again_can_be_labelled_again(made, tmp_path):
    root, _ = made
    relabel(root / "run-bcd", tmp_path / "second", decoder="min_voxels=9")
    relabel(tmp_path / "second", tmp_path / "third", decoder="min_voxels=2")
    Answer.of(tmp_path / "third").assert_same(Answer.of(root / "run-bcd"))


def test_fragments_that_were_kept_are_only_merged(made, tmp_path):
    root, options = made
    relabel(root / "kept", tmp_path / "again", min_volume=40)
    segment(options["image"], tmp_path / "fresh", min_volume=40, **HOW, **options["intensity"])
    Answer.of(tmp_path / "again").assert_same(Answer.of(tmp_path / "fresh"))
    assert not stages_of(tmp_path / "again") & {"survey", "threshold", "label"}
    # the limits are wider again: cells that were dropped come back
    relabel(tmp_path / "again", tmp_path / "wide", min_volume=None)
    Answer.of(tmp_path / "wide").assert_same(Answer.of(root / "kept"))


def test_neither_network_nor_torch_is_loaded(made, tmp_path):
    root, _ = made
    code = (
        "import sys, cellseg3d_dist\n"
        f"cellseg3d_dist.relabel({str(root / 'run-star')!r}, {str(tmp_path / 'again')!r}, "
        "decoder={'threshold': 0.8})\n"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_an_interruption_costs_nothing_but_time(made, tmp_path, monkeypatch):
    root, _ = made
    whole = relabel(root / "run-wnet", tmp_path / "whole", threshold=0.45)
    run_block, left = executors.run_block, whole.executed

    def failing(stage, block):
        nonlocal left
        left -= 3
        if left < 0:
            raise EnvironmentFailedError("the disk is full.")
        return run_block(stage, block)

    monkeypatch.setattr(executors, "run_block", failing)
    with pytest.raises(EnvironmentFailedError, match=r"resume .*cut"):
        relabel(root / "run-wnet", tmp_path / "cut", threshold=0.45)
    monkeypatch.undo()
    resume(tmp_path / "cut")
    Answer.of(tmp_path / "cut").assert_same(Answer.of(tmp_path / "whole"))


@pytest.mark.parametrize(
    ("name", "changed", "error", "match"),
    [
        ("wnet", {"model": "intensity"}, ConfigError, "model 'intensity' is not that of .*segment"),
        ("wnet", {"voxel_size": "2,1,1"}, ConfigError, "voxel_size"),
        ("wnet", {"flips": True}, ConfigError, "flips"),
        ("wnet", {"block_shape": "4,4,4"}, ConfigError, "block_shape .*Leave it out"),
        ("wnet", {"threshold": 300}, ConfigError, "0 to 1"),
        ("wnet", {"thresholds": 300}, ConfigError, "did you mean threshold"),
        ("star", {"decoder": "threshold=0.1"}, ConfigError, "below .*least probability"),
        ("bcd", {"decoder": "seed_forground=0.1"}, ConfigError, "seed_foreground"),
    ],
)
def test_what_would_need_the_network_again(made, tmp_path, name, changed, error, match):
    root, _ = made
    with pytest.raises(error, match=match):
        relabel(root / f"run-{name}", tmp_path / "again", **changed)
    assert not (tmp_path / "again").exists()


def test_runs_that_cannot_be_used(made, tmp_path):
    _, options = made
    out = tmp_path / "run"
    segment(options["image"], out, **HOW, **options["intensity"])
    before = json.loads((out / "run.json").read_text())

    def refused(match, new=tmp_path / "again", **options):
        with pytest.raises(OutputError, match=match):
            relabel(out, new, **options)

    refused("is or holds the run", out, overwrite=True)
    for change, match in (
        ({"status": "interrupted"}, "not complete .*resume"),
        ({"version": "0.0.1"}, "made by version 0.0.1"),
        ({"fingerprint": {"image": "other"}}, "has changed since"),
        ({"plan": None}, "lacks plan"),
    ):
        changed = {k: v for k, v in (before | change).items() if v is not None}
        (out / "run.json").write_text(json.dumps(changed))
        refused(match)
    (out / "run.json").write_text(json.dumps(before))
    relabel(out, tmp_path / "again")
    refused("again exists")
    relabel(out, tmp_path / "again", overwrite=True, min_volume=5)
    assert relabel(out).folder == out / "relabelled"


def test_a_damaged_prediction_is_found_and_mended(made, tmp_path):
    root, options = made
    out, again = tmp_path / "run", tmp_path / "again"
    segment(options["image"], out, **HOW, **options["wnet"])
    shards = sorted(p for p in (out / "prediction.ome.zarr").rglob("*") if p.is_file())
    lost = max(shards, key=lambda path: path.stat().st_size)
    whole = lost.read_bytes()
    # a shard that is lost reads as 0
    lost.unlink()
    with pytest.raises(OutputError, match=r"prediction.ome.zarr is damaged .*resume .*run; then"):
        relabel(out, again, threshold=0.45)
    assert resume(out).executed > 0
    assert lost.read_bytes() == whole
    resume(again)
    relabel(root / "run-wnet", tmp_path / "other", threshold=0.45)
    Answer.of(again).assert_same(Answer.of(tmp_path / "other"))
    (out / "prediction.ome.zarr").rename(tmp_path / "gone")
    with pytest.raises(OutputError, match="is missing"):
        relabel(out, tmp_path / "third")


def test_the_command(cli, made, tmp_path):
    root, _ = made
    said = cli.does("relabel", root / "run-bcd", "new", "--decoder", "min_voxels=3", "--csv")
    assert "new/labels.ome.zarr" in said.out.replace(str(tmp_path) + "/", "")
    assert (tmp_path / "new" / "cells.csv").exists()
    assert RunFolder(tmp_path / "new").status()["command"].startswith("cellseg3d-dist")
    cli.refuses("relabel", "gone", match="gone is not the output of a run")
    cli.refuses("relabel", "new", "new", "--overwrite", match="is or holds the run")
    labels = np.load(tmp_path / "new" / "survey.npz")
    assert set(labels) == {"z", "y", "x", "steps"}
