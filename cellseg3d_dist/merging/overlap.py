"""Merging by overlap: for labels of which nothing is known but the labels themselves.

Neighbouring blocks both label the voxels that both have read, their *shared zone*, and
keep what they found there. A label of one is the same cell as a label of the other if each
is the other's largest overlap in the zone and the overlap is large enough::

    block A   written |  halo          A's label a and B's label b share most of their voxels
          . a a a a a | a .            in the zone: one cell
    block B     halo  |  written       touching is nothing: dense tissue would be one cell
                . b b | b b . .

Each block writes its own label to the voxels of its write region. A label that lies in the
halo alone is written nowhere. It takes part all the same: what it overlaps best is not
left to another label.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from cellseg3d_dist.grid import Region, Triple
from cellseg3d_dist.metrics.contingency import contingency

Labels = npt.NDArray[np.uint32]
Sides = dict[str, Labels]

#: Overlap of two labels over their union in the zone, from which they are one cell.
THRESHOLD = 0.5


class Seen(NamedTuple):
    """Labels that a block has read, renumbered by position.

    Attributes
    ----------
    labels : ndarray, uint32, shape of the read region
        1..m have voxels in the write region, in the raster order of their first one there;
        m+1.. lie in the halo alone, in the order of their first voxel.
    first : ndarray, int64, (m,)
        Raveled index in the write region of the first voxel of labels 1..m.
    """

    labels: Labels
    first: npt.NDArray[np.int64]


def seen(labels: npt.NDArray[np.integer[Any]], write: Region) -> Seen:
    """Number labels by their position, so that ids as given do not matter.

    Parameters
    ----------
    labels : ndarray, integers of at least 0, (z, y, x)
        Of a read region; any ids, gaps included.
    write : Region
        The write region, in coordinates of ``labels``.

    Examples
    --------
    >>> labels = np.array([[[7, 7, 900, 0, 5]]])
    >>> found = seen(labels, Region((0, 0, 1), (1, 1, 3)))
    >>> found.labels, found.first
    (array([[[1, 1, 2, 0, 3]]], dtype=uint32), array([0, 1]))
    """
    largest = int(labels.max(initial=0))
    if largest > 2 * labels.size + 1024:
        # ids far apart would need a table of their span
        ids, labels = np.unique(labels, return_inverse=True)
        labels = labels.reshape(labels.shape) + int(ids[0] != 0)
        largest = ids.size
    number, first = np.zeros(largest + 1, np.uint32), np.empty(0, np.int64)
    own = labels[write.slices]
    first = _number(np.ascontiguousarray(own).reshape(-1), number, 0)
    whole = np.ascontiguousarray(labels)
    _number(whole.reshape(-1), number, first.size)
    return Seen(number[whole], first)


@numba.njit(cache=True, nogil=True)
def _number(labels, number, n):  # type: ignore[no-untyped-def]
    """Number the labels that have none yet from n + 1 on; where each was met first."""
    first = np.empty(1024, np.int64)
    begun = n
    last = labels[0] if labels.size else 0
    for i in range(labels.size):
        label = labels[i]
        if i > 0 and label == last:
            continue
        last = label
        if label == 0 or number[label] != 0:
            continue
        if n - begun == first.size:
            first = np.concatenate((first, np.empty_like(first)))
        first[n - begun] = i
        n += 1
        number[label] = n
    return first[: n - begun].copy()


@dataclass(frozen=True)
class Reach:
    """A block's write and read region, and the halo that all blocks have.

    The read region is the write region grown by ``halo`` and cut at the volume's faces.
    """

    write: Region
    read: Region
    halo: Triple

    def zone(self, axis: int, end: int) -> slice:
        """Voxels shared with the block beyond an end of an axis, in the read region."""
        low, high = self.read.start[axis], self.read.stop[axis]
        if end:
            return slice(max(low, self.write.stop[axis] - self.halo[axis]) - low, high - low)
        return slice(0, min(high, self.write.start[axis] + self.halo[axis]) - low)

    def sides(self, labels: Labels) -> Sides:
        """What neighbours share of a read region's labels: a slab for each end of each axis.

        A zone shared across an edge or a corner is part of these slabs.
        """
        found = {}
        for axis, name in enumerate("zyx"):
            for end in (0, 1):
                index = [slice(None)] * 3
                index[axis] = self.zone(axis, end)
                found[f"{name}{end}"] = np.ascontiguousarray(labels[tuple(index)])
        return found

    def shared(self, side: Labels, offset: Triple) -> Labels:
        """The zone shared with the neighbour at ``offset``, of the slab :func:`side_key`."""
        axis = _axis(offset)
        index = tuple(
            slice(None) if o == 0 or i == axis else self.zone(i, int(o > 0))
            for i, o in enumerate(offset)
        )
        return side[index]


def side_key(offset: Triple) -> str:
    """The slab that holds the zone shared with the neighbour at ``offset``."""
    axis = _axis(offset)
    return f"{'zyx'[axis]}{int(offset[axis] > 0)}"


def _axis(offset: Triple) -> int:
    return next(i for i, o in enumerate(offset) if o)


class Overlaps(NamedTuple):
    """What two blocks' labels have in common in their shared zone.

    Attributes
    ----------
    pairs : ndarray, uint32, (n, 2)
        Labels (of A, of B) that are one cell, sorted.
    score : ndarray, float64, (n,)
        Their overlap over their union, of the zone.
    refused : int
        Labels of A that overlap one of B's best, and are not united with it.
    """

    pairs: npt.NDArray[np.uint32]
    score: npt.NDArray[np.float64]
    refused: int


def overlaps(zone_a: Labels, zone_b: Labels, threshold: float = THRESHOLD) -> Overlaps:
    """Labels of two blocks that are each other's best overlap, and large enough.

    Parameters
    ----------
    zone_a, zone_b : ndarray, uint32
        What blocks A and B found in the voxels that both have read.
    threshold : float
        Least overlap over union (of the parts inside the zone), 0 to 1.

    Notes
    -----
    Best is most voxels; in a tie the lower label, which :func:`seen` numbers by name.

    Examples
    --------
    >>> a = np.array([[[1, 1, 1, 2, 2]]], np.uint32)
    >>> b = np.array([[[4, 4, 4, 4, 0]]], np.uint32)
    >>> overlaps(a, b).pairs
    array([[1, 4]], dtype=uint32)
    """
    table = contingency(zone_a, zone_b)
    both = (table.labels_true > 0) & (table.labels_pred > 0)
    a, b, voxels = table.labels_true[both], table.labels_pred[both], table.voxels[both]
    size_a, size_b = (
        sizes[np.searchsorted(ids, labels)]
        for (ids, sizes), labels in ((table.sizes_true(), a), (table.sizes_pred(), b))
    )
    score = voxels / (size_a + size_b - voxels)
    mutual = _best(a, b, voxels) & _best(b, a, voxels)
    kept = mutual & (score >= threshold)
    pairs = np.stack((a[kept], b[kept]), 1).astype(np.uint32)
    return Overlaps(pairs, score[kept], int(np.unique(a).size - len(pairs)))


def _best(
    of: npt.NDArray[np.uint64], other: npt.NDArray[np.uint64], voxels: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """Rows that are the best of their label: most voxels, then the lower other label."""
    order = np.lexsort((other, -voxels, of))
    ordered = of[order]
    first = np.ones(of.size, np.bool_)
    first[1:] = ordered[1:] != ordered[:-1]
    best = np.zeros(of.size, np.bool_)
    best[order[first]] = True
    return best
