"""A block that fails in any stage is listed and 0; once it works, resuming gives the same run."""

import json
from dataclasses import replace

import numpy as np
import pytest
import scipy.ndimage as ndi
from segmenting import cells_of, labels_of, store, stored_bytes

from cellseg3d_dist import segmentation
from cellseg3d_dist.engine import executors
from cellseg3d_dist.engine.folder import RunFolder
from cellseg3d_dist.engine.journal import read_journal
from cellseg3d_dist.errors import BlocksFailedError, EnvironmentFailedError
from cellseg3d_dist.grid import BlockGrid
from cellseg3d_dist.segmentation import resume, segment

SHAPE = (262, 14, 15)  # so long that there are two levels above the first
BLOCK_SHAPE = (48, 8, 9)
GRID = BlockGrid(SHAPE, BLOCK_SHAPE)
COMMON = {
    "model": "intensity",
    "executor": "serial",
    "voxel_size": (1, 1, 1),
    "block_shape": BLOCK_SHAPE,
}
#: Halos so small and cells so large that the exchange takes several rounds.
VORONOI = COMMON | {
    "spot_sigma": "2", "outline_sigma": "0.4", "threshold": 20, "flood_halo": 1,
}  # fmt: skip
OTSU = COMMON | {"spot_sigma": "1", "outline_sigma": "0.5"}
COMPONENTS = COMMON | {"instances": "components", "outline_sigma": "0", "threshold": 100}


@pytest.fixture(autouse=True)
def _no_report(monkeypatch):
    monkeypatch.setattr(segmentation.running, "write_run_report", lambda *args, **kwargs: None)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    rng = np.random.default_rng(2)
    image = np.zeros(SHAPE, np.float32)
    image[tuple(rng.integers(0, n, 90) for n in SHAPE)] = 1
    image = ndi.gaussian_filter(image, 2.0)
    image = (image / image.max() * 500 + rng.random(SHAPE)).astype(np.float32)
    return store(tmp_path_factory.mktemp("stored") / "image.ome.zarr", image)


def breaking(monkeypatch, stage_name, *numbers, error=ValueError):
    """Let blocks of a stage fail until the patch is undone; how often each was tried."""
    tried = []

    def run_block(stage, block):
        if stage.name == stage_name and block.number in numbers:
            tried.append(block.number)
            raise error("broken on purpose")
        return RUN_BLOCK(stage, block)

    monkeypatch.setattr(executors, "run_block", run_block)
    return tried


RUN_BLOCK = executors.run_block


def assert_same_output(out, expected):
    """All levels of the labels byte for byte, the table bit for bit, the scores."""
    assert stored_bytes(RunFolder(out).labels) == stored_bytes(RunFolder(expected).labels)
    assert RunFolder(out).cells.read_bytes() == RunFolder(expected).cells.read_bytes()
    scores = [folder / "scores.json" for folder in (out, expected)]
    assert scores[0].exists() == scores[1].exists()
    if scores[0].exists():
        assert json.loads(scores[0].read_text()) == json.loads(scores[1].read_text())


@pytest.fixture(scope="module")
def undisturbed(source, tmp_path_factory):
    """Undisturbed runs by their options, each made once."""
    made = {}

    def run(name, options):
        if name not in made:
            made[name] = tmp_path_factory.mktemp("undisturbed") / name
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(
                    segmentation.running, "write_run_report", lambda *args, **kwargs: None
                )
                segment(source, made[name], **options)
        return made[name]

    return run


CASES = [
    ("otsu", OTSU, "survey"),
    ("otsu", OTSU, "percentiles"),
    ("otsu", OTSU, "threshold"),
    ("voronoi", VORONOI, "label"),
    ("voronoi", VORONOI, "redo"),
    ("voronoi", VORONOI, "exchange-1"),
    ("voronoi", VORONOI, "exchange-2"),
    ("voronoi", VORONOI, "exchange-3"),
    ("voronoi", VORONOI, "settle"),
    ("components", COMPONENTS, "label"),
    ("components", COMPONENTS, "contacts"),
    ("components", COMPONENTS, "relabel"),
    ("components", COMPONENTS, "pyramid-1"),
    ("components", COMPONENTS, "pyramid-2"),
    ("scored", COMPONENTS, "relabel"),
    ("scored", COMPONENTS, "score"),
]


