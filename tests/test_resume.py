"""Whatever ends a run, resuming it gives the bytes of an undisturbed one and repeats no block."""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import scipy.ndimage as ndi
from segmenting import store, stored_bytes

from cellseg3d_dist import segmentation
from cellseg3d_dist.engine.folder import RunFolder
from cellseg3d_dist.engine.journal import read_journal
from cellseg3d_dist.errors import OutputError
from cellseg3d_dist.grid import BlockGrid
from cellseg3d_dist.segmentation import resume, segment

SHAPE = (132, 47, 44)
BLOCK_SHAPE = (37, 25, 23)  # 4 x 2 x 2 blocks, two levels
OPTIONS = {
    "model": "intensity",
    "block-shape": "37,25,23", "spot-sigma": "1", "outline-sigma": "0.6", "flood-halo": "2",
    "min-volume": "5", "executor": "dask", "workers": "2",
}  # fmt: skip


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    rng = np.random.default_rng(0)
    image = np.zeros(SHAPE)
    image[tuple(rng.integers(0, n, 600) for n in SHAPE)] = rng.uniform(0.5, 2, 600)
    image = ndi.gaussian_filter(image, 1.8) * 60_000 + rng.random(SHAPE) * 60
    path = tmp_path_factory.mktemp("stored") / "image.ome.zarr"
    return store(path, np.clip(image, 0, 60_000).astype(np.uint16), block_shape=(32, 32, 32))


def command(*arguments):
    return [sys.executable, "-m", "cellseg3d_dist", *map(str, arguments)]


def beginning(source, out, **changed):
    options = OPTIONS | {key.replace("_", "-"): value for key, value in changed.items()}
    return command("segment", source, out, *(f"--{k}={v}" for k, v in options.items()))


def finish(arguments, code=0):
    """Run a command to its end; the blocks it says it executed."""
    ended = subprocess.run(arguments, capture_output=True, text=True, timeout=240, check=False)
    assert ended.returncode == code, ended.stderr
    said = re.search(r"(\d+) blocks executed", ended.stdout)
    return int(said[1]) if said else None


def journalled(out):
    """Finished blocks by stage, as the journals say."""
    paths = (out / "journal").glob("*.jsonl")
    return {path.stem: [r["block"] for r in read_journal(path)[1]] for path in paths}


def n_journalled(out):
    """A quick count of lines while the run writes them."""
    done = 0
    for path in (out / "journal").glob("*.jsonl"):
        with contextlib.suppress(OSError):
            done += max(0, path.read_bytes().count(b"\n") - 1)
    return done


