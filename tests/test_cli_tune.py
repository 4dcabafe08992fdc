"""tune: its file gives ``segment`` exactly the scores it tells, and bad input is one line."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from segmenting import store
from test_tuning import SIZE, blobs
from test_weights import card_of, network_of

from cellseg3d_dist.config import make_config, read_config
from cellseg3d_dist.engine.method import resolve_method
from cellseg3d_dist.networks import cards
from cellseg3d_dist.networks.weights import save_model
from cellseg3d_dist.segmentation import segment
from cellseg3d_dist.tuning import tune

QUICK = ("--sweeps", "1")


@pytest.fixture
def pair(tmp_path):
    """An image and its labels in the working folder."""
    image, labels = blobs(7)
    store(tmp_path / "image.zarr", image, SIZE)
    store(tmp_path / "labels.zarr", labels, SIZE)
    return tmp_path / "image.zarr", tmp_path / "labels.zarr"


@pytest.fixture
def model(tmp_path):
    """Writes a small network whose output varies; path of its weights."""

    def write(meaning, **more):
        torch.manual_seed(1)
        torch.set_num_threads(1)
        card = card_of(meaning=meaning, patch=(16, 16, 16), halo=(4, 4, 4), **more)
        network = network_of(card)
        with torch.no_grad():
            # an untrained network says nearly the same everywhere
            list(network.parameters())[-2].mul_(8)
        save_model(tmp_path / meaning, network, card)
        return str(tmp_path / f"{meaning}.safetensors")

    return write


def scores_with(config, pair, out):
    """What a run with this config file scores."""
    image, labels = map(str, pair)
    segment(
        image, out, executor="serial", block_shape=(16, 16, 16), labels_true=labels,
        **read_config(config),
    )  # fmt: skip
    found = json.loads((out / "scores.json").read_text())
    f1 = [score["f1"] for score in found["matching"] if score["criterion"] == "iou"]
    return float(np.mean(f1)), f1[4], found["foreground"]["dice"]


def assert_told(result, pair, tmp_path):
    result.write(tmp_path / "tuned.yaml")
    best = result.best.scores
    found = scores_with(tmp_path / "tuned.yaml", pair, tmp_path / "run")
    assert found == (best.mean_f1, best.f1, best.dice)


@pytest.mark.parametrize("instances", ["voronoi-otsu", "components"])
def test_segment_scores_what_was_told(pair, tmp_path, instances):
    # a start that no grid is rounded to
    result = tune(
        *map(str, pair),
        model="intensity",
        instances=instances,
        spot_sigma="0.77um",
        outline_sigma="1.3",
        sweeps=1,
    )
    assert result.gain > 0
    assert result.best.scores.f1 > 0.5
    assert_told(result, pair, tmp_path)


def test_segment_scores_what_was_told_of_a_decoder(pair, tmp_path, model):
    result = tune(*map(str, pair), model=model("boundary"), score="dice", sweeps=1)
    assert result.config["instances"] == "decode"
    assert result.best.scores.dice > 0
    assert not result.dice_curve
    assert_told(result, pair, tmp_path)


def test_segment_scores_what_was_told_of_a_foreground(pair, tmp_path, model):
    path = model("foreground")
    result = tune(*map(str, pair), model=path, spot_sigma="1um", score="dice", sweeps=1)
    assert result.config["model"] == path
    assert result.config["instances"] == "voronoi-otsu"
    assert result.dice_threshold in [t for t, _ in result.dice_curve]
    assert_told(result, pair, tmp_path)


def test_what_is_printed_and_written(cli, pair, tmp_path):
    said = cli.does(
        "tune", "image.zarr", "labels.zarr", "-o", "found.yaml", "--spot-sigma", "0.8um", *QUICK,
        "--region", "0:12,0:30,0:30",
    )  # fmt: skip
    lines = said.out.splitlines()
    assert lines[0].split() == [
        "mean_f1", "f1", "dice", "cells", "threshold", "spot_sigma", "outline_sigma", "min_volume",
    ]  # fmt: skip
    assert lines[-2:] == [
        f"config  {tmp_path / 'found.yaml'}", f"picture {tmp_path / 'found.png'}"
    ]  # fmt: skip
    assert "settings tried" in lines[-3]
    config = yaml.safe_load((tmp_path / "found.yaml").read_text())
    assert config["model"] == "intensity"
    assert (tmp_path / "found.png").read_bytes().startswith(b"\x89PNG")
    cli.refuses("tune", "image.zarr", "labels.zarr", "-o", "found.yaml", match="exists")
    for arguments in (
        ("plan", "image.zarr"),
        ("segment", "image.zarr", "out", "--executor", "serial"),
    ):
        cli.does(*arguments, "--config", "found.yaml")


def test_folders_are_paired_by_name(cli, pair, tmp_path):
    image, labels = pair
    for number in (1, 2):
        shutil.copytree(image, tmp_path / "images" / f"e{number}.zarr")
        shutil.copytree(labels, tmp_path / "truth" / f"e{number}_labels.zarr")
    cli.does("tune", "images", "truth", *QUICK, "--instances", "components")
    text = (tmp_path / "tuned.yaml").read_text()
    assert "on 2 images with 14 labelled cells" in text
    shutil.rmtree(tmp_path / "truth" / "e1_labels.zarr")
    cli.refuses(
        "tune", "images", "truth", "-o", "b.yaml", match="has no label image|2 images and 1"
    )


def test_a_card_of_ones_own_is_written(cli, pair, tmp_path, model, monkeypatch):
    path = model("boundary", decoder={"min_voxels": 2})
    arguments = ("tune", "image.zarr", "labels.zarr", "--model", "boundary", "--write-card")
    said = cli.does(*arguments, *QUICK, "--score", "dice")
    assert said.out.splitlines()[-1] == f"card    {tmp_path / 'boundary.json'}"
    tuned = make_config({"image": ""} | yaml.safe_load((tmp_path / "tuned.yaml").read_text()))
    plain = make_config({"image": "", "model": path})
    assert resolve_method(plain).parameters == resolve_method(tuned).parameters
    monkeypatch.setattr(cards, "BUNDLED", tmp_path)
    cli.refuses(*arguments, "-o", "b.yaml", match="came with the package")


def test_a_card_of_a_foreground_is_written(cli, pair, tmp_path, model):
    path = model("foreground", threshold=0.4)
    cli.does(
        "tune", "image.zarr", "labels.zarr", "--model", path, "--write-card", *QUICK,
        "--score", "dice",
    )  # fmt: skip
    tuned = make_config({"image": ""} | yaml.safe_load((tmp_path / "tuned.yaml").read_text()))
    again = resolve_method(make_config({"image": "", "model": path})).config
    for key in ("threshold", "spot_sigma", "outline_sigma", "instances"):
        assert getattr(again, key) == getattr(tuned, key)


@pytest.mark.parametrize(
    ("more", "match"),
    [
        (("-o", "a.txt"), "must end in .yaml"),
        (("-o", "none/a.yaml"), "no folder"),
        (("--score", "iou"), "score 'iou' is unknown"),
        (("--sweeps", "0"), "--sweeps '0'"),
        (("--write-card",), "intensity has no card"),
        (("--write-card", "--model", "hub:a/b@c/d.safetensors"), "copy"),
        (("--model", "nothing"), "no model 'nothing'"),
        (("--decoder", "a=1"), "decoder applies to networks only"),
        (("--region", "0:99,0:30,0:30"), "is not inside"),
        (("--voxel-size", "1,1"), "voxel_size"),
    ],
)
def test_options_that_cannot_be_used(cli, pair, more, match):
    cli.refuses("tune", "image.zarr", "labels.zarr", *more, match=f"(?i){match}")


def test_labels_that_cannot_be_used(cli, pair, tmp_path):
    _, labels = blobs(7)
    for name, wrong, match in (
        ("float", labels.astype(np.float32), "float32, not integer"),
        ("shape", labels[:-1], "have shape"),
        ("empty", np.zeros_like(labels), "labels are empty"),
    ):
        store(tmp_path / f"{name}.zarr", wrong, SIZE)
        cli.refuses("tune", "image.zarr", f"{name}.zarr", match=match)
    cli.refuses("tune", "image.zarr", "image.zarr", match="as image and as its labels")
