"""Suppression of star-convex objects: greedy, and the same however the volume is cut."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellseg3d_dist.errors import BadInputError
from cellseg3d_dist.grid import BlockGrid, Region
from cellseg3d_dist.instances.spots import names_of_seeds
from cellseg3d_dist.representations.polyhedra import paint, sizes, stencil
from cellseg3d_dist.representations.rays import fibonacci_rays
from cellseg3d_dist.representations.suppression import (
    KEPT,
    OPEN,
    SUPPRESSED,
    Candidates,
    candidates,
    decide,
    out_of_reach,
    pairs,
    suppress,
)

N_RAYS = 8
STENCIL = stencil(fibonacci_rays(N_RAYS), (1.0, 1.0, 1.0), 3.0)
COARSE = stencil(fibonacci_rays(N_RAYS), (2.0, 1.0, 1.0), 3.0)
OVERLAP = 0.3


def made(positions, probability, distances, shape) -> Candidates:
    """Candidates in the order of names."""
    positions = np.array(positions, np.int64).reshape(-1, 3)
    index = np.ravel_multi_index(tuple(positions.T), shape).astype(np.int64)
    names = names_of_seeds(index, Region.whole(shape), shape)
    order = np.argsort(names)
    return Candidates(
        names[order],
        positions[order],
        np.array(probability, np.uint8)[order],
        np.array(distances, np.uint8).reshape(-1, N_RAYS)[order],
    )


def random_candidates(seed: int, shape, n: int, n_levels: int = 6) -> Candidates:
    """Different centres, probabilities with many ties, any radii."""
    rng = np.random.default_rng(seed)
    index = rng.choice(np.prod(shape), min(n, int(np.prod(shape))), replace=False)
    positions = np.stack(np.unravel_index(index, shape), axis=1)
    radii = rng.integers(60, 256, (index.size, 1))
    distances = np.clip(radii + rng.integers(-40, 40, (index.size, N_RAYS)), 0, 255)
    return made(positions, 128 + rng.integers(0, n_levels, index.size), distances, shape)


def voxels_of(found: Candidates, i: int, shape) -> set[tuple[int, ...]]:
    """The voxels of one candidate, by painting it alone on an unbounded grid."""
    low = found.positions[i] - np.array(shape.half)
    high = found.positions[i] + np.array(shape.half) + 1
    region = Region(tuple(map(int, low)), tuple(map(int, high)))
    painted = paint(region, found.positions[i : i + 1], found.distances[i : i + 1], shape)
    return {tuple(v) for v in (np.argwhere(painted) + low).tolist()}


def greedy(found: Candidates, shape, overlap: float) -> list[bool]:
    """Textbook non-maximum suppression on sets of voxels."""
    bodies = [voxels_of(found, i, shape) for i in range(len(found))]
    order = sorted(range(len(found)), key=lambda i: (-int(found.probability[i]), found.names[i]))
    kept: list[int] = []
    for i in order:
        if not any(
            len(bodies[i] & bodies[j]) > overlap * min(len(bodies[i]), len(bodies[j])) for j in kept
        ):
            kept.append(i)
    return [i in kept for i in range(len(found))]


class Cut:
    """A volume's candidates in blocks that know their surroundings and exchange states."""

    def __init__(self, found: Candidates, shape, block_shape, geometry, overlap=OVERLAP):
        self.found = found
        self.states = np.full(len(found), OPEN, np.int8)
        self.blocks = []
        self.rounds = 0
        grid = BlockGrid(shape, block_shape)
        for block in grid.blocks():
            known = grid.read_region(block, geometry.overlap_halo)
            index = np.flatnonzero(inside(found, known))
            part = found.take(index)
            self.blocks.append(
                (
                    index,
                    part,
                    pairs(part, geometry, overlap),
                    out_of_reach(part, known, shape, geometry),
                    inside(part, block.write_region),
                )
            )

    def round(self, order) -> bool:
        """Each block decides what it can from the owners' last states; whether any did."""
        published = self.states.copy()
        for k in order:
            index, part, overlapping, safe, own = self.blocks[k]
            states = decide(part, overlapping, safe, self.states[index])
            assert safe[own].all()
            published[index[own]] = states[own]
        changed = bool((published != self.states).any())
        self.states = published
        self.rounds += changed
        return changed