@contextlib.contextmanager
def started(arguments, out, n_blocks):
    """A run in a group of its own that has noted at least so many blocks."""
    errors = out.parent / "stderr.txt"
    with errors.open("w") as file:
        process = subprocess.Popen(
            arguments, stdout=subprocess.DEVNULL, stderr=file, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 120
        while n_journalled(out) < n_blocks and process.poll() is None:
            assert time.monotonic() < deadline, errors.read_text()
            time.sleep(0.002)
        yield process
    finally:
        for there in [*workers_of(process), process]:
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                there.kill()
        process.wait()


def workers_of(process):
    try:
        children = psutil.Process(process.pid).children(recursive=True)
        return [child for child in children if "spawn_main" in " ".join(child.cmdline())]
    except psutil.NoSuchProcess:
        return []


def assert_same_output(out, expected):
    """Labels of all levels and cells byte for byte; no block noted twice; nothing left over."""
    assert RunFolder(out).status()["status"] == "complete"
    assert stored_bytes(RunFolder(out).labels) == stored_bytes(RunFolder(expected).labels)
    assert RunFolder(out).cells.read_bytes() == RunFolder(expected).cells.read_bytes()
    blocks = journalled(out)
    assert {k: sorted(v) for k, v in blocks.items()} == {
        k: sorted(v) for k, v in journalled(expected).items()
    }
    assert not (out / "work").exists()
    assert [p.name for p in out.iterdir() if "partial" in p.name or p.name.endswith("tmp")] == []


@pytest.fixture(scope="module")
def undisturbed(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    executed = finish(beginning(source, out))
    blocks = journalled(out)
    assert executed == sum(map(len, blocks.values()))
    assert {"survey", "threshold", "label", "redo", "exchange-2", "relabel", "pyramid-1"} <= set(
        blocks
    )
    assert all(len(set(numbers)) == len(numbers) for numbers in blocks.values())
    return out


def killed_and_resumed(source, out, expected, moments, everyone=()):
    """Kill the driver each time so many blocks are noted; how many kills there were."""
    total = n_journalled(expected)
    arguments, kills = beginning(source, out), 0
    for number, moment in enumerate(sorted(moments)):
        with started(arguments, out, moment) as process:
            if process.poll() is None:
                kills += 1
            if number in everyone:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
            process.wait()
        if (out / "run.json").exists() and RunFolder(out).status()["status"] == "complete":
            break
        arguments = command("resume", out)
    noted = n_journalled(out)
    assert finish(command("resume", out)) == total - noted
    assert_same_output(out, expected)
    assert finish(command("resume", out)) == 0
    return kills


@pytest.mark.parametrize("seed", [1])
def test_a_driver_killed_again_and_again(seed, source, undisturbed, tmp_path):
    total = n_journalled(undisturbed)
    moments = random.Random(seed).sample(range(1, total), 3)
    kills = killed_and_resumed(source, tmp_path / "out", undisturbed, moments, everyone=(1,))
    assert kills == 3


@pytest.mark.long
@pytest.mark.parametrize("seed", range(2, 12))
def test_a_driver_killed_at_many_more_moments(seed, source, undisturbed, tmp_path):
    total = n_journalled(undisturbed)
    moments = random.Random(seed).sample(range(1, total + 1), 12)
    killed_and_resumed(source, tmp_path / "out", undisturbed, moments, everyone=range(0, 12, 3))


@pytest.mark.long
@pytest.mark.parametrize("seed", range(10))
def test_a_driver_killed_after_a_random_time(seed, source, undisturbed, tmp_path):
    """Also in the gaps: while the merge, the table or the report is made."""
    out, at = tmp_path / "out", random.Random(seed)
    total, arguments = n_journalled(undisturbed), beginning(source, out)
    for _ in range(8):
        with started(arguments, out, 0) as process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(at.uniform(0.5, 8))
            process.kill()
            process.wait()
        if out.exists():
            arguments = command("resume", out)
            try:
                status = RunFolder(out).status()
            except OutputError:
                continue
            if status["status"] == "complete":
                break
    noted = n_journalled(out)
    complete = RunFolder(out).status()["status"] == "complete"
    assert finish(command("resume", out)) == (0 if complete else total - noted)
    assert_same_output(out, undisturbed)


def test_workers_killed_in_every_stage(source, undisturbed, tmp_path):
    out = tmp_path / "out"
    total = n_journalled(undisturbed)
    kills = 0
    with started(beginning(source, out), out, 5) as process:
        for moment in range(5, total, total // 6):
            while n_journalled(out) < moment and process.poll() is None:
                time.sleep(0.002)
            for worker in workers_of(process)[:1]:
                worker.kill()
                kills += 1
        assert process.wait(240) == 0, (tmp_path / "stderr.txt").read_text()
    assert kills >= 5
    assert_same_output(out, undisturbed)
    stages = RunFolder(out).status()["stages"]
    # a block is noted once, however often its worker died
    assert sum(stage["executed"] for stage in stages) == total


@pytest.mark.parametrize(
    ("number", "code", "group"),
    [
        (signal.SIGTERM, 143, False),
        (signal.SIGINT, 130, True),
        pytest.param(signal.SIGINT, 130, False, marks=pytest.mark.long),
        pytest.param(signal.SIGTERM, 143, True, marks=pytest.mark.long),
    ],
)
def test_a_signal_ends_the_run_after_noting_blocks_in_flight(
    number, code, group, source, undisturbed, tmp_path
):
    out = tmp_path / "out"
    total = n_journalled(undisturbed)
    with started(beginning(source, out), out, total // 3) as process:
        # Ctrl-C on a terminal reaches the workers too
        if group:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        began = time.monotonic()
        assert process.wait(60) == code
        assert time.monotonic() - began < 30
    said = (tmp_path / "stderr.txt").read_text()
    assert "Traceback" not in said
    assert "cellseg3d-dist resume" in said.splitlines()[-1]
    status = RunFolder(out).status()
    assert status["status"] == "interrupted"
    assert sum(stage["executed"] for stage in status["stages"]) == n_journalled(out)
    assert n_journalled(out) >= total // 3
    left = total - n_journalled(out)
    assert finish(command("resume", out)) == left
    assert_same_output(out, undisturbed)
    stages = RunFolder(out).status()["stages"]
    assert sum(stage["executed"] for stage in stages) == total


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)]
)
def test_a_signal_before_the_first_block(number, source, tmp_path):
    out = tmp_path / "out"
    with started(beginning(source, out), out, 0) as process:
        while not (out / "run.json").exists():
            time.sleep(0.002)
        time.sleep(0.2)
        process.send_signal(number)
        assert process.wait(60) == 128 + number
    assert "Traceback" not in (tmp_path / "stderr.txt").read_text()
    assert RunFolder(out).status()["status"] == "interrupted"
    assert n_journalled(out) == 0


def test_a_second_driver_on_the_same_folder_is_refused(source, tmp_path):
    out = tmp_path / "out"
    with started(beginning(source, out), out, 3) as process:
        finish(command("resume", out), code=4)
        assert process.poll() is None or process.returncode == 0


# In this process, one block after the other: what is damaged or changed between sittings.

SERIAL = {
    "model": "intensity", "executor": "serial", "block_shape": BLOCK_SHAPE, "spot_sigma": "1",
    "outline_sigma": "0.6", "flood_halo": 2, "min_volume": "5", "keep_work": True,
}  # fmt: skip


@pytest.fixture
def _no_report(monkeypatch):
    monkeypatch.setattr(segmentation.running, "write_run_report", lambda *args, **kwargs: None)


@pytest.fixture(scope="module")
def kept(source, tmp_path_factory):
    """A finished run that is as if it had been interrupted at its end."""
    out = tmp_path_factory.mktemp("kept") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segmentation.running, "write_run_report", lambda *args, **kwargs: None)
        segment(source, out, **SERIAL)
    return out


