"""Folders of runs, and folders that are none: status, resume and report."""

import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import zarr
from command_line import QUICK, cells_image, listing
from test_volumes_open import image_store, numbers


@pytest.fixture
def image(tmp_path):
    return image_store(tmp_path / "image.zarr", numbers())


def edit_status(folder, **changes):
    path = folder / "run.json"
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


# folders that are no run


@pytest.mark.parametrize("command", ["resume", "status", "report"])
def test_folders_that_are_no_run(cli, tmp_path, image, command):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "run.json").write_text("{")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "run.json").write_text('{"program": "other"}')
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "run.json").write_text('{"program": "cellseg3d_dist", "status": 3}')
    for name, match in [
        ("gone", "gone is not the output of a run"),
        ("empty", "empty is not the output of a run"),
        (image, "image.zarr is not the output of a run"),
        ("bad", "bad is not the output of a run: no readable run.json"),
        ("foreign", "foreign is not the output of a run of cellseg3d_dist"),
        ("odd", "odd/run.json has no status"),
        ("x" * 300, "is not the output of a run"),
    ]:
        cli.refuses(command, name, match=match)


def test_runs_that_were_edited_or_cut(cli, run_folder):
    """Keys of run.json that are missing are named, whatever is asked of the folder."""
    original = (run_folder / "run.json").read_text()
    edit_status(run_folder, status="running", plan=None)
    cli.refuses("resume", "run", match="run was not begun to the end .*plan.* Start a new run")
    cli.does("status", "run")
    (run_folder / "run.json").write_text(original)
    edit_status(run_folder, facts=None)
    cli.refuses("resume", "run", match="no facts")
    cli.refuses("report", "run", match="run has no results yet. .* resume")
    cli.does("status", "run", "--json")
    (run_folder / "run.json").write_text(original)
    edit_status(run_folder, facts={"cells": 3})
    cli.refuses("report", "run", match="run.json lacks 'plan'|run.json lacks")
    (run_folder / "run.json").write_text(original)
    edit_status(run_folder, status="running", version="0.0.1")
    cli.refuses("resume", "run", match="made by version 0.0.1, this is .*Resume it with that")
    (run_folder / "run.json").write_text(original)
    (run_folder / "run.yaml").unlink()
    for command in ("resume", "report"):
        cli.refuses(command, "run", match="config .*run.yaml cannot be read")