def inside(found: Candidates, region: Region):
    start, stop = np.array(region.start), np.array(region.stop)
    return ((found.positions >= start) & (found.positions < stop)).all(axis=1)


class TestGreedy:
    @pytest.mark.parametrize("geometry", [STENCIL, COARSE])
    @pytest.mark.parametrize("overlap", [0.0, 0.3, 1.0])
    def test_as_the_textbook(self, geometry, overlap):
        for seed in range(4):
            found = random_candidates(seed, (8, 14, 14), 40)
            states = suppress(found, geometry, overlap)
            assert (states == KEPT).tolist() == greedy(found, geometry, overlap)
            assert set(states.tolist()) <= {int(KEPT), int(SUPPRESSED)}

    def test_pairs_are_all_that_overlap(self):
        found = random_candidates(5, (9, 12, 40), 60)
        bodies = [voxels_of(found, i, STENCIL) for i in range(len(found))]
        assert sizes(found.distances, STENCIL).tolist() == [len(b) for b in bodies]
        rank = np.argsort(found.order())
        expected = {
            (i, j) if rank[i] < rank[j] else (j, i)
            for i, j in itertools.combinations(range(len(found)), 2)
            if len(bodies[i] & bodies[j]) > OVERLAP * min(len(bodies[i]), len(bodies[j]))
        }
        overlapping = pairs(found, STENCIL, OVERLAP)
        assert {tuple(p) for p in overlapping.tolist()} == expected
        assert len(overlapping) == len(expected)

    @pytest.mark.parametrize("axis", [0, 1, 2])
    def test_pairs_as_far_apart_as_can_be(self, axis):
        for shift in range(8):
            positions = np.full((2, 3), 4)
            positions[:, axis] = (3 + shift, 9 + shift)
            found = made(positions, [200, 210], np.full((2, N_RAYS), 255), (20, 20, 20))
            # one voxel in common, at the tip of both
            assert len(pairs(found, STENCIL, 0.0)) == 1

    def test_a_tie_goes_to_the_smaller_name(self):
        # x is slowest in names: the second comes first
        found = made([(2, 2, 4), (3, 3, 3)], [200, 200], np.full((2, N_RAYS), 255), (6, 6, 8))
        kept = found.take(suppress(found, STENCIL, OVERLAP) == KEPT)
        assert kept.positions.tolist() == [[3, 3, 3]]

    def test_the_suppressed_suppress_nothing(self):
        row = made(
            [(4, 4, x) for x in (4, 7, 10)], [250, 240, 230], np.full((3, N_RAYS), 255), (9, 9, 15)
        )
        assert suppress(row, STENCIL, 0.1).tolist() == [KEPT, SUPPRESSED, KEPT]

    def test_none(self):
        nothing = random_candidates(0, (4, 4, 4), 0)
        assert suppress(nothing, STENCIL, OVERLAP).size == 0
        assert pairs(nothing, STENCIL, OVERLAP).shape == (0, 2)
        assert not paint(
            Region.whole((3, 3, 3)), nothing.positions, nothing.distances, STENCIL
        ).any()

    def test_one_voxel_each(self):
        found = made([(1, 1, 1), (1, 1, 2)], [200, 200], np.zeros((2, N_RAYS)), (3, 3, 4))
        assert suppress(found, STENCIL, 0.0).tolist() == [KEPT, KEPT]
        assert sizes(found.distances, STENCIL).tolist() == [1, 1]


