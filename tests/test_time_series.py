"""Several time points: each as if alone, joined in one image and one table."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr
from command_line import QUICK, cells_image
from segmenting import Answer, labels_of, stored_bytes

from cellseg3d_dist import plan, relabel, resume, segment, segmentation
from cellseg3d_dist.engine import executors
from cellseg3d_dist.engine.folder import RunFolder
from cellseg3d_dist.errors import BlocksFailedError, ConfigError
from cellseg3d_dist.grid import Region
from cellseg3d_dist.volumes import create_image, open_volume

SHAPE, N_TIMES = (8, 12, 14), 4
HOW = {
    "executor": "serial", "model": "intensity", "voxel_size": (1, 1, 1), "spot_sigma": 1,
    "outline_sigma": 1, "block_shape": (8, 8, 8),
}  # fmt: skip
RUN_BLOCK = executors.run_block


@pytest.fixture(autouse=True)
def _no_report(monkeypatch):
    monkeypatch.setattr(segmentation.running, "write_run_report", lambda *args, **kwargs: None)


@pytest.fixture(scope="module")
def image():
    """(t, z, y, x)"""
    return np.stack([cells_image(SHAPE, seed=seed) for seed in range(N_TIMES)])


@pytest.fixture(scope="module")
def source(tmp_path_factory, image):
    path = tmp_path_factory.mktemp("series") / "image.zarr"
    zarr.save_array(path, image[:, None])
    return str(path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, source):
    """An undisturbed run of all time points."""
    out = tmp_path_factory.mktemp("whole") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segmentation.running, "write_run_report", lambda *args, **kwargs: None)
        segment(source, out, csv=True, **HOW)
    return out


def at_time(out, index):
    volume = open_volume(out / "labels.ome.zarr", time=index)
    return volume.read(Region.whole(volume.shape))


def test_each_time_point_is_as_if_alone(whole, source, tmp_path):
    table = pq.read_table(whole / "cells.parquet")
    assert table.column_names[:2] == ["label", "time"]
    status = RunFolder(whole).status()
    assert (status["status"], status["cells"]) == ("complete", table.num_rows)
    for time in range(N_TIMES):
        segment(source, tmp_path / str(time), time=time, **HOW)
        alone = Answer.of(tmp_path / str(time))
        Answer.of(whole / f"t{time:04d}").assert_same(alone)
        np.testing.assert_array_equal(at_time(whole, time), alone.labels)
        own = table.filter(np.asarray(table["time"]) == time).drop_columns("time")
        assert own.equals(alone.cells)
    assert (whole / "cells.csv").read_text().count("\n") == table.num_rows + 1
    assert "t0003/report.html" in (whole / "report.html").read_text()
    before = stored_bytes(whole / "labels.ome.zarr")
    assert resume(whole).executed == 0
    assert stored_bytes(whole / "labels.ome.zarr") == before


def test_some_time_points_of_an_array_in_memory(whole, image, tmp_path):
    result = segment(image[:, None], tmp_path / "out", time="1:3", **HOW)
    table = pq.read_table(result.cells)
    assert set(table["time"].to_pylist()) == {1, 2}
    assert result.n_cells == table.num_rows
    for index in range(2):
        np.testing.assert_array_equal(at_time(tmp_path / "out", index), at_time(whole, 1 + index))
    assert resume(tmp_path / "out").executed == 0


def test_one_time_point_is_a_run_like_any_other(image, tmp_path):
    for number, (array, time) in enumerate([(image[0], "all"), (image[:1, None], None)]):
        out = segment(array, tmp_path / str(number), time=time, **HOW).folder
        assert "times" not in RunFolder(out).status()
        assert labels_of(out).shape == SHAPE
    with pytest.raises(ConfigError, match=r"time 2:9 is not in .* 0 to 3"):
        segment(image[:, None], tmp_path / "out", time="2:9", **HOW)
    assert not (tmp_path / "out").exists()


def test_the_plan_is_of_all_time_points(source):
    one, every = plan(source, time=1, **HOW), plan(source, **HOW)
    assert every.n_times == N_TIMES
    assert every.disk_bytes == N_TIMES * one.disk_bytes
    assert "each of 4 time points" in next(every.lines())


def test_labels_have_the_type_that_holds_all(tmp_path):
    image = np.zeros((2, 1, 4, 24, 48), np.uint8)
    image[0, 0, 1, 2, 2] = 200
    image[1, 0, 1:3, ::2, ::2] = 200
    options = HOW | {"instances": "components", "outline_sigma": 0, "threshold": 100}
    segment(image, tmp_path / "out", **options)
    assert at_time(tmp_path / "out", 0).dtype == np.uint16
    assert at_time(tmp_path / "out", 0).max() == 1
    assert at_time(tmp_path / "out", 1).max() == 288


def test_a_time_point_that_fails_does_not_stop_the_others(
    whole, source, tmp_path, monkeypatch, cli
):
    def run_block(stage, block):
        if stage.name == "relabel" and "t0001" in str(stage.folder) and block.number == 2:
            raise ValueError("broken on purpose")
        return RUN_BLOCK(stage, block)

    monkeypatch.setattr(executors, "run_block", run_block)
    out = tmp_path / "out"
    with pytest.raises(BlocksFailedError, match=r"1 of 4 time points .*\(1\); .*resume .*out$"):
        segment(source, out, **HOW)
    monkeypatch.undo()
    monkeypatch.setattr(segmentation.running, "write_run_report", lambda *args, **kwargs: None)
    said = cli.does("status", out).out
    assert "time 1         blocks failed, 1 blocks" in said
    assert "time 2         complete" in said
    assert json.loads(cli.does("status", out, "--json").out)["times"][3]["status"] == "complete"
    resume(out)
    assert stored_bytes(out / "labels.ome.zarr") == stored_bytes(whole / "labels.ome.zarr")
    assert pq.read_table(out / "cells.parquet").equals(pq.read_table(whole / "cells.parquet"))
    # a copy that is lost is made again
    shard = max((out / "labels.ome.zarr" / "0" / "c" / "2").rglob("*"), key=lambda p: p.is_file())
    shard.unlink()
    assert resume(out).executed == 1
    assert stored_bytes(out / "labels.ome.zarr") == stored_bytes(whole / "labels.ome.zarr")


def test_an_interruption_costs_nothing_but_time(whole, source, tmp_path, monkeypatch):
    left = 60

    def run_block(stage, block):
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(28, "No space left on device")
        return RUN_BLOCK(stage, block)

    monkeypatch.setattr(executors, "run_block", run_block)
    out = tmp_path / "out"
    with pytest.raises(Exception, match=r"resume with: cellseg3d-dist resume .*out$"):
        segment(source, out, **HOW)
    assert RunFolder(out).status()["status"] == "failed"
    monkeypatch.setattr(executors, "run_block", RUN_BLOCK)
    resume(out)
    assert stored_bytes(out / "labels.ome.zarr") == stored_bytes(whole / "labels.ome.zarr")


def test_labelling_again_is_of_all_time_points(whole, source, tmp_path):
    relabel(whole, tmp_path / "again", threshold=60)
    segment(source, tmp_path / "fresh", threshold=60, **HOW)
    for time in range(N_TIMES):
        np.testing.assert_array_equal(
            at_time(tmp_path / "again", time), at_time(tmp_path / "fresh", time)
        )


def test_the_command_and_masks_and_truth_of_each_time(cli, image, tmp_path):
    zarr.save_array(tmp_path / "image.zarr", image[:2, None])
    labels = create_image(
        tmp_path / "true.zarr", shape=SHAPE, dtype=np.uint8, block_shape=(8, 8, 8),
        voxel_size=(1, 1, 1), times=range(2),
    )  # fmt: skip
    for time in range(2):
        at = labels.at(time).levels[0]
        for block in at.grid.blocks():
            region = block.write_region
            at.write(region, (image[time][region.slices] > 60).astype(np.uint8))
    options = [*QUICK, "--voxel-size", "1,1,1", "--labels-true", "true.zarr"]
    cli.does("segment", "image.zarr", "out", "--time", "all", *options)
    scores = [
        json.loads((tmp_path / "out" / f"t000{time}" / "scores.json").read_text())
        for time in range(2)
    ]
    assert scores[0] != scores[1]
    assert "2 time points" in cli.does("plan", "image.zarr", *options[2:-2]).out
    assert cli.does("report", "out").out.strip().endswith("report.html")
