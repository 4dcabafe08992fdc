"""Executors: the same outcomes one after the other and on workers, whatever goes wrong."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from distributed import Client
from stages import Counting, Killing, KillingWorker, Raising, Slow, ThirdFailsOnce

from cellseg3d_dist.engine.executors import ATTEMPTS, DaskExecutor, SerialExecutor
from cellseg3d_dist.errors import EnvironmentFailedError, VolumeError
from cellseg3d_dist.grid import BlockGrid, Selection

GRID = BlockGrid((20, 30, 7), (7, 6, 4))  # 3 x 5 x 2 blocks
BLOCKS = Selection.all(GRID)
#: What a record says of the work, not of the result.
USED = ("seconds", "cpu_seconds", "read_bytes", "written_bytes", "peak_rss", "first_here")


@pytest.fixture(params=["serial", "shuffled", "dask 1", "dask 2"])
def executor(request):
    if request.param == "serial":
        return SerialExecutor()
    if request.param == "shuffled":
        return SerialExecutor(shuffle=3)
    return DaskExecutor(request.getfixturevalue("client_of")(int(request.param[-1])))


def outcomes(executor, stage, blocks=BLOCKS):
    found = list(executor.run(stage, blocks))
    assert len({o.block for o in found}) == len(found)
    return {outcome.block.number: outcome for outcome in found}


def without_timings(outcome):
    return {k: v for k, v in outcome.record.items() if k not in USED}


def assert_all_done(found, stage):
    assert sorted(found) == list(range(GRID.n_blocks))
    for number, outcome in found.items():
        start = list(GRID.block(number).write_region.start)
        assert without_timings(outcome) == {"square": number**2, "start": start}
        assert outcome.record["seconds"] >= 0
        assert outcome.record["peak_rss"] > 2**20
        assert outcome.block == GRID.block(number)


def test_every_block_is_done_once(executor, tmp_path):
    stage = Counting(tmp_path)
    assert_all_done(outcomes(executor, stage), stage)
    assert [stage.runs(n) for n in range(GRID.n_blocks)] == [1] * GRID.n_blocks


def test_no_blocks_and_a_second_run(executor, tmp_path):
    stage = Counting(tmp_path)
    assert outcomes(executor, stage, []) == {}
    few = BLOCKS.only([3, 17])
    assert sorted(outcomes(executor, stage, few)) == [3, 17]
    assert sorted(outcomes(executor, stage, few)) == [3, 17]
    assert stage.runs(3) == 2


def test_every_third_block_fails_once(executor, tmp_path):
    stage = ThirdFailsOnce(tmp_path)
    assert_all_done(outcomes(executor, stage), stage)
    expected = [2 if n % 3 == 0 else 1 for n in range(GRID.n_blocks)]
    assert [stage.runs(n) for n in range(GRID.n_blocks)] == expected


@pytest.mark.parametrize("error", [ValueError, MemoryError, VolumeError])
def test_a_block_that_raises_is_its_own_outcome(executor, tmp_path, error):
    stage = Raising(tmp_path, bad=(0, 13, 29), error=error)
    found = outcomes(executor, stage)
    failed = {n for n, outcome in found.items() if outcome.failed}
    assert failed == {0, 13, 29}
    assert len(found) == GRID.n_blocks
    name = "" if error is VolumeError else f"{error.__name__}: "
    assert found[13].error == f"{name}value 13 is bad"
    assert not found[13].environment
    assert stage.runs(13) == 1


@pytest.mark.parametrize("error", [OSError, EnvironmentFailedError])
def test_errors_of_the_environment_are_tried_a_bounded_number_of_times(executor, tmp_path, error):
    stage = Raising(tmp_path, bad=(5,), error=error)
    found = outcomes(executor, stage)
    assert [n for n, outcome in found.items() if outcome.failed] == [5]
    assert found[5].environment
    assert stage.runs(5) == ATTEMPTS


def test_after_a_stop_no_block_is_begun_and_none_in_flight_is_lost(executor, tmp_path):
    stage = Slow(tmp_path, seconds=0.05)
    seen = []
    for outcome in executor.run(stage, BLOCKS):
        seen.append(outcome.block.number)
        if len(seen) == 2:
            executor.stop()
    executed = [n for n in range(GRID.n_blocks) if stage.runs(n)]
    assert set(seen) <= set(executed)
    # one may be begun while those that wait are taken back
    assert len(executed) <= len(seen) + 1
    assert len(seen) <= 2 + 4 * executor.n_workers < GRID.n_blocks
    assert list(executor.run(stage, BLOCKS)) == []


@pytest.mark.parametrize("window", [1, 3, 16])
def test_no_more_than_a_window_of_blocks_is_ever_taken(client_of, tmp_path, window):
    grid = BlockGrid((60, 1, 1), (1, 1, 1))
    ahead = most = 0

    def blocks():
        nonlocal ahead, most
        for block in grid.blocks():
            ahead += 1
            most = max(most, ahead)
            yield block

    client = client_of(2)
    for _ in DaskExecutor(client, window).run(Counting(tmp_path), blocks()):
        ahead -= 1
        assert len(client.futures) <= window + 1
    assert most == window
    deadline = time.monotonic() + 10
    while client.futures and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not client.futures


def test_blocks_are_taken_only_as_they_are_wanted_one_after_the_other(tmp_path):
    taken = []

    def blocks():
        for block in BLOCKS:
            taken.append(block.number)
            yield block

    running = SerialExecutor().run(Counting(tmp_path), blocks())
    assert taken == []
    next(running)
    assert taken == [0]


@contextlib.contextmanager
def blamed_after(client, deaths):
    scheduler = client.cluster.scheduler
    before, scheduler.allowed_failures = scheduler.allowed_failures, deaths - 1
    try:
        yield
    finally:
        scheduler.allowed_failures = before


@pytest.mark.parametrize("workers", [1, 2])
def test_a_poison_block_fails_alone(client_of, tmp_path, workers):
    client = client_of(workers)
    stage = Killing(tmp_path, bad=(11,))
    with blamed_after(client, 1):
        found = outcomes(DaskExecutor(client), stage)
    assert len(found) == GRID.n_blocks
    assert [n for n, outcome in found.items() if outcome.failed] == [11]
    assert "worker process died" in found[11].error
    assert not found[11].environment
    # in company and then alone
    assert stage.runs(11) == 2


def test_two_poison_blocks_fail_and_take_no_other_with_them(client_of, tmp_path):
    client = client_of(2)
    stage = Killing(tmp_path, bad=(4, 5))
    with blamed_after(client, 1):
        found = outcomes(DaskExecutor(client), stage)
    assert sorted(n for n, outcome in found.items() if outcome.failed) == [4, 5]
    assert len(found) == GRID.n_blocks


def test_a_worker_that_is_killed_costs_at_most_its_blocks_in_flight(client_of, tmp_path):
    client = client_of(2)
    stage = KillingWorker(tmp_path, bad=9)
    assert_all_done(outcomes(DaskExecutor(client), stage), stage)
    extra = sum(stage.runs(n) for n in range(GRID.n_blocks)) - GRID.n_blocks
    assert 1 <= extra <= 16
    assert stage.runs(9) == 2


@contextlib.contextmanager
def own_processes(folder):
    """A scheduler and a worker in processes of their own, and a client."""
    where = folder / "scheduler.json"
    common = ["--scheduler-file", str(where), "--no-dashboard"]
    commands = [
        ["distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"],
        ["distributed.cli.dask_worker", "--nthreads", "1", "--no-nanny"],
    ]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    with contextlib.ExitStack() as stack:
        started = []
        for name, *options in commands:
            with (folder / f"{name}.log").open("w") as log:
                started.append(
                    subprocess.Popen(
                        [sys.executable, "-m", name, *common, *options],
                        env=environment, cwd=folder, stdout=log, stderr=log,
                    )
                )  # fmt: skip
            stack.callback(started[-1].wait)
            stack.callback(started[-1].kill)
        deadline = time.monotonic() + 60
        while not where.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        client = Client(scheduler_file=str(where), timeout=30, set_as_default=False)
        try:
            client.wait_for_workers(1, timeout=60)
            yield started[0], client
        finally:
            with contextlib.suppress(OSError, TimeoutError):
                client.close(timeout=1)


def test_a_killed_scheduler_is_said_in_one_line_within_seconds(tmp_path):
    with own_processes(tmp_path) as (scheduler, client):
        running = DaskExecutor(client).run(Slow(tmp_path, seconds=0.02), BLOCKS)
        next(running)
        scheduler.kill()
        began = time.monotonic()
        with pytest.raises(EnvironmentFailedError, match=r"^Stage counting: .* resume the run\.$"):
            list(running)
        assert time.monotonic() - began < 10


def test_a_client_that_was_closed_is_a_lost_scheduler(tmp_path):
    with own_processes(tmp_path) as (_, client):
        running = DaskExecutor(client).run(Slow(tmp_path, seconds=0.02), BLOCKS)
        next(running)
        client.close()
        with pytest.raises(EnvironmentFailedError, match="was lost"):
            list(running)
