"""Smoothing of label boundaries: each voxel takes the label that most of its ball have.

Background counts as a label. A voxel keeps its own label in a tie; otherwise the smallest
of the labels in a tie wins, background before all. Voxels outside the volume do not count.
"""

from __future__ import annotations

import itertools

import numba
import numpy as np
import numpy.typing as npt

from cellseg3d_dist.grid import Triple
from cellseg3d_dist.instances.clean_up.extremes import largest_in_box

Labels = npt.NDArray[np.int32]


def ball(radius: tuple[float, float, float]) -> npt.NDArray[np.int64]:
    """Offsets (n, 3) within an ellipsoid of these half-axes in voxels, its middle left out.

    >>> ball((1, 1, 1)).tolist()
    [[-1, 0, 0], [0, -1, 0], [0, 0, -1], [0, 0, 1], [0, 1, 0], [1, 0, 0]]
    """
    reach = ball_halo(radius)
    inside = [
        offset
        for offset in itertools.product(*(range(-r, r + 1) for r in reach))
        if any(offset) and _distance(offset, radius) <= 1
    ]
    return np.array(inside, np.int64).reshape(-1, 3)


def ball_halo(radius: tuple[float, float, float]) -> Triple:
    """Whole voxels along each axis that the ball reaches."""
    # a length in micrometres that is a whole number of voxels may fall short by rounding
    z, y, x = (int(r + 1e-9) for r in radius)
    return (z, y, x)


def _distance(offset: tuple[int, ...], radius: tuple[float, float, float]) -> float:
    return sum((o / r) ** 2 if o else 0.0 for o, r in zip(offset, radius, strict=True)) - 1e-9


def majority(labels: Labels, offsets: npt.NDArray[np.int64]) -> Labels:
    """Give every voxel the most frequent label of the ball around it.

    Parameters
    ----------
    labels : ndarray, int32, (z, y, x)
        0 is background.
    offsets : ndarray, int64, (n, 3)
        Of the ball, see :func:`ball`.
    """
    smoothed: Labels = _majority(labels, offsets, _uniform(labels, offsets))
    return smoothed


def _uniform(labels: Labels, offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Voxels around which there is one label alone: a quick test that settles most."""
    reach = int(np.abs(offsets).max(initial=0))
    largest = largest_in_box(labels, reach)
    return np.asarray(largest == -largest_in_box(-labels, reach))


@numba.njit(cache=True, nogil=True)
def _majority(labels, offsets, uniform):  # type: ignore[no-untyped-def]
    nz, ny, nx = labels.shape
    out = labels.copy()
    seen = np.empty(offsets.shape[0] + 1, np.int32)
    counts = np.empty(offsets.shape[0] + 1, np.int32)
    for z in range(nz):
        for y in range(ny):
            for x in range(nx):
                if uniform[z, y, x]:
                    continue
                own = labels[z, y, x]
                seen[0], counts[0] = own, 1
                n = 1
                for k in range(offsets.shape[0]):
                    zz, yy, xx = z + offsets[k, 0], y + offsets[k, 1], x + offsets[k, 2]
                    if zz < 0 or yy < 0 or xx < 0 or zz >= nz or yy >= ny or xx >= nx:
                        continue
                    label = labels[zz, yy, xx]
                    i = 0
                    while i < n and seen[i] != label:
                        i += 1
                    if i == n:
                        seen[n], counts[n] = label, 0
                        n += 1
                    counts[i] += 1
                best = 0
                for i in range(1, n):
                    more = counts[i] > counts[best]
                    # the voxel's own label is first, and is not given up in a tie
                    smaller = best > 0 and counts[i] == counts[best] and seen[i] < seen[best]
                    if more or smaller:
                        best = i
                out[z, y, x] = seen[best]
    return out
