"""The command train: one line and exit 2 for what cannot be used, nothing created."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
import torch
import yaml
from training_data import QUICK, write_pairs


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def files(tmp_path):
    write_pairs(tmp_path / "data")
    (tmp_path / "quick.yaml").write_text(yaml.safe_dump(QUICK))
    return ("--config", "quick.yaml", "--images", "data/images", "--labels", "data/labels")


WRONG = [
    (("--learning-rate", "0"), "learning_rate '0' must be a number above 0"),
    (("--learning-rate", "nan"), "learning_rate"),
    (("--batch", "0"), "batch '0' must be a whole number of at least 1"),
    (("--patch", "8,16"), "patch '8,16' must be three whole numbers"),
    (("--patch", "9,16,16"), r"patch \(9, 16, 16\) must be multiples of"),
    (("--halo", "4,8,8"), "leaves no core in patches"),
    (("--architecture", "unett"), "unknown architecture 'unett' .did you mean unet"),
    (("--architecture-options", "widht=3"), "unknown option 'widht'"),
    (("--architecture-options", "3"), "architecture_options '3' must be a mapping"),
    (("--representation", "bdc"), "representation 'bdc' is unknown"),
    (("--representation-options", "distanc=1"), "no option 'distanc'"),
    (("--augmentation-options", "nois=1"), "augmentation has no option nois. Did you mean noise"),
    (("--objective-options", "w_rec=1"), "objective_options are for training without labels"),
    (("--optimizer", "lion"), "optimizer 'lion' must be adamw, adam or sgd"),
    (("--score", "accuracy"), "score 'accuracy' must be mean_f1, f1 or dice"),
    (("--ema", "1"), "ema '1' must be a decay"),
    (("--amp", "bf16"), "amp bf16 needs device cuda"),
    (("--ignore", "x"), "ignore 'x' must be"),
    (("--weights", "nothing"), "there is no model 'nothing'"),
    (("--validation-images", "data/images"), "validation_images need validation_labels"),
    (("--validation-labels", "data/labels"), "validation_labels is given without"),
    (
        ("--validation-images", "data/images", "--validation-labels", "data/labels"),
        "is given for training and for validation",
    ),
    (("--images", "missing.tif"), "missing.tif"),
    (("--validation-fraction", "0", "--early-stopping", "2"), "early_stopping needs volumes"),
    (("--resume",), "--resume goes on as OUT/train.yaml says, so it takes no --images"),
]


@pytest.mark.parametrize(("options", "match"), WRONG)
def test_wrong_options(cli, files, options, match):
    cli.refuses("train", "out", *files, *options, match=match)


def test_wrong_data(cli, files, tmp_path):
    path = tmp_path / "data" / "labels" / "c1.tif"
    labels = tifffile.imread(path)
    tifffile.imwrite(path, labels[:, :-1])
    cli.refuses("train", "out", *files, match="have shape .* Give labels of the same shape")
    tifffile.imwrite(path, labels.astype(np.float32))
    cli.refuses("train", "out", *files, match="not integer")
    path.unlink()
    cli.refuses("train", "out", *files, match="no label image|no image|has no")
    for left in (tmp_path / "data" / "labels").glob("*.tif"):
        left.unlink()
    cli.refuses("train", "out", *files, match="holds no TIFF or Zarr")


def test_without_what_is_needed(cli, files):
    cli.refuses("train", "out", match="option images is missing")
    cli.refuses("train", "out", "--images", "data/images", match="needs labels")
    cli.refuses("train", "out", "--config", "none.yaml", match="cannot be read")
    cli.refuses("train", "out", "--resume", match="not the output of a training")


def test_output_folders(cli, files, tmp_path):
    cli.refuses("train", "data", *files, match="holds the input")
    cli.refuses("train", "data/images/out", *files, match="lies in the input")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    cli.refuses("train", "full", *files, "--overwrite", match="not the output of a training")
    cli.refuses("train", "quick.yaml", *files, match="is a file or a link")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(cli, files):
    cli.refuses("train", "out", *files, "--device", "cuda", match="finds 0 GPUs", code=4)


def test_train_and_resume(cli, files, tmp_path):
    said = cli.does("train", "out", *files, "--steps", "3", "--name", "mine", "--licence", "MIT")
    assert "3 steps; best: mean_f1" in said.out
    card = json.loads((tmp_path / "out" / "best.json").read_text())
    assert (card["name"], card["licence"]) == ("mine", "MIT")
    assert card["training"]["command"]
    assert (tmp_path / "out" / "metrics.csv").read_text().count("\n") == 3
    cli.refuses("train", "out", *files, match="--resume; --overwrite replaces it")
    assert "3 steps" in cli.does("train", "out", "--resume").out
    cli.does("train", "out", *files, "--steps", "1", "--overwrite")


def test_labels_of_a_run_folder(cli, files, tmp_path):
    cli.does(
        "segment", "data/images/c0.tif", "run", "--voxel-size", "2,1,1", "--executor", "serial",
        "--spot-sigma", "1", "--outline-sigma", "1",
    )  # fmt: skip
    said = cli.does(
        "train", "out", "--config", "quick.yaml", "--images", "data/images/c0.tif",
        "--labels", "run", "--steps", "1",
    )  # fmt: skip
    assert "not scored" in said.out
    content = yaml.safe_load((tmp_path / "out" / "train.yaml").read_text())
    assert content["labels"] == [str(tmp_path / "run" / "labels.ome.zarr")]
