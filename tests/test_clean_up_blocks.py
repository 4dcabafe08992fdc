"""Clean-up across blocks: no cut shows in any step, whatever fails on the way."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
import yaml
from cleaning import clean_up_in_blocks, named
from decoding import Failing
from hypothesis import given, settings
from hypothesis import strategies as st
from segmenting import labels_of, run, store

from cellseg3d_dist.config import make_config
from cellseg3d_dist.engine.clean_up_plan import check_clean_up
from cellseg3d_dist.engine.executors import DaskExecutor
from cellseg3d_dist.engine.folder import RunFolder
from cellseg3d_dist.errors import ConfigError
from cellseg3d_dist.instances.clean_up import clean_up
from cellseg3d_dist.segmentation import plan, relabel, resume, running, segment
from cellseg3d_dist.volumes import open_volume

#: Each step in ways that matter, and chains of them.
STEPS = [
    "closing=1", "closing=2", "closing=3", "fill-holes", "fill-holes=3", "merge-touching=2:5",
    "merge-touching=3:6::brightest-first", "smooth=1", "smooth=2", "split", "split=18",
    "split=26", "size=3:9", "artifacts=5", "clear-border", "clear-border=y",
    "split,closing=1,split=26", "fill-holes,smooth=1,merge-touching=2:5,size=4:",
    "closing=2,fill-holes,split,clear-border=zx", "smooth=1,smooth=1,merge-touching=0,split",
]  # fmt: skip
CHAIN = "closing=2,fill-holes,merge-touching=2.5:3.5,smooth=1,split=26,size=3,clear-border=z"


def blocked_equals_whole(folder, labels, steps, block_shape, **options):
    """Clean up in blocks, hold it against the whole, and give both back."""
    labels, names = named(labels)
    image = options.setdefault("image", np.zeros(labels.shape, np.uint8))
    arrays = {"image": image, "within": options.get("mask")}
    if arrays["within"] is not None:
        labels, names = named(labels * arrays["within"])
    size = {"voxel_size": options["voxel_size"]} if "voxel_size" in options else {}
    whole = clean_up(labels, steps, **arrays, **size)
    found = clean_up_in_blocks(folder, labels, names, steps, block_shape, **options)
    assert not found.failed
    np.testing.assert_array_equal(found.labels, whole)
    return found, whole


@given(
    shape=st.tuples(*[st.integers(1, 11)] * 3),
    blocks=st.tuples(*[st.integers(1, 3)] * 3),
    steps=st.sampled_from(STEPS),
    coarse=st.booleans(),
    masked=st.sampled_from([False, False, True]),
    dtype=st.sampled_from([np.uint8, np.float32]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=15, deadline=None)
def test_no_cut_shows(tmp_path_factory, shape, blocks, steps, coarse, masked, dtype, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(1, rng.integers(2, 6), shape)
    labels = labels * (rng.random(shape) < rng.choice([0.3, 0.6, 0.9]))
    if coarse:
        labels = np.kron(labels[:5, :5, :5], np.ones((2, 2, 2), int))
    image = (rng.integers(0, 9, labels.shape) * 1.37).astype(dtype)
    mask = rng.random(labels.shape) < 0.9 if masked else None
    block_shape = tuple(-(-n // b) for n, b in zip(labels.shape, blocks, strict=True))
    folder = tmp_path_factory.mktemp("cut") / "out"
    blocked_equals_whole(folder, labels, steps, block_shape, image=image, mask=mask)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("steps", STEPS)
def test_no_cut_shows_in_many_volumes(tmp_path, steps):
    rng = np.random.default_rng(len(steps))
    for number in range(30):
        shape = tuple(rng.integers(1, 20, 3))
        labels = rng.integers(1, rng.integers(2, 9), shape)
        labels = labels * (rng.random(shape) < rng.choice([0.3, 0.6, 0.9, 1]))
        if number % 2:
            labels = np.kron(labels[:6, :6, :6], np.ones((3, 3, 3), int))
        image = (rng.integers(0, 9, labels.shape) * 1.37).astype(np.float32)
        mask = rng.random(labels.shape) < 0.9 if number % 5 == 0 else None
        cut = tuple(-(-np.array(labels.shape) // rng.integers(1, 5, 3)))
        blocked_equals_whole(tmp_path / str(number), labels, steps, cut, image=image, mask=mask)


def balls(shape, n, radius, seed=0):
    """Touching balls with holes in them, some of them with two or three parts."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform(0, shape, (n, 3))
    at = np.indices(shape).reshape(3, -1).T
    distance = np.linalg.norm(at[:, None] - centres, axis=2)
    labels = (distance.argmin(1) % max(1, n - 3) + 1) * (distance.min(1) < radius)
    labels *= (distance.min(1) > 1.6) | (distance.argmin(1) % 3 > 0)
    labels = labels.reshape(shape)
    # no cell on the faces across z
    labels[0] = labels[-1] = 0
    return labels


