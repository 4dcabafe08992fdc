"""Contacts, union-find and names against brute force; sizes and ids of whole cells."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cellseg3d_dist.merging.contacts import contacts, faces_of, side_of
from cellseg3d_dist.merging.names import edges_by_name
from cellseg3d_dist.merging.union_find import label_dtype, merge

OFFSETS = [o for o in itertools.product((-1, 0, 1), repeat=3) if any(o)]
sides = st.integers(1, 5)
seeds = st.integers(0, 2**32 - 1)


def pieces(rng, lengths_a, lengths_b, offset):
    """Two blocks side by side in one array, with labels of their own, and their slices."""
    low, high = [], []
    for a, b, o in zip(lengths_a, lengths_b, offset, strict=True):
        low.append(slice(0, a) if o >= 0 else slice(b, b + a))
        high.append(slice(0, a) if o == 0 else slice(a, a + b) if o > 0 else slice(0, b))
    shape = [max(s.stop, t.stop) for s, t in zip(low, high, strict=True)]
    owner = np.zeros(shape, int)
    owner[tuple(high)] = 2
    owner[tuple(low)] = 1
    labels = rng.integers(0, 5, shape) * (rng.random(shape) < 0.7)
    return labels, owner, tuple(low), tuple(high)


def touching_pairs(labels, owner, reach):
    found = set()
    for here in np.argwhere((owner == 1) & (labels > 0)):
        for step in OFFSETS:
            there = tuple(here + step)
            inside = all(0 <= i < n for i, n in zip(there, labels.shape, strict=True))
            if sum(map(abs, step)) > reach or not inside:
                continue
            if owner[there] == 2 and labels[there]:
                found.add((int(labels[tuple(here)]), int(labels[there])))
    return sorted(found)


@given(seeds, st.tuples(sides, sides, sides), sides, st.sampled_from(OFFSETS))
@settings(max_examples=150, deadline=None)
def test_contacts_are_the_pairs_of_voxels_that_touch(seed, lengths, other, offset):
    rng = np.random.default_rng(seed)
    beside = tuple(n if o == 0 else other for n, o in zip(lengths, offset, strict=True))
    labels, owner, low, high = pieces(rng, lengths, beside, offset)
    a, b = labels[low].astype(np.uint32), labels[high].astype(np.uint32)
    back = tuple(-o for o in offset)
    for reach in (1, 2, 3):
        expected = touching_pairs(labels, owner, reach)
        ours = contacts(side_of(faces_of(a), offset), side_of(faces_of(b), back), offset, reach)
        assert [tuple(pair) for pair in ours.tolist()] == expected
        theirs = contacts(side_of(faces_of(b), back), side_of(faces_of(a), offset), back, reach)
        assert sorted((p, q) for q, p in theirs.tolist()) == expected


def test_labels_of_more_than_16_bits_and_many_pairs_are_told_apart():
    a = np.arange(1, 2501, dtype=np.uint32).reshape(1, 50, 50) + np.uint32(2**31)
    b = np.arange(1, 2501, dtype=np.uint32).reshape(1, 50, 50) + np.uint32(2**30)
    pairs = contacts(a, b, (1, 0, 0), 1)
    np.testing.assert_array_equal(pairs[:, 0], a.ravel())
    np.testing.assert_array_equal(pairs[:, 1], b.ravel())


def test_faces_are_the_outermost_planes_also_of_thin_blocks():
    block = np.arange(24).reshape(2, 3, 4)
    faces = faces_of(block)
    np.testing.assert_array_equal(faces["z0"], block[0])
    np.testing.assert_array_equal(faces["y1"], block[:, -1])
    np.testing.assert_array_equal(faces["x1"], block[..., -1])
    assert side_of(faces, (1, -1, 1)).tolist() == [[[block[1, 0, 3]]]]
    assert side_of(faces, (0, -1, 0)).shape == (2, 1, 4)
    thin = faces_of(np.arange(5).reshape(1, 1, 5))
    assert side_of(thin, (1, 1, 0)).ravel().tolist() == [0, 1, 2, 3, 4]


def random_graph(rng, n, m):
    names = rng.permutation(10 * n)[:n].astype(np.uint64)
    sizes = rng.integers(1, 50, n)
    edges = rng.integers(0, n, (m, 2)) if n else np.empty((0, 2), np.int64)
    return names, sizes.astype(np.int64), edges.astype(np.int64)


@given(seeds, st.integers(0, 60), st.integers(0, 80), st.integers(0, 120), st.integers(0, 200))
@settings(max_examples=200, deadline=None)
def test_merge_is_scipys_components_ordered_by_their_smallest_name(seed, n, m, smallest, largest):
    names, sizes, edges = random_graph(np.random.default_rng(seed), n, m)
    merged = merge(names, sizes, edges, smallest, largest)
    graph = coo_array((np.ones(len(edges)), edges.T if n else ([], [])), shape=(n, n))
    count, part = connected_components(graph, directed=False) if n else (0, np.empty(0, int))
    volume = np.bincount(part, sizes, count) if n else np.empty(0)
    first = [int(names[part == i].min()) for i in range(count)]
    kept = [i for i in range(count) if smallest <= volume[i] <= largest]
    rank = {i: k + 1 for k, i in enumerate(sorted(kept, key=lambda i: first[i]))}
    np.testing.assert_array_equal(merged.final, [rank.get(i, 0) for i in part])
    assert merged.n_cells == len(kept)
    assert merged.n_too_small == (volume < smallest).sum()
    assert merged.n_cells + merged.n_too_small + merged.n_too_large >= count
    assert merged.final.dtype == label_dtype(len(kept))


@given(seeds, st.integers(1, 60), st.integers(0, 80))
@settings(max_examples=60, deadline=None)
def test_the_order_of_edges_does_not_matter(seed, n, m):
    rng = np.random.default_rng(seed)
    names, sizes, edges = random_graph(rng, n, m)
    shuffled = rng.permutation(edges)
    flipped = np.where(rng.random((len(edges), 1)) < 0.5, shuffled, shuffled[:, ::-1])
    one, other = merge(names, sizes, edges), merge(names, sizes, np.ascontiguousarray(flipped))
    np.testing.assert_array_equal(one.final, other.final)


def test_a_long_chain_in_the_worst_order_is_one_cell():
    n = 100_000
    names = np.arange(n, 0, -1, dtype=np.uint64)
    backwards = np.stack((np.arange(n - 1, 0, -1), np.arange(n - 2, -1, -1)), 1)
    merged = merge(names, np.ones(n, np.int64), backwards)
    assert merged.n_cells == 1
    assert (merged.final == 1).all()


def test_sizes_are_of_whole_cells_and_both_limits_are_allowed():
    names, sizes = np.array([5, 6, 7, 8], np.uint64), np.array([3, 3, 6, 7])
    edges = np.array([[0, 1]])
    assert merge(names, sizes, edges, 6, 6).final.tolist() == [1, 1, 2, 0]
    assert merge(names, sizes, edges, 7, None).final.tolist() == [0, 0, 0, 1]
    found = merge(names, sizes, edges, 7, 6)
    assert (found.n_cells, found.n_too_small, found.n_too_large) == (0, 2, 1)


@pytest.mark.parametrize(
    ("n", "dtype"),
    [(0, np.uint8), (255, np.uint8), (256, np.uint16), (65535, np.uint16), (65536, np.uint32),
     (2**32 - 1, np.uint32), (2**32, np.uint64)],
)  # fmt: skip
def test_label_type_is_the_smallest_that_holds_the_last_id(n, dtype):
    assert label_dtype(n) == dtype
    assert np.iinfo(label_dtype(n)).max >= n


@pytest.mark.parametrize("n", [255, 256, 65535, 65536])
def test_ids_do_not_wrap_at_the_limits_of_their_type(n):
    merged = merge(np.arange(n, dtype=np.uint64), np.ones(n, np.int64), np.empty((0, 2), np.int64))
    assert merged.final.dtype == label_dtype(n)
    np.testing.assert_array_equal(merged.final.astype(np.int64), np.arange(1, n + 1))


@given(seeds, st.integers(1, 6), st.integers(1, 30), st.floats(0, 0.4))
@settings(max_examples=100, deadline=None)
def test_fragments_of_one_name_become_one_cell(seed, n_blocks, n_names, lost):
    rng = np.random.default_rng(seed)
    owner_of = rng.integers(0, n_blocks, n_names)
    held = rng.random((n_blocks, n_names)) < 0.5
    held[owner_of, np.arange(n_names)] = True
    # a block that failed has no fragments, also not of the seeds it owns
    held[rng.random(n_blocks) < lost] = False
    names = [np.flatnonzero(row).astype(np.uint64) + np.uint64(3) for row in held]
    offsets = np.cumsum([0, *map(len, names)])
    flat = np.concatenate(names)
    edges = edges_by_name(flat, offsets, owner_of[flat.astype(int) - 3])
    merged = merge(flat, np.ones(flat.size, np.int64), edges)
    there = sorted(set(flat.tolist()))
    assert merged.final.tolist() == [there.index(name) + 1 for name in flat.tolist()]
    assert len(edges) <= max(0, flat.size - len(there))