@pytest.fixture
def interrupted(kept, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(kept, out)
    RunFolder(out).update_status(status="interrupted")
    return out


def flip(path, place=0.5):
    data = bytearray(path.read_bytes())
    data[int(len(data) * place)] ^= 0x20
    path.write_bytes(bytes(data))


def files_of(folder, pattern):
    found = sorted(path for path in folder.glob(pattern) if path.is_file())
    assert found, pattern
    return found


DAMAGED = [
    "labels.ome.zarr/0/c/**/*",
    "labels.ome.zarr/1/c/**/*",
    "work/**/*.rec",
    "work/labels-label/**/*.rec",
    "work/labels-settled/**/*.rec",
    "work/objects-redo/**/*.rec",
    "work/faces-redo/**/*.rec",
    "work/fronts-*/**/*.rec",
    "work/cells/**/*.rec",
    "work/survey/**/*.rec",
]


@pytest.mark.usefixtures("_no_report")
@pytest.mark.parametrize("pattern", DAMAGED)
def test_damage_between_sittings_is_found_and_only_that_is_redone(
    pattern, interrupted, kept, undisturbed
):
    out = interrupted
    at = random.Random(pattern)
    victims = at.sample(files_of(out, pattern), 2)
    flip(victims[0], at.uniform(0.05, 0.95))
    victims[1].unlink()
    executed = resume(out).executed
    assert 1 <= executed <= 4
    assert stored_bytes(RunFolder(out).labels) == stored_bytes(RunFolder(undisturbed).labels)
    assert RunFolder(out).cells.read_bytes() == RunFolder(undisturbed).cells.read_bytes()
    # what was redone is what was there
    assert stored_bytes(out / "work") == stored_bytes(kept / "work")


@pytest.mark.usefixtures("_no_report")
def test_everything_lost_but_the_journals_is_made_again(interrupted, undisturbed):
    shutil.rmtree(interrupted / "work")
    shutil.rmtree(interrupted / "labels.ome.zarr")
    (interrupted / "cells.parquet").unlink()
    # thresholds and rounds without a change are whole in the journals
    in_journals = sum(len(v) for k, v in journalled(undisturbed).items() if k == "threshold")
    assert 0 < resume(interrupted).executed <= n_journalled(undisturbed) - in_journals
    folder = RunFolder(interrupted)
    assert stored_bytes(folder.labels) == stored_bytes(RunFolder(undisturbed).labels)
    assert folder.cells.read_bytes() == RunFolder(undisturbed).cells.read_bytes()


@pytest.mark.usefixtures("_no_report")
def test_an_undamaged_run_executes_nothing_when_resumed(interrupted, undisturbed):
    assert resume(interrupted).executed == 0
    assert resume(interrupted).executed == 0
    expected = RunFolder(undisturbed).cells.read_bytes()
    assert RunFolder(interrupted).cells.read_bytes() == expected


@pytest.mark.usefixtures("_no_report")
def test_what_a_killed_writer_had_begun_is_swept_away(interrupted, undisturbed):
    begun = files_of(interrupted, "labels.ome.zarr/0/c/**/*")[2]
    begun.with_suffix(".52e182404a744b47a3ef0125bed48bbd.partial").write_bytes(b"half a shard")
    resume(interrupted)
    labels = stored_bytes(RunFolder(interrupted).labels)
    assert labels == stored_bytes(RunFolder(undisturbed).labels)


@pytest.mark.usefixtures("_no_report")
@pytest.mark.parametrize("what", ["labels", "upper level", "lost labels", "cells", "lost cells"])
def test_damage_to_a_complete_run_is_mended(what, kept, undisturbed, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(kept, out)
    shutil.rmtree(out / "work")
    if what == "labels":
        flip(files_of(out, "labels.ome.zarr/0/c/**/*")[3])
    elif what == "upper level":
        flip(files_of(out, "labels.ome.zarr/1/c/**/*")[1])
    elif what == "lost labels":
        shutil.rmtree(out / "labels.ome.zarr")
    elif what == "cells":
        flip(out / "cells.parquet")
    else:
        (out / "cells.parquet").unlink()
    assert resume(out).executed > 0
    assert stored_bytes(RunFolder(out).labels) == stored_bytes(RunFolder(undisturbed).labels)
    assert RunFolder(out).cells.read_bytes() == RunFolder(undisturbed).cells.read_bytes()
    assert RunFolder(out).status()["status"] == "complete"
    assert resume(out).executed == 0


@pytest.mark.usefixtures("_no_report")
def test_resuming_a_complete_run_reads_what_it_vouches_for_and_changes_nothing(kept, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(kept, out)
    before = stored_bytes(out)
    assert resume(out).executed == 0
    after = stored_bytes(out)
    assert {k for k in before.keys() | after.keys() if before.get(k) != after.get(k)} <= {
        ".lock", "logs/run.log"
    }  # fmt: skip


@pytest.mark.usefixtures("_no_report")
def test_a_damaged_chunk_of_version_0_4_is_redone_too(source, tmp_path):
    outs = [tmp_path / "whole", tmp_path / "damaged"]
    for out in outs:
        segment(source, out, **SERIAL, ome_zarr="0.4")
    victims = random.Random(0).sample(files_of(outs[1], "labels.ome.zarr/0/*/*/*"), 5)
    for victim in victims:
        flip(victim)
    RunFolder(outs[1]).update_status(status="interrupted")
    assert 1 <= resume(outs[1]).executed <= 5
    assert stored_bytes(RunFolder(outs[0]).labels) == stored_bytes(RunFolder(outs[1]).labels)


def edit_config(out, **changes):
    import yaml

    path = RunFolder(out).config
    content = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(content | changes))


@pytest.mark.usefixtures("_no_report")
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"threshold": 77.0}, "threshold was 'otsu' and is 77"),
        ({"spot_sigma": "2"}, "spot_sigma was '1' and is '2'"),
        ({"min_volume": "6"}, "min_volume was '5' and is '6'"),
        ({"region": "0:9,0:9,0:9"}, "region was .* and is '0:9,0:9,0:9'"),
    ],
)
@pytest.mark.parametrize("complete", [True, False])
def test_a_changed_configuration_is_refused_with_the_difference(
    changes, said, complete, interrupted
):
    if complete:
        RunFolder(interrupted).update_status(status="complete")
    edit_config(interrupted, **changes)
    before = stored_bytes(interrupted)
    with pytest.raises(OutputError, match=said):
        resume(interrupted)
    assert stored_bytes(interrupted) == before


