"""Contingency tables against scikit-image, and their merging."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import contingency_table

from cellseg3d_dist.errors import BadInputError
from cellseg3d_dist.grid import BlockGrid
from cellseg3d_dist.metrics.contingency import ContingencyTable, contingency


def blobs(seed, shape=(12, 14, 16), n=6, dtype=np.uint32):
    """Labels with runs, noise, gaps in the ids and background."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, n + 1, tuple(-(-s // 4) for s in shape))
    labels = coarse.repeat(4, 0).repeat(4, 1).repeat(4, 2)[tuple(slice(0, s) for s in shape)]
    noisy = np.where(rng.random(shape) < 0.1, rng.integers(0, n + 1, shape), labels)
    return (noisy * 3).astype(dtype)


def reference(true, pred):
    """{(true, pred): voxels} by scikit-image."""
    table = contingency_table(true.astype(np.int64), pred.astype(np.int64)).tocoo()
    return {(int(t), int(p)): int(n) for t, p, n in zip(*table.coords, table.data, strict=True)}


def as_dict(table):
    rows = zip(table.labels_true, table.labels_pred, table.voxels, strict=True)
    return {(int(t), int(p)): int(n) for t, p, n in rows}


@pytest.mark.parametrize("dtypes", [("u1", "u2"), ("i4", "u8"), (">u4", "<u2"), ("i8", "i8")])
def test_counts_equal_scikit_image(dtypes):
    true, pred = blobs(1, dtype=dtypes[0]), blobs(2, dtype=dtypes[1])
    table = contingency(true, pred)
    assert as_dict(table) == reference(true, pred)
    assert table.n_voxels == true.size
    assert table.voxels.sum() == true.size
    keys = list(zip(table.labels_true.tolist(), table.labels_pred.tolist(), strict=True))
    assert keys == sorted(set(keys))


def test_many_pairs_make_the_hash_table_grow():
    rng = np.random.default_rng(0)
    true, pred = rng.integers(0, 200, (2, 30, 40, 50))
    assert as_dict(contingency(true, pred)) == reference(true, pred)


def test_non_contiguous_views_and_bools():
    true, pred = blobs(3)[:, ::2, ::-1], blobs(4).transpose(0, 1, 2)[:, ::2, ::-1]
    assert as_dict(contingency(true, pred)) == reference(true, pred)
    assert as_dict(contingency(true > 0, pred > 3)) == reference(true > 0, pred > 3)


def test_ids_above_32_bits_stay_apart():
    base = np.array([0, 5, 5, 5 + 2**32, 2**64 - 1, 2**63], np.uint64)
    table = contingency(base, base[::-1])
    expected = sorted({(int(a), int(b)) for a, b in zip(base, base[::-1], strict=True)})
    assert list(as_dict(table)) == expected
    assert table.sizes_true()[0].tolist() == [5, 5 + 2**32, 2**63, 2**64 - 1]
    assert table.sizes_true()[1].tolist() == [2, 1, 1, 1]


def test_sizes_leave_background_out():
    true, pred = blobs(5), blobs(6)
    table = contingency(true, pred)
    for labels, (ids, sizes) in ((true, table.sizes_true()), (pred, table.sizes_pred())):
        expected, counts = np.unique(labels[labels > 0], return_counts=True)
        np.testing.assert_array_equal(ids, expected)
        np.testing.assert_array_equal(sizes, counts)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1000),
    block=st.tuples(*[st.integers(1, 16)] * 3),
    order=st.randoms(use_true_random=False),
    split=st.floats(0, 1),
)
def test_the_cut_does_not_show(seed, block, order, split):
    true, pred = blobs(seed, (7, 9, 11)), blobs(seed + 1, (7, 9, 11))
    whole = contingency(true, pred)
    regions = [b.write_region.slices for b in BlockGrid(true.shape, block).blocks()]
    parts = [contingency(true[r], pred[r]) for r in regions]
    order.shuffle(parts)
    at = int(split * len(parts))
    left, right = ContingencyTable.merge(parts[:at]), ContingencyTable.merge(parts[at:])
    assert ContingencyTable.merge([left, right]) == whole
    assert ContingencyTable.merge([right, left]) == whole
    assert ContingencyTable.merge(parts) == whole


def test_nothing_merges_to_the_empty_table():
    empty = contingency(np.zeros((0, 4), np.uint8), np.zeros((0, 4), np.uint8))
    assert ContingencyTable.merge([]) == empty
    table = contingency(blobs(1), blobs(2))
    assert ContingencyTable.merge([empty, table]) == table
    assert table != empty


def test_arrays_and_back():
    table = contingency(blobs(7), blobs(8))
    arrays = table.to_arrays()
    assert ContingencyTable.from_arrays(arrays) == table
    with pytest.raises(BadInputError, match="lacks the columns voxels"):
        ContingencyTable.from_arrays({k: v for k, v in arrays.items() if k != "voxels"})
    with pytest.raises(BadInputError, match="must be sorted"):
        ContingencyTable.from_arrays({k: v[::-1] for k, v in arrays.items()})
    with pytest.raises(BadInputError, match="same length"):
        ContingencyTable.from_arrays({**arrays, "voxels": arrays["voxels"][1:]})


@pytest.mark.parametrize(
    ("true", "pred", "message"),
    [
        (np.zeros(3, int), np.zeros(4, int), r"shape \(3,\) and labels_pred \(4,\)"),
        (np.zeros(3), np.zeros(3, int), "labels_true has dtype float64"),
        (np.zeros(3, int), np.array([0, -7, 1]), "labels_pred has the label -7"),
    ],
)
def test_bad_labels_are_refused(true, pred, message):
    with pytest.raises(BadInputError, match=message):
        contingency(true, pred)
