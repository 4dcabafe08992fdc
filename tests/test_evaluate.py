"""evaluate: the same scores from any cut, store and cluster, of what is counted only."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import tifffile
import zarr
from evaluating import SHAPE, labels_pair, scores_only, stored_pair
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from segmenting import store

from cellseg3d_dist import evaluate
from cellseg3d_dist.engine.stages import score
from cellseg3d_dist.errors import (
    BadInputError,
    BlocksFailedError,
    ConfigError,
    LabelsError,
    MemoryLimitError,
    OutputError,
)
from cellseg3d_dist.evaluation.boxes import read_boxes
from cellseg3d_dist.grid import Region
from cellseg3d_dist.metrics.boxes import thesis_score_of
from cellseg3d_dist.metrics.contingency import contingency
from cellseg3d_dist.metrics.datasets import summarise_images
from cellseg3d_dist.metrics.points import match_points
from cellseg3d_dist.metrics.precision import Confidences
from cellseg3d_dist.metrics.summary import summarise
from cellseg3d_dist.volumes import create_image, open_volume


def plain(true, pred, **more):
    """The document of arrays, counted in one piece."""
    return scores_only(as_json(summarise(contingency(true, pred), **more).to_dict()))


def as_json(value):
    return json.loads(json.dumps(value))


def found(*arguments, **options):
    return scores_only(as_json(evaluate(*arguments, **options).to_dict()))


sides = st.tuples(*(st.integers(3, n + 2) for n in SHAPE))


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(sides, st.integers(0, 50), st.data())
def test_blocks_do_not_show(block_shape, seed, data):
    true, pred = labels_pair(seed)
    rng = np.random.default_rng(seed)
    within = np.ones(SHAPE, bool)
    options = {}
    if data.draw(st.booleans(), "mask"):
        options["mask"] = (rng.random(SHAPE) < 0.7).astype(np.uint8)
        within &= options["mask"] > 0
    if data.draw(st.booleans(), "boxes"):
        corners = [sorted(rng.integers(0, n, (2, 2))[0].tolist()) for n in SHAPE * 2]
        boxes = [[(a, b + 1) for a, b in corners[:3]], [(a, b + 1) for a, b in corners[3:]]]
        options["boxes"] = boxes
        inside = np.zeros(SHAPE, bool)
        for box in boxes:
            inside[tuple(slice(a, b) for a, b in box)] = True
        within &= inside
    if data.draw(st.booleans(), "ignore"):
        options["ignore"] = int(rng.choice(np.unique(true)))
        within &= true != options["ignore"]
    if data.draw(st.booleans(), "region"):
        options["region"] = [(1, 9), (0, 14), (3, 12)]
        outside = np.ones(SHAPE, bool)
        outside[1:9, :, 3:12] = False
        within &= ~outside
        if "boxes" in options and not inside[1:9, :, 3:12].any():
            with pytest.raises(ConfigError, match="no box has a voxel"):
                evaluate(true, pred, **options)
            return
    got = found(true, pred, block_shape=block_shape, **options)
    assert got == as_json(plain(true[within], pred[within]))


def test_whatever_holds_the_labels(tmp_path):
    true, pred = labels_pair(3)
    expected = plain(true, pred)
    paths = stored_pair(tmp_path, 3, voxel_size=(2.0, 1.0, 1.0))
    tifffile.imwrite(tmp_path / "pred.tif", pred)
    tifffile.imwrite(tmp_path / "wide.tif", pred.astype(np.uint16))
    zarr.save_array(tmp_path / "plain.zarr", true)
    lazy = da.from_array(true, (4, 5, 6))
    for one, other in (
        paths,
        (paths[0], tmp_path / "pred.tif"),
        (tmp_path / "plain.zarr", tmp_path / "wide.tif"),
        (zarr.open_array(tmp_path / "plain.zarr"), pred),
        (lazy, paths[1]),
        (lazy.astype(np.int64), da.from_array(pred.astype(">u8"), (3, 14, 17))),
    ):
        assert found(one, other, block_shape=(6, 9, 9)) == expected


def test_a_cluster_finds_the_same(tmp_path, client_of):
    paths = stored_pair(tmp_path, 4)
    mask = store(tmp_path / "mask.zarr", (np.indices(SHAPE).sum(0) % 3 > 0).astype(np.uint8))
    options = {"mask": mask, "block_shape": (4, 5, 6), "distance": "3um"}
    out = tmp_path / "scores.json"
    one = evaluate(*paths, out, client=client_of(2), **options)
    assert one.executed == 27
    assert scores_only(as_json(one.to_dict())) == found(*paths, **options)
    assert scores_only(json.loads(out.read_text())) == scores_only(as_json(one.to_dict()))
    assert not list(tmp_path.glob("*.progress"))


def test_wide_and_signed_ids(tmp_path):
    true, pred = labels_pair(5)
    wide = np.where(true > 0, true.astype(np.uint64) + np.uint64(2**40), 0)
    assert found(wide, pred.astype(np.int64)) == plain(true, pred)


@pytest.mark.parametrize("shape", [(0, 3, 4), (1, 1, 1)])
def test_next_to_nothing(shape):
    empty = np.zeros(shape, np.uint16)
    got = evaluate(empty, empty)
    assert (got["n_true"], got["n_pred"], got["voxels"]) == (0, 0, empty.size)


def test_negative_labels_are_refused_and_can_be_ignored(tmp_path):
    true, pred = labels_pair(6, dtype=np.int32)
    true[2:4] = -1
    path = store(tmp_path / "true.zarr", true)
    with pytest.raises(LabelsError, match="has the label -1; labels must not be negative"):
        evaluate(path, pred, tmp_path / "scores.json")
    assert [p.name for p in tmp_path.iterdir()] == ["true.zarr"]
    kept = true >= 0
    assert found(path, pred, ignore=-1) == plain(true[kept], pred[kept])


def test_a_mask_may_be_coarser(tmp_path):
    true, pred = labels_pair(7, shape=(8, 12, 16))
    mask = np.random.default_rng(0).integers(0, 2, (4, 6, 4)).astype(np.uint8)
    within = mask.repeat(2, 0).repeat(2, 1).repeat(4, 2) > 0
    assert found(true, pred, mask=mask, block_shape=(3, 3, 3)) == plain(true[within], pred[within])


def test_cells_of_regions():
    true, pred = np.zeros((2, 2, 9, 12), np.uint16)
    regions = np.zeros((2, 9, 12), np.uint8)
    regions[..., :6], regions[..., 6:10] = 1, 4
    true[:, :2, 4:7] = 1  # more of it in region 1
    true[:, 4:6, 8:12] = 2  # half in 4, half outside: the lower label
    pred[:, 7:, 7:9] = 1
    pred[:, :2, 2:5] = 2
    got = evaluate(true, pred, regions=regions, block_shape=(1, 4, 5))["regions"]
    assert [(r["region"], r["n_true"], r["n_pred"], r["error"]) for r in got] == [
        (0, 1, 0, -1), (1, 1, 1, 0), (4, 0, 1, 1),
    ]  # fmt: skip


def test_classes():
    true, pred = labels_pair(8)
    true, pred = true % 3 + (true > 0), pred % 3
    got = evaluate(true, pred, classes=True, block_shape=(4, 4, 4))["classes"]
    for one in got:
        a, b = true == one["label"], pred == one["label"]
        assert one["dice"] == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()), abs=1e-12)


@pytest.mark.parametrize("block_shape", [(3, 4, 5), (11, 14, 17)])
def test_the_thesis_score(block_shape):
    true, pred = labels_pair(20)
    mask = (np.indices(SHAPE)[2] < 13).astype(np.uint8)
    options = {"thesis": True, "block_shape": block_shape}
    assert evaluate(true, pred, **options)["thesis"] == thesis_score_of(true, pred)
    got = evaluate(true, pred, mask=mask, boxes="0:9,0:14,0:17", **options)["thesis"]
    inside = (mask > 0) & (np.indices(SHAPE)[0] < 9)
    assert got == thesis_score_of(np.where(inside, true, 0), np.where(inside, pred, 0))
    empty = np.zeros_like(true)
    several = evaluate([true, empty], [pred, empty], **options)
    assert several["thesis"] == pytest.approx(thesis_score_of(true, pred), abs=1e-12)


def test_average_precision_by_confidence(tmp_path):
    true, pred = labels_pair(21)
    labels = np.unique(pred[pred > 0])
    values = np.random.default_rng(0).random(len(labels))
    rows = "".join(f"{a},{b}\n" for a, b in zip(labels, values, strict=True))
    (tmp_path / "sure.csv").write_text(f"label,score\n{rows}")
    wanted = summarise(contingency(true, pred), confidences=Confidences(labels, values)).to_dict()
    got = evaluate(true, pred, confidences=tmp_path / "sure.csv")
    assert got["average_precision"] == as_json(wanted["average_precision"])
    (tmp_path / "few.csv").write_text("label,score\n1,0.5\n")
    (tmp_path / "none.csv").write_text("id,score\n1,0.5\n")
    for name, match in (("few.csv", "have no confidence"), ("none.csv", "columns label and score")):
        with pytest.raises(BadInputError, match=match):
            evaluate(true, pred, confidences=tmp_path / name)
    with pytest.raises(ConfigError, match="of one volume"):
        evaluate([true], [pred], confidences=tmp_path / "sure.csv")


def test_thresholds_and_criteria():
    true, pred = labels_pair(9)
    got = evaluate(true, pred, thresholds="0.75,0.5", criteria=["iop"])["matching"]
    assert [(s["criterion"], s["threshold"]) for s in got] == [("iop", 0.5), ("iop", 0.75)]


def test_data_sets_are_pooled_and_averaged(tmp_path):
    pairs = [labels_pair(seed) for seed in range(3)]
    (tmp_path / "truth").mkdir()
    (tmp_path / "found").mkdir()
    for number, (true, pred) in enumerate(pairs):
        tifffile.imwrite(tmp_path / "truth" / f"e{number}.tif", true)
        store(tmp_path / "found" / f"e{number}_labels.zarr", pred)
    each = [summarise(contingency(*pair)) for pair in pairs]
    whole = as_json(summarise_images(each, [contingency(*p) for p in pairs]).to_dict())
    got = evaluate(tmp_path / "truth", tmp_path / "found", block_shape=(5, 9, 9)).to_dict()
    assert [image["name"] for image in got["images"]] == ["e0", "e1", "e2"]
    assert [scores_only(as_json(i)) for i in got["images"]] == [plain(*pair) for pair in pairs]
    for document in (got, whole):
        document.pop("images")
    assert scores_only(as_json(got)) == scores_only(whole)
    by_list = evaluate([t for t, _ in pairs], [p for _, p in pairs]).to_dict()
    assert by_list["matching"] == got["matching"]
    assert by_list["mean"] == got["mean"]


def test_several_predictions_have_names(tmp_path):
    true, pred = labels_pair(10)
    several = evaluate(true, [pred, np.zeros_like(pred)])
    assert [one["name"] for one in several.predictions] == ["prediction (1)", "prediction (2)"]
    named = evaluate(true, {"ours": pred, "none": np.zeros_like(pred)})
    assert [(one["name"], one["n_pred"] > 0) for one in named.to_dict()["predictions"]] == [
        ("ours", True), ("none", False),
    ]  # fmt: skip
    for folder in ("one", "two"):
        store(tmp_path / folder / "labels.ome.zarr", pred)
    paths = [tmp_path / folder / "labels.ome.zarr" for folder in ("one", "two")]
    assert [one["name"] for one in evaluate(true, paths).predictions] == ["one", "two"]
    with pytest.raises(ConfigError, match="2 different names"):
        evaluate(true, paths, names=["a", "a"])


def test_an_interrupted_call_goes_on(tmp_path, monkeypatch):
    paths, out = stored_pair(tmp_path, 11), tmp_path / "scores.json"
    options = {"block_shape": (5, 5, 6)}
    real, written = score.write_record, []

    def dies(path, **arrays):
        if len(written) == 4:
            raise SystemExit(9)
        written.append(path)
        return real(path, **arrays)

    monkeypatch.setattr(score, "write_record", dies)
    with pytest.raises(SystemExit):
        evaluate(*paths, out, **options)
    monkeypatch.undo()
    assert not out.exists()
    # one of the finished tables is damaged
    written[0].write_bytes(b"c3dr....")
    with pytest.raises(OutputError, match="begun with other options"):
        evaluate(*paths, out, ignore=3, **options)
    again = evaluate(*paths, out, **options)
    assert again.executed == 27 - 3
    assert scores_only(as_json(again.to_dict())) == found(*paths)
    assert not out.with_name("scores.json.progress").exists()


def test_killed_and_given_again(tmp_path):
    paths, out = stored_pair(tmp_path, 12), tmp_path / "scores.json"
    line = [sys.executable, "-m", "cellseg3d_dist", "evaluate", *paths, "-o", str(out)]
    line += ["--block-shape", "2,2,2"]
    journal = tmp_path / "scores.json.progress" / "journal" / "score.jsonl"
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    began = time.monotonic()
    while not journal.exists() or journal.stat().st_size < 3000:
        assert time.monotonic() - began < 60
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not out.exists()
    again = evaluate(*paths, out, block_shape=(2, 2, 2))
    assert 0 < again.executed < 6 * 7 * 9
    assert scores_only(as_json(again.to_dict())) == found(*paths)


def test_a_finished_one_is_not_redone(tmp_path):
    paths, out = stored_pair(tmp_path, 13), tmp_path / "scores.json"
    first = evaluate(*paths, out)
    before = out.read_bytes()
    again = evaluate(*paths, str(out))
    assert (again.executed, out.read_bytes()) == (0, before)
    assert as_json(again.to_dict()) == as_json(first.to_dict())
    with pytest.raises(OutputError, match="ignore was not set and is 3"):
        evaluate(*paths, out, ignore=3)
    store(Path(paths[1]) / ".." / "b_pred.zarr", labels_pair(14)[1])
    with pytest.raises(OutputError, match=r"labels_pred was .*a_pred.zarr and is .*b_pred.zarr"):
        evaluate(paths[0], tmp_path / "b_pred.zarr", out)
    assert out.read_bytes() == before
    assert evaluate(*paths, out, ignore=3, overwrite=True).executed
    os.utime(Path(paths[1]) / "0" / "zarr.json")
    (Path(paths[1]) / "0" / "zarr.json").write_text(
        (Path(paths[1]) / "0" / "zarr.json").read_text() + " "
    )
    with pytest.raises(OutputError, match="the files have changed"):
        evaluate(*paths, out, ignore=3)
    out.write_text('{"mine": 1}')
    with pytest.raises(OutputError, match="not written by evaluate"):
        evaluate(*paths, out, overwrite=True)


def test_a_damaged_chunk_is_no_background(tmp_path):
    paths, out = stored_pair(tmp_path, 15), tmp_path / "scores.json"
    shard = next(p for p in Path(paths[1]).rglob("*") if p.is_file() and p.name == "0")
    data = bytearray(shard.read_bytes())
    data[len(data) // 3] ^= 255
    shard.write_bytes(bytes(data))
    with pytest.raises(BlocksFailedError, match=r"1 blocks of .*scores.json failed"):
        evaluate(*paths, out)
    assert not out.exists()


def test_levels(tmp_path):
    true, pred = labels_pair(16, shape=(16, 32, 32))
    image = store(tmp_path / "true.zarr", true)
    half = store(tmp_path / "half.zarr", pred[:, ::2, ::2], voxel_size=(1.0, 2.0, 2.0))
    with pytest.raises(BadInputError, match="has no level 1; its levels are 0 to 0"):
        evaluate(image, half, level=1)
    with pytest.raises(ConfigError, match=r"shape \(16, 32, 32\).*\(16, 16, 16\)"):
        evaluate(image, half)


def test_a_prediction_at_a_level_of_its_own(tmp_path):
    true, _ = labels_pair(16, shape=(64, 64, 64))
    stored = create_image(
        tmp_path / "true.zarr", shape=true.shape, dtype=true.dtype, block_shape=(32, 32, 32),
        voxel_size=(1, 1, 1), n_levels=2, kind="labels",
    )  # fmt: skip
    for block in stored.levels[0].grid.blocks():
        stored.levels[0].write(block.write_region, true[block.write_region.slices])
    for block in stored.levels[1].grid.blocks():
        stored.write_level_block(1, block.write_region)
    coarse = open_volume(tmp_path / "true.zarr", level=1)
    half = coarse.read(Region.whole(coarse.shape))
    path = store(tmp_path / "half.zarr", half, coarse.voxel_size)
    assert found(tmp_path / "true.zarr", path, level=1) == plain(half, half)
    # both have the level
    both = evaluate(tmp_path / "true.zarr", tmp_path / "true.zarr", level=1)
    assert both["voxels"] == half.size


def test_labels_of_a_region_fit_that_region(tmp_path):
    true, pred = labels_pair(17)
    part = (slice(2, 9), slice(0, 14), slice(5, 15))
    got = found(true, pred[part], region="2:9,0:14,5:15")
    assert got == plain(true[part], pred[part])


def test_memory_decides_the_blocks(tmp_path, monkeypatch):
    paths = stored_pair(tmp_path, 18)
    with pytest.raises(MemoryLimitError, match="over 80% of the memory_limit"):
        evaluate(*paths, memory_limit="100MB")
    assert [p.suffix for p in tmp_path.iterdir()] == [".zarr", ".zarr"]


def test_points_and_centroids(tmp_path):
    true, pred = labels_pair(19)
    size = (2.0, 1.0, 0.5)
    paths = stored_pair(tmp_path, 19, voxel_size=size)

    def centroids(labels):
        ids = np.unique(labels[labels > 0])
        return np.array([np.argwhere(labels == one).mean(0) for one in ids]) * size

    expected = as_json(vars(match_points(centroids(true), centroids(pred), 2.5)))
    got = evaluate(*paths, distance="2.5um", block_shape=(4, 5, 6))["points"]
    assert got == pytest.approx(expected)
    rows = "\n".join(",".join(map(str, row / size)) for row in centroids(true))
    (tmp_path / "true.csv").write_text(f"z,y,x\n{rows}\n")
    listed = evaluate(tmp_path / "true.csv", paths[1], distance="2.5um", block_shape=(4, 5, 6))
    assert listed["points"] == pytest.approx(expected)
    assert listed["matching"] == []
    both = evaluate(tmp_path / "true.csv", tmp_path / "true.csv", voxel_size=size)
    assert both["points"]["f1"] == 1.0
    # of a part, with the points that lie in it
    mask = (np.indices(SHAPE)[1] < 8).astype(np.uint8)
    region = ((1, 10), (0, 14), (4, 17))
    inside = (mask > 0)[1:10, :, 4:]
    parts = [np.where(inside, a[1:10, :, 4:], 0) for a in (true, pred)]
    voxel = np.floor(centroids(true) / size + 0.5).astype(int) - (1, 0, 4)
    fits = ((voxel >= 0) & (voxel < inside.shape)).all(1)
    fits[fits] = inside[tuple(voxel[fits].T)]
    kept = centroids(true)[fits] - np.array((1, 0, 4)) * size
    wanted = match_points(kept, centroids(parts[1]), 2.5)
    got = evaluate(
        tmp_path / "true.csv", paths[1], mask=mask, region=region, distance="2.5um",
        block_shape=(4, 5, 6),
    )  # fmt: skip
    assert got["points"] == pytest.approx(as_json(vars(wanted)))
    with pytest.raises(ConfigError, match="classes need true labels"):
        evaluate(tmp_path / "true.csv", paths[1], classes=True)


def test_boxes_as_text_and_files(tmp_path):
    assert read_boxes("0:1,2:3,4:5; 1:2,3:4,5:6") == ["0:1,2:3,4:5", "1:2,3:4,5:6"]
    (tmp_path / "a.csv").write_text("name,z0,z1,y0,y1,x0,x1\na,0,1,2,3,4,5\n")
    (tmp_path / "a.json").write_text("[[[0, 1], [2, 3], [4, 5]]]")
    assert read_boxes(tmp_path / "a.csv") == [((0, 1), (2, 3), (4, 5))]
    assert read_boxes(str(tmp_path / "a.json")) == [[[0, 1], [2, 3], [4, 5]]]
    assert read_boxes([[0, 1], [2, 3], [4, 5]]) == [[[[0, 1], [2, 3], [4, 5]]]][0]
    (tmp_path / "b.csv").write_text("z0,z1,y0,y1,x0,x1\n0,1,2,3,4,x\n")
    for wrong, match in (
        (tmp_path / "b.csv", "line 2"),
        (tmp_path / "none.csv", "cannot be read"),
        ("", "hold no box"),
    ):
        with pytest.raises(ConfigError, match=match):
            read_boxes(wrong)


def test_a_run_is_scored_as_it_scored_itself(finished, tmp_path):
    labels = open_volume(finished / "run" / "labels.ome.zarr")
    true = labels.read(Region.whole(labels.shape))
    got = evaluate(true, finished / "run")
    assert got["matching"][0]["f1"] == 1.0
    assert got["name"] == "run"
    assert got["n_true"] == got["n_pred"] == len(np.unique(true)) - 1