@pytest.mark.usefixtures("_no_report")
def test_what_does_not_decide_the_result_may_change(interrupted):
    edit_config(interrupted, workers=1, csv=True, memory_limit=2**40)
    assert resume(interrupted).executed == 0
    assert (interrupted / "cells.csv").exists()


@pytest.mark.usefixtures("_no_report")
def test_a_changed_input_is_refused(source, tmp_path):
    copied = tmp_path / "image.ome.zarr"
    shutil.copytree(source, copied)
    out = tmp_path / "out"
    segment(copied, out, **SERIAL)
    RunFolder(out).update_status(status="interrupted")
    chunk = files_of(copied, "0/c/**/*")[0]
    other = files_of(copied, "0/c/**/*")[5]
    chunk.write_bytes(other.read_bytes())
    with pytest.raises(OutputError, match="changed"):
        resume(out)


@pytest.mark.usefixtures("_no_report")
def test_a_journal_that_was_cut_costs_only_its_last_blocks(interrupted, undisturbed):
    for path in (interrupted / "journal").glob("*.jsonl"):
        path.write_bytes(path.read_bytes()[:-30])
    executed = resume(interrupted).executed
    assert executed == len(journalled(undisturbed))
    folder = RunFolder(interrupted)
    assert stored_bytes(folder.labels) == stored_bytes(RunFolder(undisturbed).labels)
    assert json.loads(folder.status_file.read_text())["status"] == "complete"


def test_the_grid_of_these_tests_is_cut_along_every_axis():
    grid = BlockGrid(SHAPE, BLOCK_SHAPE)
    assert all(n >= 2 for n in grid.n_blocks_per_axis)
    assert all(n % b for n, b in zip(SHAPE, BLOCK_SHAPE, strict=True))
