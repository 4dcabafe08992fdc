"""Where output may go, and folders that are no run: exit 2, and nothing is lost."""

import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tifffile
import zarr
from command_line import QUICK, cells_image, listing
from test_volumes_open import image_store, numbers

from cellseg3d_dist.engine.folder import RunFolder

SIZE = ("--voxel-size", "1,1,1")


@pytest.fixture
def image(tmp_path):
    return image_store(tmp_path / "image.zarr", numbers())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An image and a finished run of it."""
    from cellseg3d_dist import segment

    root = tmp_path_factory.mktemp("finished")
    image_store(root / "image.zarr", cells_image((10, 12, 14)))
    segment(root / "image.zarr", root / "run", executor="serial", spot_sigma=1, outline_sigma=1)
    return root


@pytest.fixture
def run_folder(finished, tmp_path):
    """A copy of the finished run, whose image lies elsewhere."""
    subprocess.run(["cp", "-a", finished / "run", tmp_path / "run"], check=True)
    return tmp_path / "run"


def edit_status(folder, **changes):
    path = folder / "run.json"
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


# where output may go


def test_output_in_on_or_around_an_input(cli, tmp_path, image):
    tifffile.imwrite(tmp_path / "a.tif", numbers(), metadata={"axes": "ZYX"})
    truth = image_store(tmp_path / "truth" / "truth.zarr", numbers())
    outer = tmp_path / "outer.zarr"
    zarr.open_group(outer, mode="w")
    image_store(outer / "tile", numbers())
    (tmp_path / "link").symlink_to(image)
    for source, out, match, options in [
        (image, image, "output .*image.zarr is the input", ()),
        (image, image / "run", "output .*run lies in the input .*image.zarr", ()),
        (image, image / "0" / "c" / "run", "lies in the input", ()),
        (image, tmp_path, "output .* holds the input", ()),
        (image, "image.zarr", "is the input", ()),
        (image, "x/../image.zarr/run", "lies in the input", ()),
        ("link", image / "run", "lies in the input", ()),
        (image, "link/run", "lies in the input", ()),
        (f"file://{image}", image / "run", "lies in the input", ()),
        (outer, outer / "run", "lies in the input .*outer.zarr", ()),
        ("a.tif", "a.tif", "is the input", SIZE),
        ("a.tif", "a.tif/run", "lies in the input", SIZE),
        (image, truth / "run", "lies in the input .*truth.zarr", ("--labels-true", truth)),
        (image, tmp_path / "truth", "holds the input", ("--mask", truth)),
    ]:
        for overwrite in ((), ("--overwrite",)):
            cli.refuses("segment", source, out, *QUICK, *options, *overwrite, match=match)
    cli.refuses("convert", image, image / "new", match="lies in the input")
    cli.refuses("convert", image, image, match="is the input")


def test_output_that_is_not_ours(cli, tmp_path, image):
    (tmp_path / "file").write_text("precious")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_text("x")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "run.json").write_text('{"program": "other", "status": "complete"}')
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "run.json").write_text("[" * 5_000)
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name, match in [
        ("file", "file exists and is a file. Choose another folder"),
        ("file/run", "cannot be created: .*file is a file"),
        ("full", "not empty and not the output of an earlier run. Choose another"),
        ("foreign", "not empty and not the output of an earlier run"),
        ("odd", "not empty and not the output of an earlier run"),
        ("link", "is a link"),
        ("dangling", "is a link"),
        ("loop", "is a link|cannot be used"),
        ("loop/run", "cannot be used"),
        ("x" * 300, "File name too long|Shorten"),
        ("y/" * 2500, "File name too long|Shorten"),
        ("/", "is a mount point|is or holds|holds the input"),
        ("/proc", "is a mount point"),
        ("", "is not a path|working folder|holds the input"),
        ("a\udcff", "is not valid UTF-8"),
    ]:
        for overwrite in ((), ("--overwrite",)):
            cli.refuses("segment", image, name, *QUICK, *overwrite, match=match)
    cli.does("segment", image, "empty", *QUICK)
    cli.refuses("segment", image, "link", *QUICK, "--overwrite", match="is a link")


def test_home_and_working_folder(cli, tmp_path, run_folder, monkeypatch):
    """Not even where they are the output of an earlier run."""
    image = image_store(tmp_path / "elsewhere" / "image.zarr", numbers())
    (run_folder / "deeper").mkdir()
    monkeypatch.chdir(run_folder / "deeper")
    for out in (run_folder, ".."):
        cli.refuses("segment", image, out, "--overwrite", match="is or holds the working folder")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(run_folder))
    for out in (run_folder, "~"):
        cli.refuses("segment", image, out, "--overwrite", match="is or holds the home folder")


def test_an_earlier_run_is_replaced_only_when_asked(cli, tmp_path, image, run_folder):
    line = cli.refuses("segment", image, "run", *QUICK, match="run exists. To go on with it")
    assert f"cellseg3d-dist resume {run_folder}; --overwrite replaces it" in line
    # not for options that are wrong
    cli.refuses("segment", image, "run", "--overwrite", "--channel", "5", match="channel 5")
    (run_folder / "note").write_text("in our folder")
    cli.does("segment", image, "run", "--config", "run/run.yaml", "--overwrite")
    assert not (run_folder / "note").exists()
    assert json.loads((run_folder / "run.json").read_text())["plan"]["shape"] == [5, 6, 7]


def test_odd_names_of_folders(cli, tmp_path):
    name = "a [bold]b[/] :cat: <script>alert(1)</script> $(x) '\"\n\tü 細胞"
    path = tmp_path / f"in {name.replace('/', '_')}"
    out = tmp_path / f"out {name.replace('/', '_')}"
    image_store(path, cells_image((10, 12, 14)))
    said = cli.does("segment", path, out, *QUICK)
    assert str(out) in said.out
    page = (out / "report.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert str(out) in cli.does("status", out).out
    line = cli.refuses("segment", path, out, *QUICK, match="exists. To go on with it")
    assert "\\n\\tü 細胞" in line
    cli.does("resume", out)
    cli.does("report", out)


@pytest.mark.parametrize("length", [240, 255])
def test_long_names_of_folders(cli, tmp_path, image, length):
    cli.does("segment", image, "r" * length, *QUICK)
    assert (tmp_path / ("r" * length) / "report.html").exists()


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


# convert and phantom


def test_destinations_of_convert_and_phantom(cli, tmp_path, image):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_text("x")
    (tmp_path / "mine.progress").mkdir()
    (tmp_path / "mine.progress" / "precious").write_text("x")
    (tmp_path / "file").write_text("x")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name, match in [
        ("full", "full exists. Choose another name or remove it"),
        ("file", "file exists"),
        ("file/new", "cannot be created: .*file is a file"),
        ("dangling", "dangling exists"),
        ("mine", "mine.progress is not the output of a run"),
        ("x" * 250, "File name too long|Shorten"),
    ]:
        cli.refuses("convert", image, name, match=match)
        cli.refuses("phantom", name, "--shape", "16,16,16", match=match)
    cli.refuses("convert", image, "s3://bucket/new", match="is a URL; a path on this machine")
    cli.refuses("segment", image, "s3://bucket/new", *QUICK, match="is a URL; a path on this")
    zarr.save_array(tmp_path / "real", numbers().astype("f4"))
    cli.refuses("convert", "real", "new", "--labels", *SIZE, match="labels cannot be stored as f")
    cli.refuses("demo", "full", match="full exists and is not empty")
    cli.refuses("demo", "file", match="file exists and is not empty")


def test_convert_does_not_go_on_with_other_options(cli, tmp_path, image):
    folder = RunFolder(tmp_path / "new.progress", same_command=True)
    folder.path.mkdir()
    folder.write_status({"status": "running", "decides": {"kind": "labels"}})
    cli.refuses("convert", image, "new", match="new was begun with other options or another source")


# signals


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_with_the_way_to_go_on(cli, tmp_path, monkeypatch, number, code):
    image_store(tmp_path / "image.zarr", cells_image((10, 12, 14)))
    from cellseg3d_dist.engine.stages.label import LabelVoronoi

    original = LabelVoronoi.run

    def signalled(stage, block):
        os.kill(os.getpid(), number)
        return original(stage, block)

    monkeypatch.setattr(LabelVoronoi, "run", signalled)
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