def levels(labels):
    """An image in which every cell has a value of its own."""
    return np.random.default_rng(2).integers(0, 9, labels.max() + 1)[labels].astype(np.uint16)


def test_cells_that_span_27_blocks(tmp_path):
    labels = balls((18, 18, 18), 12, 6.5)
    image = levels(labels)
    for number, cut in enumerate([(6, 6, 6), (5, 18, 7)]):
        found, whole = blocked_equals_whole(tmp_path / str(number), labels, CHAIN, cut, image=image)
        assert 1 < whole.max() < labels.max()
        assert [fact["step"] for fact in found.facts] == CHAIN.split(",")
        assert found.facts[-1]["cells_after"] == whole.max()


def spiral(side):
    """A cell that winds through every block, with another along its inside."""
    labels = np.zeros((side,) * 3, int)
    for z in range(1, side - 1, 4):
        labels[z, 1 : side - 1, 1 : side - 1] = 1
        labels[z, 2 : side - 2 : 3, 2:-2] = 0
    for number, z in enumerate(range(1, side - 5, 4)):
        y = 1 if number % 2 else side - 2
        labels[z : z + 5, y, y] = 1
    return labels


@pytest.mark.parametrize("steps", ["split,smooth=1", "fill-holes,split=26", "closing=1,split"])
def test_a_spiral_through_every_block(tmp_path, steps):
    labels = spiral(14)
    _, whole = blocked_equals_whole(tmp_path / "out", labels, steps, (4, 5, 4))
    assert whole.max() >= 1
    # one cell, whose parts only meet through many blocks
    if steps.endswith("split"):
        assert whole.max() == 1


@pytest.mark.parametrize("steps", STEPS)
def test_a_volume_that_is_one_cell(tmp_path, steps):
    labels = np.ones((6, 7, 8), int)
    _, whole = blocked_equals_whole(tmp_path / "out", labels, steps, (3, 7, 4))
    assert whole.max() == (0 if any(s in steps for s in ("clear", "artif", "size=3:9")) else 1)


def test_a_hole_that_fills_whole_blocks(tmp_path):
    labels = np.zeros((20, 20, 20), int)
    labels[1:19, 1:19, 1:19] = 1
    labels[3:17, 3:17, 3:17] = 0
    found, whole = blocked_equals_whole(tmp_path / "out", labels, "fill-holes", (5, 5, 5))
    assert (whole[1:19, 1:19, 1:19] == 1).all()
    assert found.facts[0]["holes"] == 1
    # blocks of background alone are enclosed, so they are looked at
    assert found.executed["holes-1"] == 64
    labels[1:4, 10, 10] = 0
    _, opened = blocked_equals_whole(tmp_path / "opened", labels, "fill-holes", (5, 5, 5))
    np.testing.assert_array_equal(opened, labels)
    # another cell in the hole
    labels[1:4, 10, 10], labels[9, 9, 9] = 1, 2
    _, shared = blocked_equals_whole(tmp_path / "shared", labels, "fill-holes", (5, 5, 5))
    np.testing.assert_array_equal(shared > 0, labels > 0)


def test_background_that_reaches_a_face_is_not_looked_at(tmp_path):
    labels = np.zeros((20, 20, 20), int)
    labels[1:4, 1:4, 1:4] = 1
    labels[2, 2, 2] = 0
    found, whole = blocked_equals_whole(tmp_path / "out", labels, "fill-holes", (5, 5, 5))
    assert whole[2, 2, 2] == 1
    assert found.executed["holes-1"] == 1


