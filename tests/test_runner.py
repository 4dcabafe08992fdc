"""The runner: what the journal holds is skipped, checked when resumed, redone when damaged."""

import signal

import pytest
from stages import Counting, Damaged, Raising, Slow, Writing

from cellseg3d_dist.engine.executors import DaskExecutor, SerialExecutor
from cellseg3d_dist.engine.folder import RunFolder
from cellseg3d_dist.engine.progress import NoProgress
from cellseg3d_dist.engine.runner import Runner
from cellseg3d_dist.engine.stop import Interrupted
from cellseg3d_dist.errors import EnvironmentFailedError
from cellseg3d_dist.grid import BlockGrid, Selection

GRID = BlockGrid((6, 10, 10), (2, 3, 4))  # 3 x 4 x 3 blocks
BLOCKS = Selection.all(GRID)
EVERY = list(range(GRID.n_blocks))


@pytest.fixture(params=["serial", "shuffled", "dask"])
def make_runner(request, tmp_path):
    def make(verify=False, header=None):
        if request.param == "dask":
            executor = DaskExecutor(request.getfixturevalue("client_of")(2))
        else:
            executor = SerialExecutor(shuffle=5 if request.param == "shuffled" else None)
        folder = RunFolder(tmp_path)
        return Runner(folder, executor, NoProgress(), header or {"version": "1"}, verify)

    return make


def squares(records):
    return {r["block"]: r["square"] for r in records}


EXPECTED = {n: n * n for n in EVERY}


def test_a_second_sitting_executes_nothing(make_runner, tmp_path):
    stage = Counting(tmp_path)
    assert squares(make_runner().run(stage, BLOCKS)) == EXPECTED
    for verify in (False, True):
        runner = make_runner(verify)
        assert squares(runner.run(stage, BLOCKS)) == EXPECTED
        assert runner.summaries[0].executed == 0
        assert runner.summaries[0].blocks == GRID.n_blocks
    assert [stage.runs(n) for n in EVERY] == [1] * GRID.n_blocks


def test_only_what_is_missing_is_executed_and_only_what_is_asked_for_comes_back(
    make_runner, tmp_path
):
    stage = Counting(tmp_path)
    some = BLOCKS.only([2, 3, 30])
    assert squares(make_runner().run(stage, some)) == {2: 4, 3: 9, 30: 900}
    other = BLOCKS.only([3, 4])
    assert squares(make_runner().run(stage, other)) == {3: 9, 4: 16}
    assert squares(make_runner().run(stage, BLOCKS)) == EXPECTED
    assert [stage.runs(n) for n in EVERY] == [1] * GRID.n_blocks


def test_another_header_or_stage_runs_everything_again(make_runner, tmp_path):
    stage = Counting(tmp_path)
    make_runner().run(stage, BLOCKS)
    make_runner(header={"version": "2"}).run(stage, BLOCKS)
    assert [stage.runs(n) for n in EVERY] == [2] * GRID.n_blocks


def test_failed_blocks_are_kept_apart_and_tried_again_by_the_next_sitting(make_runner, tmp_path):
    runner = make_runner()
    found = squares(runner.run(Raising(tmp_path, bad=(7, 8)), BLOCKS))
    assert set(found) == set(EVERY) - {7, 8}
    assert set(runner.failed) == {7, 8}
    block, name, error = runner.failed[7]
    assert (block.number, name) == (7, "counting")
    assert "value 7 is bad" in error
    again = make_runner(verify=True)
    assert squares(again.run(Counting(tmp_path), BLOCKS)) == EXPECTED
    assert again.summaries[0].executed == 2
    assert not again.failed


def test_damaged_blocks_are_redone_in_a_resumed_run_only(make_runner, tmp_path):
    make_runner().run(Counting(tmp_path), BLOCKS)
    runner = make_runner(verify=False)
    assert squares(runner.run(Damaged(tmp_path), BLOCKS)) == EXPECTED
    assert runner.summaries[0].executed == 0
    runner = make_runner(verify=True)
    assert squares(runner.run(Damaged(tmp_path), BLOCKS)) == EXPECTED
    assert runner.summaries[0].executed == 2
    assert [Counting(tmp_path).runs(n) for n in (4, 5, 6, 7)] == [1, 2, 2, 1]


def test_a_failure_of_the_environment_ends_the_run_and_says_how_to_go_on(make_runner, tmp_path):
    stage = Raising(tmp_path, bad=(20,), error=OSError)
    runner = make_runner()
    with pytest.raises(EnvironmentFailedError, match=r"Block .* of counting: .*resume"):
        runner.run(stage, BLOCKS)
    done = runner.summaries[0].executed
    again = make_runner(verify=True)
    assert squares(again.run(Counting(tmp_path), BLOCKS)) == EXPECTED
    assert again.summaries[0].executed == GRID.n_blocks - done


class StopAfter(NoProgress):
    """Asks for a stop after some blocks, as a signal would."""

    def __init__(self, n):
        self.left, self.runner = n, None

    def advance(self, voxels):
        self.left -= 1
        if self.left == 0:
            self.runner.stop.request(signal.SIGTERM)


def test_a_stop_notes_what_was_in_flight_and_resuming_does_the_rest_once(make_runner, tmp_path):
    stage = Slow(tmp_path, seconds=0.01)
    runner = make_runner()
    runner.progress = StopAfter(3)
    runner.progress.runner = runner
    with pytest.raises(Interrupted) as caught:
        runner.run(stage, BLOCKS)
    assert caught.value.signal_number == signal.SIGTERM
    begun = [n for n in EVERY if stage.runs(n)]
    assert 3 <= len(begun) < GRID.n_blocks
    # some may be begun in the moment in which those that wait are taken back, never more than wait
    assert 0 <= len(begun) - runner.summaries[0].executed < 16
    with pytest.raises(Interrupted):
        runner.run(Counting(tmp_path, name="next"), BLOCKS)
    assert runner.summaries[1].executed == 0
    again = make_runner(verify=True)
    assert squares(again.run(stage, BLOCKS)) == EXPECTED
    assert again.summaries[0].executed == GRID.n_blocks - runner.summaries[0].executed


def test_what_a_stage_took_is_summed_over_sittings(make_runner, tmp_path):
    first = make_runner()
    with first.step("all"):
        first.run(Raising(tmp_path, bad=(7, 8)), BLOCKS)
    (one,) = first.summaries
    assert (one.blocks, one.executed) == (GRID.n_blocks, GRID.n_blocks - 2)
    assert 0 <= one.first_seconds <= one.busy_seconds
    assert one.peak_rss > 0
    # the stage is not counted again as a step of the driver
    assert first.steps["all"] < 0.5 * one.seconds + 0.5
    noted = one.with_earlier({})
    again = make_runner()
    again.run(Counting(tmp_path), BLOCKS)
    both = again.summaries[0].with_earlier(noted)
    assert both["executed"] == both["blocks"] == GRID.n_blocks
    assert both["voxels"] == 6 * 10 * 10
    for key in ("seconds", "busy_seconds", "cpu_seconds", "read_bytes", "written_bytes"):
        assert both[key] == noted[key] + vars(again.summaries[0])[key]


def test_bytes_written_by_blocks_are_counted(tmp_path):
    def written(size):
        runner = Runner(RunFolder(tmp_path / str(size)), SerialExecutor(), NoProgress(), {})
        runner.run(Writing(tmp_path, size=size), BLOCKS)
        return runner.summaries[0].written_bytes

    few = written(1)
    if not few:
        pytest.skip("the kernel counts no bytes")
    assert 0 <= written(1001) - few - 1000 * GRID.n_blocks < 100