class TestBlocks:
    @settings(max_examples=60, deadline=None)
    @given(
        seed=st.integers(0, 10_000),
        n=st.integers(0, 120),
        n_levels=st.sampled_from([1, 3, 100]),
        block=st.tuples(st.integers(3, 11), st.integers(3, 16), st.integers(3, 30)),
        coarse=st.booleans(),
        data=st.data(),
    )
    def test_rounds_of_exchange_end_in_the_greedy_result(
        self, seed, n, n_levels, block, coarse, data
    ):
        geometry = COARSE if coarse else STENCIL
        shape = (9, 14, 30)
        found = random_candidates(seed, shape, n, n_levels)
        cut = Cut(found, shape, block, geometry)
        whole = suppress(found, geometry, OVERLAP)
        changed = True
        while changed:
            changed = cut.round(data.draw(st.permutations(range(len(cut.blocks)))))
            decided = cut.states != OPEN
            assert (cut.states[decided] == whole[decided]).all()
        assert (cut.states == whole).all()

    @pytest.mark.parametrize("rising", [False, True])
    def test_a_chain_through_every_block(self, rising):
        # each is suppressed or kept by what its better neighbour is, all along the row
        shape = (7, 7, 400)
        at = range(3, 397, 3)
        levels = np.arange(len(at)) + 100
        found = made(
            [(3, 3, x) for x in at],
            levels if rising else levels[::-1],
            np.full((len(at), N_RAYS), 255),
            shape,
        )
        whole = suppress(found, STENCIL, 0.1)
        assert whole.tolist() == ([KEPT, SUPPRESSED] * len(at))[: len(at)][:: -1 if rising else 1]
        cut = Cut(found, shape, (7, 7, 20), STENCIL, 0.1)
        while cut.round(range(20)):
            pass
        assert (cut.states == whole).all()
        assert 2 < cut.rounds <= 20

    @settings(max_examples=60, deadline=None)
    @given(
        seed=st.integers(0, 10_000),
        n=st.integers(1, 150),
        low=st.tuples(st.integers(0, 8), st.integers(0, 8), st.integers(0, 12)),
        size=st.tuples(st.integers(1, 14), st.integers(1, 14), st.integers(1, 25)),
    )
    def test_what_a_region_decides_alone_is_true_of_the_volume(self, seed, n, low, size):
        shape = (10, 14, 30)
        found = random_candidates(seed, shape, n)
        known = Region(low, tuple(a + b for a, b in zip(low, size, strict=True)))
        known = known.intersect(Region.whole(shape))
        index = np.flatnonzero(inside(found, known))
        part = found.take(index)
        states = decide(
            part,
            pairs(part, STENCIL, OVERLAP),
            out_of_reach(part, known, shape, STENCIL),
            np.full(len(part), OPEN, np.int8),
        )
        whole = suppress(found, STENCIL, OVERLAP)[index]
        assert (states[states != OPEN] == whole[states != OPEN]).all()

    @pytest.mark.parametrize("axis", [0, 1, 2])
    @pytest.mark.parametrize("above", [False, True])
    def test_a_large_stranger_may_reach_far(self, axis, above):
        # a small candidate well inside, and a better large one just beyond the region
        shape = (20, 20, 20)
        positions = np.full((2, 3), 10)
        positions[1, axis] += 3 if above else -3
        distances = np.full((2, N_RAYS), 255)
        distances[0] = 85
        found = made(positions, [200, 210], distances, shape)
        small = found.take(found.probability == 200)
        known = Region.whole(shape)
        start, stop = list(known.start), list(known.stop)
        if above:
            stop[axis] = 13
        else:
            start[axis] = 8
        assert suppress(found, STENCIL, 0.1)[found.probability == 200] == SUPPRESSED
        assert not out_of_reach(small, Region(tuple(start), tuple(stop)), shape, STENCIL).any()
        if above:
            stop[axis] = 15
        else:
            start[axis] = 6
        assert out_of_reach(small, Region(tuple(start), tuple(stop)), shape, STENCIL).all()

    def test_a_known_halo_is_enough_at_odd_voxel_sizes(self):
        for tenths in range(1, 40):
            # 0.6 / 0.1 is less than 6 in floating point
            geometry = stencil(fibonacci_rays(4), (tenths / 10, 0.7, 1.3), 0.3)
            halo = geometry.overlap_halo
            shape = tuple(2 * h + 3 for h in halo)
            one = Region(tuple(h + 1 for h in halo), tuple(h + 2 for h in halo))
            found = Candidates(
                np.ones(1, np.uint64),
                np.array([one.start]),
                np.full(1, 200, np.uint8),
                np.full((1, 4), 255, np.uint8),
            )
            assert out_of_reach(found, one.expand(halo, shape), shape, geometry).all()

    def test_all_is_decided_where_all_is_known(self):
        found = random_candidates(3, (10, 14, 30), 100)
        safe = out_of_reach(found, Region.whole((10, 14, 30)), (10, 14, 30), STENCIL)
        assert safe.all()

    def test_states_are_not_changed_in_place(self):
        found = random_candidates(3, (6, 6, 6), 10)
        states = np.full(len(found), OPEN, np.int8)
        decide(found, pairs(found, STENCIL, OVERLAP), np.ones(len(found), bool), states)
        assert (states == OPEN).all()

    def test_joined_parts_have_no_twins(self):
        found = random_candidates(3, (6, 6, 20), 30)
        parts = [found.take(np.arange(a, b)) for a, b in ((12, 30), (0, 20), (5, 15))]
        joined = Candidates.join(parts)
        for field in ("names", "positions", "probability", "distances"):
            assert np.array_equal(getattr(joined, field), getattr(found, field))


