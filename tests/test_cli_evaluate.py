"""evaluate on the command line: what it prints and writes, and bad input in one line."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
from command_line import listing
from evaluating import labels_pair, stored_pair
from segmenting import store


@pytest.fixture
def pair(tmp_path):
    """True and predicted labels in the working folder."""
    stored_pair(tmp_path, 1)
    return "a_true.zarr", "a_pred.zarr"


def test_tables_and_file(cli, pair, tmp_path):
    said = cli.does("evaluate", *pair, "-o", "scores.json", "--distance", "2um")
    document = json.loads((tmp_path / "scores.json").read_text())
    lines = said.out.splitlines()
    assert lines[0].split() == ["scores"]
    assert lines[1].split()[:4] == ["F1", "at", "0.5", "precision"]
    half = next(s for s in document["matching"] if s["threshold"] == 0.5)
    assert lines[2].split()[:3] == ["a_pred", f"{half['f1']:.3f}", f"{half['precision']:.3f}"]
    assert lines[-1] == "scores scores.json"
    assert "centroids within 2 um" in said.out
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "a_pred.zarr",
        "a_true.zarr",
        "scores.json",
    ]
    again = cli.does("evaluate", *pair, "-o", "scores.json", "--distance", "2um")
    assert again.out == said.out
    assert again.err == ""


def test_nothing_is_kept_without_a_file(cli, pair, tmp_path):
    said = cli.does("evaluate", *pair, "--json")
    assert json.loads(said.out)["n_true"] > 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a_pred.zarr", "a_true.zarr"]


def test_several_predictions_and_images(cli, tmp_path):
    for folder in ("truth", "one", "two"):
        (tmp_path / folder).mkdir()
    for number in range(2):
        true, pred = labels_pair(number)
        tifffile.imwrite(tmp_path / "truth" / f"e{number}.tif", true)
        tifffile.imwrite(tmp_path / "one" / f"e{number}.tif", pred)
        tifffile.imwrite(tmp_path / "two" / f"e{number}.tif", true)
    said = cli.does("evaluate", "truth", "one", "two", "-o", "both.json", "--names", "Ours,Theirs")
    document = json.loads((tmp_path / "both.json").read_text())
    assert [one["name"] for one in document["predictions"]] == ["Ours", "Theirs"]
    assert [len(one["images"]) for one in document["predictions"]] == [2, 2]
    assert "Theirs, pooled" in said.out
    assert "images of Ours" in said.out
    (tmp_path / "two" / "e1.tif").unlink()
    cli.refuses("evaluate", "truth", "two", match=r"labels_true .*e1.tif has no labels_pred")
    (tmp_path / "two" / "e0.tif").rename(tmp_path / "two" / "other.tif")
    (tmp_path / "two" / "x.tif").write_bytes((tmp_path / "two" / "other.tif").read_bytes())
    cli.refuses("evaluate", "truth", "two", match="has no labels_pred among the 2 given")


@pytest.mark.parametrize(
    ("more", "match"),
    [
        (("--region", "0:99,0:3,0:3"), "region 0:99,0:3,0:3 is not inside"),
        (("--region", "3:1,0:3,0:3"), "region .* must be z0:z1"),
        (("--boxes", "0:2,0:2,0:99"), "box 0:2,0:2,0:99 is not inside"),
        (("--boxes", "0:2,0:2"), "boxes .* must be boxes"),
        (("--boxes", "none.csv"), "boxes none.csv cannot be read"),
        (("--mask", "small.zarr"), r"mask .* has shape \(20, 14, 17\)"),
        (("--mask", "none.zarr"), "none.zarr does not exist"),
        (("--regions", "float.zarr"), "regions image .* is float32, not integer"),
        (("--ignore", "x"), "ignore 'x' must be a whole number"),
        (("--thresholds", "0.5,2"), "thresholds '0.5,2' must be numbers above 0"),
        (("--criteria", "dice"), "criteria 'dice' must be some of iou"),
        (("--distance", "far"), "distance 'far' must be a length"),
        (("--distance", "0"), "distance 0 must be above 0"),
        (("--level", "2"), "no level 2"),
        (("--time", "3"), "time"),
        (("--names", "a,b"), "1 different names"),
        (("--voxel-size", "1,0,1"), "voxel_size"),
        (("-o", "none/b.json"), "there is no folder"),
        (("-o", "a_pred.zarr"), "output .* is the input|lies in|exists"),
        (("-o", "a_pred.zarr/x.json"), "lies in the input"),
        (("--memory-limit", "1MB"), "GiB"),
    ],
)  # fmt: skip
def test_options_that_cannot_be_used(cli, pair, tmp_path, more, match):
    store(tmp_path / "small.zarr", np.ones((20, 14, 17), np.uint8))
    store(tmp_path / "float.zarr", labels_pair(1)[0].astype(np.float32))
    out = () if "-o" in more else ("-o", "scores.json")
    cli.refuses("evaluate", *pair, *out, *more, match=match)


def test_labels_that_cannot_be_used(cli, pair, tmp_path):
    true, _ = labels_pair(1)
    store(tmp_path / "float.zarr", true.astype(np.float32))
    store(tmp_path / "shape.zarr", true[:-1])
    store(tmp_path / "negative.zarr", np.where(true > 0, true.astype(np.int32), -7))
    store(tmp_path / "size.zarr", true, (2.0, 1.0, 1.0))
    store(tmp_path / "channels.zarr", np.stack([true, true]), channels=("a", "b"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.csv").write_text("a,b\n1,2\n")
    for name, match in (
        ("none.zarr", "none.zarr does not exist"),
        ("float.zarr", "labels_pred .*float.zarr is float32, not integer"),
        ("shape.zarr", r"labels_true .* has shape \(11, .*labels_pred .* \(10, "),
        ("size.zarr", "voxels of 1,1,1 um, labels_pred .* of 2,1,1 um"),
        ("channels.zarr", "has 2 channels; a label image has one"),
        ("empty", "folder .*empty holds no TIFF or Zarr"),
        ("*.nothing", "no TIFF or Zarr matches"),
    ):
        cli.refuses("evaluate", pair[0], name, "-o", "scores.json", match=match)
    before = listing(tmp_path)
    said = cli("evaluate", pair[0], "negative.zarr", "-o", "scores.json")
    assert said.code == 2
    assert "has the label -7; labels must not be negative" in said.error
    # the folder of the journal was there while it was read
    changed = {path for path, status in listing(tmp_path).items() if before.get(path) != status}
    assert changed == {str(tmp_path / ".")}
    cli.refuses("evaluate", "empty", pair[1], match="holds no TIFF or Zarr")
    cli.refuses("evaluate", "text.csv", pair[1], match="no columns z, y and x")
    cli.refuses("evaluate", pair[0], match="Missing argument")


def test_a_run_that_is_not_finished(cli, run_folder, tmp_path):
    status = json.loads((run_folder / "run.json").read_text())
    (run_folder / "run.json").write_text(json.dumps(status | {"status": "failed"}))
    cli.refuses("evaluate", "run/labels.ome.zarr", "run", match="run .* is failed.*resume")