def a_block_of(stage, undisturbed):
    """A block that a stage executed, in an exchange one that changed in this round."""
    _, records = read_journal(RunFolder(undisturbed).journal(stage))
    there = [r["block"] for r in records if r.get("changed", True)]
    return there[len(there) // 2]


@pytest.mark.parametrize(("name", "options", "stage"), CASES)
def test_a_run_with_a_broken_block_is_mended_by_resuming(
    name, options, stage, source, undisturbed, tmp_path, monkeypatch
):
    if name == "scored":
        options = options | {
            "labels_true": str(undisturbed("components", COMPONENTS) / "labels.ome.zarr")
        }
    expected = undisturbed(name, options)
    out = tmp_path / "out"
    number = a_block_of(stage, expected)
    with monkeypatch.context() as patch:
        tried = breaking(patch, stage, number)
        with pytest.raises(BlocksFailedError, match=r"broken on purpose.*resume"):
            segment(source, out, **options)
        assert tried == [number] * len(tried)
        status = RunFolder(out).status()
        assert status["status"] == "blocks failed"
        listed = {(tuple(f["block"]), f["stage"]) for f in status["failed_blocks"]}
        assert {s for _, s in listed} == {stage}
        # the rest is there, with ids that the table knows
        labels = labels_of(out)
        if not stage.startswith(("pyramid", "score")):
            assert not labels[GRID.block(number).write_region.slices].any()
        table = cells_of(out).column("label").to_numpy()
        assert set(np.unique(labels)) - {0} == set(table.tolist())
        if name != "voronoi":
            # no cells of the undisturbed run became one
            both = np.unique(np.stack((labels, labels_of(expected)))[:, labels > 0], axis=1)
            assert len(np.unique(both[0])) == both.shape[1]
        if stage in ("survey", "settle", "relabel"):
            # still broken: again exit 3
            with pytest.raises(BlocksFailedError, match="broken on purpose"):
                resume(out)
    mended = resume(out)
    assert RunFolder(out).status()["status"] == "complete"
    assert RunFolder(out).status()["failed_blocks"] == []
    assert mended.executed >= 1
    assert_same_output(out, expected)
    assert resume(out).executed == 0


def test_blocks_broken_in_one_round_of_the_exchange_after_the_other(
    source, undisturbed, tmp_path, monkeypatch
):
    expected = undisturbed("voronoi", VORONOI)
    rounds = RunFolder(expected).status()["facts"]["certificate"]["rounds"]
    assert rounds >= 4
    out = tmp_path / "out"
    for number, stage in enumerate(f"exchange-{n}" for n in (2, 1, rounds - 1, 3)):
        with monkeypatch.context() as patch:
            breaking(patch, stage, a_block_of(stage, expected), error=RuntimeError)
            with pytest.raises(BlocksFailedError, match="broken on purpose"):
                resume(out) if number else segment(source, out, **VORONOI)
    resume(out)
    assert_same_output(out, expected)


def test_every_block_of_a_stage_broken(source, undisturbed, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        breaking(patch, "label", *range(GRID.n_blocks))
        with pytest.raises(BlocksFailedError, match=f"of {GRID.n_blocks} blocks failed"):
            segment(source, out, **COMPONENTS)
        assert not labels_of(out).any()
        assert len(cells_of(out)) == 0
    resume(out)
    assert_same_output(out, undisturbed("components", COMPONENTS))


@pytest.mark.parametrize("stage", ["survey", "label", "contacts", "relabel", "pyramid-1"])
def test_a_full_disk_ends_the_run_and_resuming_goes_on(
    stage, source, undisturbed, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        tried = breaking(
            patch, stage, a_block_of(stage, undisturbed("components", COMPONENTS)),
            error=lambda text: OSError(28, "No space left on device", "/full"),
        )  # fmt: skip
        with pytest.raises(EnvironmentFailedError, match=r"No space left on device.*resume"):
            segment(source, out, **COMPONENTS)
        assert len(tried) == executors.ATTEMPTS
        assert RunFolder(out).status()["status"] == "failed"
    resume(out)
    assert_same_output(out, undisturbed("components", COMPONENTS))


def test_an_operating_system_error_once_in_every_stage_changes_nothing(
    source, undisturbed, tmp_path, monkeypatch
):
    seen = set()

    def run_block(stage, block):
        key = (stage.name, block.number)
        if block.number % 3 == 0 and key not in seen:
            seen.add(key)
            raise OSError(5, "Input/output error")
        return RUN_BLOCK(stage, block)

    with monkeypatch.context() as patch:
        patch.setattr(executors, "run_block", run_block)
        segment(source, tmp_path / "out", **VORONOI)
    assert len({stage for stage, _ in seen}) > 7
    assert_same_output(tmp_path / "out", undisturbed("voronoi", VORONOI))


@pytest.mark.parametrize("seed", [1, 2])
def test_blocks_in_another_order_or_done_twice_change_nothing(
    seed, source, undisturbed, tmp_path, monkeypatch
):
    def twice(stage, block):
        RUN_BLOCK(stage, block)
        return RUN_BLOCK(stage, block)

    monkeypatch.setattr(executors, "run_block", twice)
    monkeypatch.setattr(
        segmentation.running, "SerialExecutor", lambda: executors.SerialExecutor(shuffle=seed)
    )
    segment(source, tmp_path / "out", **VORONOI)
    assert_same_output(tmp_path / "out", undisturbed("voronoi", VORONOI))


def test_a_plan_without_redo_resumed_where_memory_has_changed(
    source, undisturbed, tmp_path, monkeypatch
):
    """What a sitting may use decides how blocks are computed, not what a resumed run trusts."""
    out = tmp_path / "out"
    make_plan = segmentation.preparing.make_plan
    with monkeypatch.context() as patch:
        breaking(patch, "relabel", 3)
        patch.setattr(
            segmentation.preparing, "make_plan", lambda *a: replace(make_plan(*a), redo=False)
        )
        with pytest.raises(BlocksFailedError):
            segment(source, out, **VORONOI)
    assert resume(out).executed < GRID.n_blocks
    assert_same_output(out, undisturbed("voronoi", VORONOI))
