"""Labels drawn slice by slice, tidied: small areas dropped, outlines smoothed.

The rules look at one z slice at a time, as people who draw labels do.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from cellseg3d_dist.instances.components import components_of_labels
from cellseg3d_dist.instances.sizes import sizes_of

Labels = npt.NDArray[np.int32]


def without_small_areas(labels: Labels, least: int) -> Labels:
    """Labels without the areas of a slice that have fewer than ``least`` pixels.

    Parameters
    ----------
    labels : ndarray, int32, (z, y, x)
        0 is background.
    least : int
        An area is an 8-connected part of one label in one slice.
    """
    out = labels.copy()
    for z in range(labels.shape[0]):
        areas, first = components_of_labels(labels[z : z + 1], 26)
        small = np.append(False, sizes_of(areas, first.size) < least)
        out[z][small[areas[0]]] = 0
    return out


def smoothed_outlines(labels: Labels, radius: int) -> Labels:
    """In every slice, each label's median over a disc: what most of the disc has.

    Parameters
    ----------
    labels : ndarray, int32, (z, y, x)
    radius : int
        Of the disc, in pixels; what is beyond the array does not count. Where nothing has
        more than half of the disc, there is background.
    """
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disc = np.argwhere(y * y + x * x <= radius * radius) - radius
    out = np.empty_like(labels)
    _majority(np.ascontiguousarray(labels), disc, out)
    return out


@numba.njit(cache=True, nogil=True)
def _majority(labels, disc, out):  # type: ignore[no-untyped-def]
    nz, ny, nx = labels.shape
    around = np.empty(len(disc), labels.dtype)
    for z in range(nz):
        for y in range(ny):
            for x in range(nx):
                n = 0
                for i in range(len(disc)):
                    yy, xx = y + disc[i, 0], x + disc[i, 1]
                    if 0 <= yy < ny and 0 <= xx < nx:
                        around[n] = labels[z, yy, xx]
                        n += 1
                out[z, y, x] = _most(around[:n])


@numba.njit(cache=True, nogil=True)
def _most(values):  # type: ignore[no-untyped-def]
    """The value that more than half of them have, or 0."""
    candidate, lead = values[0], 0
    for value in values:
        if lead == 0:
            candidate = value
        lead += 1 if value == candidate else -1
    n = 0
    for value in values:
        n += value == candidate
    return candidate if 2 * n > values.size else 0
