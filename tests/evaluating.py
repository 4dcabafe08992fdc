"""Pairs of label images for tests of evaluations."""

from __future__ import annotations

import numpy as np
from segmenting import store

SHAPE = (11, 14, 17)


def labels_pair(seed=0, shape=SHAPE, n=9, dtype=np.uint32):
    """Boxes as labels with gaps in the ids, and the same moved, fused and dropped."""
    rng = np.random.default_rng(seed)
    true, pred = np.zeros(shape, dtype), np.zeros(shape, dtype)
    for label in range(1, n + 1):
        size = rng.integers(2, 6, 3)
        corner = rng.integers(0, np.maximum(np.array(shape) - size, 1))
        where = tuple(slice(c, c + s) for c, s in zip(corner, size, strict=True))
        true[where] = 3 * label
        moved = tuple(slice(max(0, s.start + rng.integers(-1, 2)), s.stop) for s in where)
        if rng.random() < 0.8:
            pred[moved] = 1000 + (label // 2 if rng.random() < 0.3 else label)
    return true, pred


def stored_pair(folder, seed=0, name="a", **how):
    """A pair as OME-Zarr; their paths."""
    true, pred = labels_pair(seed)
    return (
        store(folder / f"{name}_true.zarr", true, **how),
        store(folder / f"{name}_pred.zarr", pred, **how),
    )


def scores_only(document):
    """A document without what it says of names and paths."""
    named = ("name", "labels_true", "labels_pred", "evaluated")
    return {key: value for key, value in document.items() if key not in named}