class TestCandidates:
    SHAPE = (7, 9, 12)

    def prediction(self, seed: int):
        rng = np.random.default_rng(seed)
        # few levels: plateaus everywhere
        probability = rng.integers(0, 4, (1, *self.SHAPE)) * 60
        distances = rng.integers(0, 256, (N_RAYS, *self.SHAPE))
        return np.concatenate((probability, distances)).astype(np.uint8)

    def test_as_defined(self):
        prediction = self.prediction(0)
        whole = Region.whole(self.SHAPE)
        found = candidates(prediction, whole, whole, self.SHAPE, 0.4)
        names = names_of_seeds(np.arange(whole.size), whole, self.SHAPE).reshape(self.SHAPE)
        expected = []
        for v in np.ndindex(self.SHAPE):
            value = prediction[0][v]
            around = tuple(slice(max(0, a - 1), a + 2) for a in v)
            rivals = zip(prediction[0][around].ravel(), names[around].ravel(), strict=True)
            if value >= 102 and all((-int(p), q) >= (-int(value), names[v]) for p, q in rivals):
                expected.append((int(names[v]), v))
        assert list(
            zip(found.names.tolist(), map(tuple, found.positions.tolist()), strict=True)
        ) == (sorted(expected))
        at = tuple(found.positions.T)
        assert np.array_equal(found.probability, prediction[0][at])
        assert np.array_equal(found.distances, prediction[(slice(1, None), *at)].T)

    @settings(max_examples=30, deadline=None)
    @given(
        seed=st.integers(0, 1000),
        block=st.tuples(*(st.integers(1, n) for n in SHAPE)),
        halo=st.integers(1, 3),
    )
    def test_blocks_find_those_of_the_volume(self, seed, block, halo):
        prediction = self.prediction(seed)
        whole = Region.whole(self.SHAPE)
        grid = BlockGrid(self.SHAPE, block)
        parts = []
        for one in grid.blocks():
            read = grid.read_region(one, (halo,) * 3)
            part = prediction[(slice(None), *read.slices)]
            parts.append(candidates(part, read, one.write_region, self.SHAPE, 0.3))
        expected = candidates(prediction, whole, whole, self.SHAPE, 0.3)
        assert sum(map(len, parts)) == len(expected)
        joined = Candidates.join(parts)
        for field in ("names", "positions", "probability", "distances"):
            assert np.array_equal(getattr(joined, field), getattr(expected, field))

    def test_the_threshold_is_included(self):
        prediction = np.zeros((1 + N_RAYS, 1, 1, 5), np.uint8)
        prediction[0, 0, 0, ::2] = (127, 128, 255)
        whole = Region.whole((1, 1, 5))

        def n(threshold: float) -> int:
            return len(candidates(prediction, whole, whole, (1, 1, 5), threshold))

        assert [n(0.0), n(127 / 255), n(0.5), n(128 / 255), n(1.0)] == [3, 3, 2, 2, 1]
        assert n(0.0) == 3, "no probability at all is no candidate"

    def test_a_missing_halo_is_refused(self):
        prediction = np.zeros((1 + N_RAYS, 4, 4, 4), np.uint8)
        block = Region((0, 0, 0), (4, 4, 4))
        with pytest.raises(BadInputError, match="does not cover"):
            candidates(prediction, block, block, (4, 4, 5), 0.5)