def test_contacts_at_corners_of_blocks_alone(tmp_path):
    labels = np.zeros((8, 8, 8), int)
    labels[2:4, 2:4, 2:4] = labels[4:6, 4:6, 4:6] = labels[4:6, 2:4, 4:6] = 1
    for k, n in ((6, 2), (18, 1), (26, 1)):
        _, whole = blocked_equals_whole(tmp_path / str(k), labels, f"split={k}", (4, 4, 4))
        assert whole.max() == n
    labels[4:6, 2:4, 4:6] = 0
    for k, n in ((6, 2), (18, 2), (26, 1)):
        _, whole = blocked_equals_whole(tmp_path / f"2 {k}", labels, f"split={k}", (4, 4, 4))
        assert whole.max() == n
    image = np.full(labels.shape, 5, np.uint8)
    labels[4:6, 4:6, 4:6] = 2
    _, whole = blocked_equals_whole(
        tmp_path / "m", labels, "merge-touching=5", (4, 4, 4), image=image
    )
    assert whole.max() == 2


def test_lengths_in_micrometres(tmp_path):
    labels = balls((9, 14, 14), 9, 4)
    size = (2.0, 1.0, 0.5)
    steps = "smooth=2um,size=8um3:,fill-holes=9um3,artifacts=300um3"
    blocked_equals_whole(tmp_path / "out", labels, steps, (4, 5, 6), voxel_size=size)


def test_a_run_that_is_stopped_anywhere_ends_the_same(tmp_path):
    labels, names = named(balls((12, 12, 12), 9, 4.5))
    image = levels(labels)
    whole = clean_up(labels, CHAIN, image=image)
    out, sittings = tmp_path / "out", 0
    while True:
        executor = Failing(last=20 + 25 * sittings)
        try:
            found = clean_up_in_blocks(
                out, labels, names, CHAIN, (6, 6, 6), image=image, executor=executor
            )
        except KeyboardInterrupt:
            sittings += 1
            continue
        break
    assert sittings > 2
    np.testing.assert_array_equal(found.labels, whole)
    again = clean_up_in_blocks(out, labels, names, CHAIN, (6, 6, 6), image=image)
    assert sum(again.executed.values()) == 0
    np.testing.assert_array_equal(again.labels, whole)


def test_blocks_that_fail_are_background_and_mended_when_resumed(tmp_path):
    labels, names = named(balls((12, 12, 12), 9, 4.5))
    image = levels(labels)
    whole = clean_up(labels, CHAIN, image=image)
    bad = {"closing-1": (1,), "holes-2": (5,), "borders-3": (3,), "split-contacts-5": (6,)}
    out = tmp_path / "out"
    found = clean_up_in_blocks(
        out, labels, names, CHAIN, (6, 6, 6), image=image, executor=Failing(bad)
    )
    assert sorted(found.failed) == [1, 3, 5, 6]
    for z, y, x in [(0, 0, 6), (6, 0, 6), (0, 6, 6), (6, 6, 0)]:
        assert (found.labels[z : z + 6, y : y + 6, x : x + 6] == 0).all()
    mended = clean_up_in_blocks(out, labels, names, CHAIN, (6, 6, 6), image=image)
    assert not mended.failed
    np.testing.assert_array_equal(mended.labels, whole)


def test_workers_do_the_same(tmp_path, client_of):
    labels, names = named(balls((12, 12, 12), 9, 4.5))
    whole = clean_up(labels, "closing=1,fill-holes,split,clear-border=z")
    executor = DaskExecutor(client_of(2))
    found = clean_up_in_blocks(
        tmp_path / "out", labels, names, "closing=1,fill-holes,split,clear-border=z", (6, 12, 6),
        executor=executor, stored=True,
    )  # fmt: skip
    np.testing.assert_array_equal(found.labels, whole)


SAID = [
    "closing=2", "fill-holes", "merge-touching=900", "smooth=1", "split", "size=20",
    "clear-border=yx",
]  # fmt: skip
QUICK = {"spot_sigma": "1", "outline_sigma": "0.65", "voxel_size": (5, 5.26, 5.26)}


@pytest.fixture
def no_report(monkeypatch):
    monkeypatch.setattr(running, "write_run_report", lambda *args, **kwargs: None)


def test_a_crop_of_mouse_brain(shared_data, tmp_path, no_report):
    image = tifffile.imread(shared_data / "mouse_brain_mesospim" / "c5image.tif")[:20, :60, :50]
    path = store(tmp_path / "image.ome.zarr", image.copy(), block_shape=(16, 32, 32))
    plain = run(path, tmp_path / "plain", block_shape=(64, 128, 128), **QUICK).labels
    steps = "closing=2,fill-holes,merge-touching=900,smooth=1,split,size=20:,clear-border=yx"
    whole = clean_up(plain, steps, image=image, voxel_size=QUICK["voxel_size"])
    assert 10 < whole.max() < plain.max()
    found = run(path, tmp_path / "found", block_shape=(11, 32, 29), clean_up=steps, **QUICK)
    np.testing.assert_array_equal(found.labels, whole)
    assert len(found.cells) == whole.max()
    volumes = np.bincount(whole.ravel())[1:]
    np.testing.assert_array_equal(found.cells.column("volume").to_numpy() > 0, volumes > 0)
    assert [fact["step"] for fact in found.facts["clean_up"]] == steps.replace("20:", "20").split(
        ","
    )


