"""The run folder: one driver at a time, and a status that is whole or the old one."""

import contextlib
import json
import os
import signal
import subprocess
import sys

import pytest

from cellseg3d_dist.engine.folder import RunFolder, naming_disk_errors
from cellseg3d_dist.errors import EnvironmentFailedError, OutputError

HOLD = """
import sys, time
from pathlib import Path
from cellseg3d_dist.engine.folder import RunFolder
with RunFolder(Path(sys.argv[1])).locked():
    print("locked", flush=True)
    time.sleep(60)
"""


@contextlib.contextmanager
def another_driver(folder):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "locked\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_second_driver_is_refused_and_told_who_is_at_work(tmp_path):
    folder = RunFolder(tmp_path)
    with another_driver(tmp_path) as process:
        with (
            pytest.raises(EnvironmentFailedError, match=f"in use.*process {process.pid} on"),
            folder.locked(),
        ):
            raise AssertionError("two drivers at once")
        # the one who was refused did not take the name of the other away
        with pytest.raises(EnvironmentFailedError, match=str(process.pid)), folder.locked():
            raise AssertionError("two drivers at once")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_the_lock_of_a_driver_that_died_is_free(tmp_path, how):
    with another_driver(tmp_path) as process:
        os.kill(process.pid, how)
        process.wait()
        with RunFolder(tmp_path).locked():
            assert f"process {os.getpid()}" in (tmp_path / ".lock").read_text()


def test_the_lock_is_free_after_its_block_and_after_an_error(tmp_path):
    folder = RunFolder(tmp_path)
    with pytest.raises(ValueError, match="of the run"), folder.locked():
        raise ValueError("of the run")
    with (
        folder.locked(),
        pytest.raises(EnvironmentFailedError, match="in use"),
        folder.locked(),
    ):
        raise AssertionError("two drivers at once")
    with folder.locked():
        pass


def test_status_is_updated_key_by_key(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write_status({"status": "running", "plan": {"n": 1}})
    folder.update_status(status="complete", cells=3)
    status = folder.status()
    assert status["program"] == "cellseg3d_dist"
    assert (status["status"], status["plan"], status["cells"]) == ("complete", {"n": 1}, 3)
    assert not (tmp_path / "run.json.partial").exists()


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"program": "another"}', "\x00"])
def test_what_is_no_status_of_ours_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(OutputError, match="not the output of a run"):
        RunFolder(tmp_path).status()


def test_a_status_that_was_being_written_when_the_driver_died_is_ignored(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write_status({"status": "running"})
    (tmp_path / "run.json.partial").write_text(json.dumps({"program": "cellseg3d_dist"})[:9])
    assert folder.status()["status"] == "running"
    folder.update_status(status="complete")
    assert folder.status()["status"] == "complete"


def test_errors_of_the_disk_name_the_path_and_how_to_go_on(tmp_path):
    expected = r"/full/chunk: No space left on device\. .*cellseg3d-dist resume"
    with (
        pytest.raises(EnvironmentFailedError, match=expected),
        naming_disk_errors(RunFolder(tmp_path)),
    ):
        raise OSError(28, "No space left on device", "/full/chunk")
    with (
        pytest.raises(EnvironmentFailedError, match=str(tmp_path)),
        naming_disk_errors(RunFolder(tmp_path)),
    ):
        raise OSError("no number")