class TestPaint:
    @settings(max_examples=40, deadline=None)
    @given(
        seed=st.integers(0, 1000),
        n=st.integers(0, 40),
        block=st.tuples(st.integers(2, 10), st.integers(2, 10), st.integers(2, 30)),
        coarse=st.booleans(),
    )
    def test_blocks_paint_the_whole(self, seed, n, block, coarse):
        geometry = COARSE if coarse else STENCIL
        shape = (9, 10, 30)
        found = random_candidates(seed, shape, n)
        found = found.take(found.order())
        whole = paint(Region.whole(shape), found.positions, found.distances, geometry)
        grid = BlockGrid(shape, block)
        for one in grid.blocks():
            near = np.flatnonzero(inside(found, grid.read_region(one, geometry.half)))
            part = found.take(near)
            painted = paint(one.write_region, part.positions, part.distances, geometry)
            numbers = np.concatenate(([0], near + 1))
            assert np.array_equal(numbers[painted], whole[one.write_region.slices])

    def test_a_voxel_is_the_best_objects(self):
        shape = (9, 10, 30)
        found = random_candidates(1, shape, 25)
        order = found.order()
        expected = np.zeros(shape, np.int32)
        for rank, i in reversed(list(enumerate(order))):
            for v in voxels_of(found, i, STENCIL):
                if all(0 <= a < n for a, n in zip(v, shape, strict=True)):
                    expected[v] = rank + 1
        best = found.take(order)
        painted = paint(Region.whole(shape), best.positions, best.distances, STENCIL)
        assert np.array_equal(painted, expected)


def test_a_thousand_candidates_in_a_second():
    shape = (100, 160, 160)
    rng = np.random.default_rng(0)
    geometry = stencil(fibonacci_rays(32), (1.0, 1.0, 1.0), 16.0)
    n = 1000
    index = rng.choice(int(np.prod(shape)), n, replace=False)
    positions = np.stack(np.unravel_index(index, shape), axis=1).astype(np.int64)
    names = names_of_seeds(index.astype(np.int64), Region.whole(shape), shape)
    order = np.argsort(names)
    distances = np.repeat(rng.integers(90, 160, (n, 1)), 32, axis=1).astype(np.uint8)
    found = Candidates(
        names[order],
        positions[order],
        rng.integers(128, 256, n).astype(np.uint8),
        distances,
    )
    suppress(found.take(np.arange(3)), geometry, OVERLAP)  # compiles
    paint(Region.whole((2, 2, 2)), found.positions[:1], found.distances[:1], geometry)
    start = time.process_time()
    kept = found.take(suppress(found, geometry, OVERLAP) == KEPT)
    painted = paint(Region.whole(shape), kept.positions, kept.distances, geometry)
    assert time.process_time() - start < 1
    assert painted.any()