def test_a_run_is_cleaned_up_again_with_other_steps(tmp_path, no_report):
    labels = balls((14, 14, 14), 20, 2.2)
    image = (levels(labels) * (labels > 0) * 1.37).astype(np.float32)
    path = store(tmp_path / "image.ome.zarr", image)
    options = {
        "executor": "serial", "model": "intensity", "instances": "components",
        "outline_sigma": "0", "threshold": 3, "block_shape": (7, 7, 7),
    }  # fmt: skip
    segment(path, tmp_path / "out", keep_work=True, **options)
    before = labels_of(tmp_path / "out")
    steps = "closing=1,merge-touching=3:5,split=26,size=3"
    relabel(tmp_path / "out", tmp_path / "again", clean_up=steps)
    whole = clean_up(before, steps, image=image)
    assert 0 < whole.max() < before.max()
    np.testing.assert_array_equal(labels_of(tmp_path / "again"), whole)


def test_a_run_says_what_was_cleaned_up(tmp_path):
    labels = balls((14, 14, 14), 8, 5)
    image = ((labels % 5 + 1) * 50 * (labels > 0)).astype(np.uint16)
    path = store(tmp_path / "image.ome.zarr", image)
    (tmp_path / "run.yaml").write_text("clean_up:\n- closing: 2\n- fill-holes\n- split: 26\n")
    options = yaml.safe_load((tmp_path / "run.yaml").read_text()) | {
        "executor": "serial", "model": "intensity", "instances": "components",
        "outline_sigma": "0", "threshold": 10, "block_shape": (7, 7, 7),
    }  # fmt: skip
    segment(path, tmp_path / "out", **options)
    status = json.loads((tmp_path / "out" / "run.json").read_text())
    assert [f["step"] for f in status["facts"]["clean_up"]] == [
        "closing=2", "fill-holes", "split=26"
    ]  # fmt: skip
    page = (tmp_path / "out" / "report.html").read_text()
    assert "clean-up, closing=2" in page
    assert "labels were closed by 2 voxels" in page
    resolved = yaml.safe_load(RunFolder(tmp_path / "out").config.read_text())
    assert resolved["clean_up"] == ["closing=2", "fill-holes", "split=26"]
    before = labels_of(tmp_path / "out")
    assert resume(tmp_path / "out").executed == 0
    np.testing.assert_array_equal(labels_of(tmp_path / "out"), before)


def test_steps_that_mean_nothing_for_the_image():
    volume = open_volume(np.ones((9, 9, 9), np.uint16), voxel_size=(2.0, 1.0, 1.0))

    def refused(steps, match, model="intensity"):
        with pytest.raises(ConfigError, match=match):
            check_clean_up(make_config({"image": "", "model": model, "clean_up": steps}), volume)

    refused("smooth=100um", "smooth: radius 100um is 100 voxels .* over the limit of 64")
    refused("smooth=0.9um", "radius 0.9um is 0.9 voxels .* below 1, so nothing would change")
    refused("size=9:10um3", "min_volume 9 is above max_volume 10um3 .* Give a smaller min_volume")
    refused("merge-touching=0.3::foreground", "of foreground needs a network's foreground")
    refused("mouse-skull", "needs a network's foreground. Give --model")
    refused("merge-touching=40", "low 40 is outside 0 to 1", model="any")
    check_clean_up(make_config({"image": "", "clean_up": "merge-touching=40::image"}), volume)


def test_stages_and_disk_are_planned(tmp_path):
    path = store(tmp_path / "image.ome.zarr", np.ones((9, 9, 9), np.uint16))
    bare, made = (
        plan(path, model="intensity", block_shape=(9, 9, 9), clean_up=steps)
        for steps in (None, "closing=20,merge-touching=5,fill-holes,smooth,split,clear-border")
    )
    added = [stage.stage for stage in made.stages if stage not in bare.stages]
    assert added == ["closing", "borders", "holes", "fill", "smooth", "split", "on-faces"]
    assert made.disk_bytes - bare.disk_bytes == 5 * (4 * 9**3 // 3)
