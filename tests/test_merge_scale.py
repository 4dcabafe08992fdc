"""The merge in parts, in groups on the workers, and its tables: one answer, bounded memory."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from segmenting import run, store

from cellseg3d_dist.engine import merge as engine_merge
from cellseg3d_dist.engine import merge_groups
from cellseg3d_dist.engine.executors import SerialExecutor
from cellseg3d_dist.engine.folder import RunFolder
from cellseg3d_dist.engine.fragments import Fragments
from cellseg3d_dist.engine.merge import merge_fragments
from cellseg3d_dist.engine.merge_groups import merge_in_groups
from cellseg3d_dist.engine.progress import NoProgress
from cellseg3d_dist.engine.records import record_path, write_record
from cellseg3d_dist.engine.runner import Runner
from cellseg3d_dist.engine.tables import TableWriter, table
from cellseg3d_dist.errors import EnvironmentFailedError
from cellseg3d_dist.grid import BlockGrid, Selection
from cellseg3d_dist.instances.filters import gaussian
from cellseg3d_dist.merging.names import edges_by_name, owners_of
from cellseg3d_dist.merging.union_find import NO_CELL, Forest, Limits, in_order, merge

seeds = st.integers(0, 2**32 - 1)


class Case:
    """Fragments and contacts of a random volume, as blocks would have written them."""

    def __init__(self, path, seed, shape, block_shape, lost=0.1):
        self.rng = rng = np.random.default_rng(seed)
        self.folder = RunFolder(path)
        self.folder.work.mkdir()
        self.grid = BlockGrid(shape, block_shape)
        self.fragments = Fragments(self.folder.work, self.grid)
        self.names, self.sizes = {}, {}
        there = np.flatnonzero(rng.random(self.grid.n_blocks) >= lost)
        self.labelled = Selection(self.grid, there)
        n = self.grid.n_blocks
        voxels = int(np.prod(shape))
        chosen = 1 + rng.permutation(voxels)[: rng.integers(0, min(voxels, 60) + 1)]
        for block in self.labelled:
            held = rng.random(chosen.size) < 2 / n
            own = owners_of(chosen.astype(np.uint64), self.grid) == block.number
            held |= own & (rng.random(chosen.size) < 0.9)
            self.names[block.number] = np.sort(chosen[held]).astype(np.uint64)
            self.sizes[block.number] = rng.integers(1, 50, np.count_nonzero(held))
            path = record_path(self.folder.work / "objects-label", block)
            sizes = self.sizes[block.number]
            write_record(path, names=self.names[block.number], sizes=sizes)
        passes = np.zeros(n, np.uint8)
        passes[there] = 1
        self.fragments.set_passes(passes)

    def with_own_names(self):
        """Names for a merge by contact: no two fragments have the same."""
        flat = np.sort(self.rng.permutation(10_000)[: sum(map(len, self.names.values()))] + 1)
        for block in self.labelled:
            held = self.names[block.number].size
            picked = self.rng.permutation(flat.size)[:held]
            self.names[block.number] = np.sort(flat[picked]).astype(np.uint64)
            flat = np.delete(flat, picked)
            path = record_path(self.folder.work / "objects-label", block)
            write_record(path, names=self.names[block.number], sizes=self.sizes[block.number])
        return self

    def contacts(self):
        """Random contacts of labelled blocks, also with blocks that failed since."""
        folder, total = self.folder.work / "contacts", 0
        for block in self.labelled:
            pairs, neighbours = [], []
            for _ in range(self.rng.integers(0, 4) if self.names[block.number].size else 0):
                other = int(self.rng.integers(0, self.grid.n_blocks))
                count = self.names[other].size if other in self.names else 3
                if count:
                    own = self.rng.integers(1, self.names[block.number].size + 1)
                    pairs.append((own, self.rng.integers(1, count + 1)))
                    neighbours.append(other)
            total += len(pairs)
            write_record(
                record_path(folder, block),
                pairs=np.array(pairs, np.uint32).reshape(-1, 2),
                neighbour=np.array(neighbours, np.int64),
            )
        return folder

    def runner(self, verify=False, executor=None):
        executor = executor or SerialExecutor(shuffle=3)
        return Runner(self.folder, executor, NoProgress(), {"version": "1"}, verify)

    def merged(self, edges_from, size, limits=(None, None), runner=None):
        """Result and tables of the merge, in this process for no ``size``."""
        out = self.folder.work / ("merge" if size else "merge-here")
        if size is None:
            found = merge_fragments(self.fragments, self.labelled, edges_from, out, *limits)
        else:
            found = merge_in_groups(
                self.fragments, self.labelled, edges_from, out, Limits(*limits),
                runner or self.runner(), size,
            )  # fmt: skip
        tables = [(out / f"{name}.npy").read_bytes() for name in ("final", "offsets", "names")]
        return found.to_dict() | {"digest": found.lookup_digest}, tables


shapes = st.tuples(*[st.integers(1, 7)] * 3)
limits = st.sampled_from([(None, None), (30, None), (None, 60), (20, 90)])


@given(seeds, shapes, shapes, st.integers(1, 9), limits, st.booleans(), st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_groups_of_any_size_give_the_tables_of_one_process(
    tmp_path_factory, seed, shape, block_shape, size, limits, by_name, most
):
    case = Case(tmp_path_factory.mktemp("run"), seed, shape, block_shape)
    if not len(case.labelled):
        return
    edges_from = None if by_name else case.with_own_names().contacts()
    expected = case.merged(edges_from, None, limits)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merge_groups, "RANGE_CELLS", most)
        assert case.merged(edges_from, size, limits) == expected


@given(seeds, shapes, shapes)
@settings(max_examples=30, deadline=None)
def test_a_merge_in_parts_is_that_of_all_edges_at_once(tmp_path_factory, seed, shape, block_shape):
    case = Case(tmp_path_factory.mktemp("run"), seed, shape, block_shape)
    numbers = case.labelled.numbers.tolist()
    counts = np.zeros(case.grid.n_blocks + 1, np.int64)
    counts[np.array(numbers, int) + 1] = [case.names[n].size for n in numbers]
    names = np.concatenate([np.empty(0, np.uint64), *(case.names[n] for n in numbers)])
    sizes = np.concatenate([np.empty(0, np.int64), *(case.sizes[n] for n in numbers)])
    offsets = np.cumsum(counts)
    whole = merge(names, sizes, edges_by_name(names, offsets, owners_of(names, case.grid)), 20)
    case.merged(None, None, (20, None))
    folder = case.folder.work / "merge-here"
    np.testing.assert_array_equal(table(folder, "final"), whole.final)
    np.testing.assert_array_equal(table(folder, "names"), whole.names)
    np.testing.assert_array_equal(table(folder, "offsets"), offsets)


@pytest.fixture
def case(tmp_path):
    return Case(tmp_path, 4, (7, 7, 7), (2, 2, 2))


def test_a_merge_in_groups_goes_on_where_it_was_stopped(case):
    expected = case.merged(None, 5)
    again = case.runner(verify=True)
    assert case.merged(None, 5, runner=again) == expected
    assert sum(summary.executed for summary in again.summaries) == 0
    pieces = sorted((case.folder.work / "merge").glob("groups-*/*/*"))
    pieces += sorted((case.folder.work / "merge").glob("groups-*/*/*/*.rec"))
    files = [piece for piece in pieces if piece.is_file()]
    assert len({file.relative_to(case.folder.work).parts[2] for file in files}) == 8
    for file in files[::3]:
        file.write_bytes(file.read_bytes()[:-1])
        mended = case.runner(verify=True)
        assert case.merged(None, 5, runner=mended) == expected
        assert sum(summary.executed for summary in mended.summaries) == 1


def test_other_fragments_or_limits_start_the_groups_anew(case):
    case.merged(None, 5, (20, None))
    runner = case.runner()
    assert case.merged(None, 5, (30, None), runner) == case.merged(None, None, (30, None))
    executed = {summary.stage: summary.executed for summary in runner.summaries}
    assert executed["merge-inside"] == 0
    assert executed["merge-cells"] > 0
    other = case.runner()
    other.decided["label"] = {"threshold": 3}
    case.merged(None, 5, (30, None), other)
    assert all(summary.executed for summary in other.summaries)


def test_a_group_that_fails_is_one_line_and_no_failed_block(case, monkeypatch):
    def broken(*args):
        raise ValueError("no such thing")

    monkeypatch.setattr("cellseg3d_dist.engine.stages.merging.unite_by_name", broken)
    runner = case.runner()
    with pytest.raises(
        EnvironmentFailedError, match=r"merge-inside: part .* no such thing.*resume"
    ):
        case.merged(None, 5, runner=runner)
    assert runner.failed == {}


def test_the_limits_of_one_process_choose(case, monkeypatch):
    def stages_run():
        runner, out = case.runner(), case.folder.work / "merge"
        merge_fragments(case.fragments, case.labelled, None, out, None, None, runner)
        return len(runner.summaries)

    assert stages_run() == 0
    monkeypatch.setattr(engine_merge, "GROUP_FRAGMENTS", 4)
    for name in ("MOST_BLOCKS", "MOST_FRAGMENTS"):
        with monkeypatch.context() as patch:
            patch.setattr(engine_merge, name, 3)
            assert stages_run() == 5


@given(seeds, st.integers(0, 300), st.sampled_from([1, 300, 2**20, 2**40, 2**63]))
@settings(max_examples=60, deadline=None)
def test_names_are_put_in_order_whatever_their_spread(seed, n, spread):
    rng = np.random.default_rng(seed)
    names = rng.integers(0, spread, n, dtype=np.uint64, endpoint=True)
    names[rng.random(n) < 0.3] = NO_CELL
    there = np.flatnonzero(names != NO_CELL)
    expected = there[np.argsort(names[there], kind="stable")]
    parts = list(in_order(names, there.size))
    found = np.concatenate([np.empty(0, np.int64), *(at for at, _ in parts)])
    np.testing.assert_array_equal(found, expected)
    listed = np.concatenate([np.empty(0, np.uint64), *(part for _, part in parts)])
    np.testing.assert_array_equal(listed, names[expected])


def test_sizes_are_not_told_apart_beyond_the_limits_but_never_wrap():
    huge = np.array([2**40, 2**40, 5, 6], np.int64)
    edges = np.array([[0, 1]])
    for most, kept in ((2**41, [1, 1, 2, 3]), (2**41 - 1, [0, 0, 1, 2]), (5, [0, 0, 1, 0])):
        found = merge(np.arange(1, 5, dtype=np.uint64), huge, edges, None, most)
        assert found.final.tolist() == kept
    found = merge(np.arange(1, 5, dtype=np.uint64), huge, edges, 6, None)
    assert found.final.tolist() == [1, 1, 0, 2]


def test_a_forest_takes_more_than_was_expected():
    forest, kept = Forest(Limits(2), expected=3), []
    for start in range(0, 5000, 500):
        forest.add(np.arange(start, start + 500, dtype=np.uint64), np.full(500, 1))
    forest.unite(np.stack((np.arange(0, 4998), np.arange(2, 5000)), 1))
    found = forest.number(kept.append)
    assert (found.n_cells, np.concatenate(kept).tolist()) == (2, [0, 1])
    np.testing.assert_array_equal(found.final(0, 5000), 1 + np.arange(5000) % 2)


def test_a_table_written_in_parts_is_one_array_or_nothing(tmp_path):
    parts = [np.arange(n, dtype=np.uint16) for n in (3, 0, 70_000)]
    with TableWriter(tmp_path, "t", np.uint16) as writer:
        for part in parts:
            writer.append(part)
    np.testing.assert_array_equal(np.load(tmp_path / "t.npy"), np.concatenate(parts))
    with TableWriter(tmp_path, "u", np.uint16) as whole:
        whole.append(np.concatenate(parts))
    assert whole.digest == writer.digest

    def cut_short():
        with TableWriter(tmp_path, "v", np.uint16) as writer:
            writer.append(parts[0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut_short()
    assert not (tmp_path / "v.npy").exists()


@pytest.mark.parametrize("instances", ["voronoi-otsu", "components"])
def test_a_run_whose_merge_is_on_the_workers_writes_the_same_labels(
    tmp_path, monkeypatch, instances
):
    rng = np.random.default_rng(8)
    image = (
        255 * (gaussian(rng.random((30, 28, 26)).astype(np.float32), (2.0,) * 3) > 0.5)
    ).astype(np.uint8)
    path = store(tmp_path / "image", image)
    how = {"instances": instances, "block_shape": (16, 16, 16), "spot_sigma": 1, "min_volume": 20,
           "outline_sigma": 0, "threshold": 100}  # fmt: skip
    expected = run(path, tmp_path / "here", **how)
    monkeypatch.setattr(engine_merge, "MOST_BLOCKS", 2)
    monkeypatch.setattr(engine_merge, "GROUP_FRAGMENTS", 8)
    found = run(path, tmp_path / "groups", **how)
    found.assert_same(expected)
    assert found.facts["merge"] == expected.facts["merge"]
    stages = {
        stage["stage"]: stage["blocks"]
        for stage in RunFolder(tmp_path / "groups").status()["stages"]
    }
    assert stages["merge-inside"] > 1
    assert "merge-inside" not in {
        s["stage"] for s in RunFolder(tmp_path / "here").status()["stages"]
    }


READS_ONE_BLOCK = """
import sys
from pathlib import Path
from cellseg3d_dist.engine.stage import peak_rss
from cellseg3d_dist.engine.stages.relabel import Relabel
from cellseg3d_dist.grid import BlockGrid

stage = Relabel(None, None, None, None, Path(sys.argv[1]), "d", ())
before = peak_rss()
final = stage._final(BlockGrid((100, 1, 1), (1, 1, 1)).block(50))
print(final.size, int(final.sum()), peak_rss() - before)
"""


def test_a_worker_reads_its_slice_of_the_lookup_alone(tmp_path):
    # 4 GB of zeros that are holes in the file, and one block's ids in their midst
    final = np.lib.format.open_memmap(tmp_path / "final.npy", "w+", np.uint32, (10**9,))
    final[5 * 10**8 : 5 * 10**8 + 1000] = 7
    del final
    offsets = np.concatenate((np.full(51, 5 * 10**8), np.full(50, 5 * 10**8 + 1000)))
    np.save(tmp_path / "offsets.npy", offsets)
    command = [sys.executable, "-c", READS_ONE_BLOCK, str(tmp_path)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert answer[:2] == ["1000", "7000"]
    assert int(answer[2]) < 2**22