@pytest.mark.parametrize("name", ["survey.npz", "cells.parquet", "labels.ome.zarr/0/zarr.json"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_report_of_a_run_whose_results_are_damaged(cli, run_folder, name, damage):
    before = (run_folder / "report.html").read_bytes()
    path = run_folder / name
    content = path.read_bytes()
    path.unlink()
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    cli.refuses("report", "run", match=Path(name).parts[0])
    assert (run_folder / "report.html").read_bytes() == before


def test_report_of_a_run_whose_scores_are_damaged(cli, run_folder):
    for content in ("", "{", "{}"):
        (run_folder / "scores.json").write_text(content)
        cli.refuses("report", "run", match="scores.json is missing or damaged")


def test_report_can_be_written_again(cli, run_folder):
    before = (run_folder / "report.html").read_bytes()
    (run_folder / "report.html").unlink()
    assert cli.does("report", "run").out.strip().endswith("run/report.html")
    assert abs(len((run_folder / "report.html").read_bytes()) - len(before)) < 200


# resume after a change


@pytest.mark.parametrize("status", ["interrupted", "complete"])
def test_resume_after_the_configuration_changed(cli, run_folder, status):
    edit_status(run_folder, status=status)
    config = run_folder / "run.yaml"
    config.write_text(config.read_text().replace("threshold: otsu", "threshold: 7"))
    match = "cannot be resumed: threshold was 'otsu' and is 7.0. Undo that"
    cli.refuses("resume", "run", match=match)
    config.write_text("spot_sgima: 1\n" + config.read_text())
    cli.refuses("resume", "run", match="run.yaml: unknown option 'spot_sgima'")


def test_resume_after_the_input_changed(cli, tmp_path):
    path = image_store(tmp_path / "image.zarr", cells_image((10, 12, 14)), chunks=(5, 6, 7))
    cli.does("segment", path, "run", *QUICK, "--keep-work", "--block-shape", "5,6,7")
    edit_status(tmp_path / "run", status="interrupted")
    array = zarr.open_array(path / "0", mode="r+")
    kept = array[9, 11, 13]
    array[9, 11, 13] = kept + 1
    said = cli("resume", "run")
    assert said.code == 2
    assert "has changed in 1 blocks that are done (Block (1, 1, 1)). Start" in said.error
    # the same voxels written anew, or copied, are no change
    array[9, 11, 13] = kept
    said = cli.does("resume", "run")
    assert "compare " in said.err
    assert "0 blocks executed" in said.out
    assert "0 blocks executed" in cli.does("resume", "run").out
    meta = json.loads((path / "zarr.json").read_text())
    scale = meta["attributes"]["ome"]["multiscales"][0]["datasets"][0]["coordinateTransformations"]
    scale[0]["scale"] = [9, 9, 9]
    (path / "zarr.json").write_text(json.dumps(meta))
    for status in ("interrupted", "complete"):
        edit_status(tmp_path / "run", status=status)
        cli.refuses("resume", "run", match="the metadata of the image have changed since")


def test_resume_from_another_folder(cli, tmp_path, monkeypatch):
    """Paths of run.yaml mean the same from anywhere."""
    image_store(tmp_path / "image.zarr", cells_image((10, 12, 14)))
    cli.does("segment", "image.zarr", "run", *QUICK, "--keep-work")
    edit_status(tmp_path / "run", status="interrupted")
    (tmp_path / "deeper").mkdir()
    monkeypatch.chdir(tmp_path / "deeper")
    cli.does("resume", "../run")
    cli.does("report", "../run")


def test_resume_on_another_cluster(cli, run_folder, monkeypatch):
    """Where a run is computed is no part of it; a scheduler that is gone does not hold it."""
    monkeypatch.setattr("cellseg3d_dist.engine.clusters._CONNECT_SECONDS", 1)
    config = run_folder / "run.yaml"
    text = config.read_text().replace("executor: serial", "executor: dask")
    config.write_text(text + "scheduler: tcp://127.0.0.1:1\n")
    edit_status(run_folder, status="interrupted")
    cli.refuses("resume", "run", match="scheduler tcp://127.0.0.1:1 cannot be reached", code=4)
    line = cli.refuses(
        "resume", "run", "--scheduler", "tcp://127.0.0.1:2", match="7.0.0.1:2", code=4
    )
    assert "leave --scheduler out" in line
    cli.refuses("resume", "run", "--workers", "none", match="workers 'none' must be a whole number")
    cli.refuses("resume", "run", "--memory-limit", "x", match="memory_limit 'x' must be bytes")


def test_a_finished_run_needs_no_input_to_be_finished(cli, run_folder, finished):
    (finished / "image.zarr").rename(finished / "away")
    try:
        assert ", 0 blocks executed" in cli.does("resume", "run").out
        cli.refuses("report", "run", match="image.zarr does not exist")
    finally:
        (finished / "away").rename(finished / "image.zarr")


# two drivers


def test_a_second_driver_waits_its_turn(cli, tmp_path, run_folder):
    edit_status(run_folder, status="interrupted")
    image = image_store(tmp_path / "image.zarr", numbers())
    before = listing(tmp_path)
    with (run_folder / ".lock").open("a+") as file:
        file.truncate(0)
        file.write("process 1 on elsewhere")
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        for arguments in (["resume", "run"], ["segment", image, "run", *QUICK, "--overwrite"]):
            said = cli(*arguments)
            assert said.code == 4
            assert "run is in use by another run (process 1 on elsewhere). Wait" in said.error
    (run_folder / ".lock").write_text("")
    assert listing(tmp_path).keys() == before.keys()


def test_a_stale_lock_is_taken_over(cli, run_folder):
    edit_status(run_folder, status="interrupted")
    (run_folder / ".lock").write_text("process 1 on elsewhere")
    cli.does("resume", "run")
    assert str(os.getpid()) in (run_folder / ".lock").read_text()


# signals


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_with_the_way_to_go_on(cli, tmp_path, monkeypatch, number, code):
    image_store(tmp_path / "image.zarr", cells_image((10, 12, 14)))
    from cellseg3d_dist.engine.stages.label import LabelFlood

    original = LabelFlood.run

    def signalled(stage, block):
        os.kill(os.getpid(), number)
        return original(stage, block)

    monkeypatch.setattr(LabelFlood, "run", signalled)
    said = cli("segment", "image.zarr", "run", *QUICK, "--block-shape", "5,6,7")
    assert said.code == code
    assert said.error == (
        f"stopped by {number.name}. Finished blocks are kept; resume with: "
        f"cellseg3d-dist resume {tmp_path / 'run'}"
    )
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert "interrupted" in cli.does("status", "run").out
    cli.does("resume", "run")
    assert "complete" in cli.does("status", "run").out


def test_module_is_the_command(tmp_path):
    command = [sys.executable, "-m", "cellseg3d_dist", "status", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path} is not the output of a run")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_called_like_a_model_is_not_taken_for_it(cli, image, tmp_path):
    for name in ("intensity", "nuclei-bcd"):
        (tmp_path / name).mkdir()
        cli.does("plan", image, "--model", name)
