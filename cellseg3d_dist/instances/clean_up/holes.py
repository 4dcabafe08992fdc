"""Holes: components of the background that one cell encloses.

A hole is a 6-connected component of the background that touches exactly one label across
its faces and no face of the volume. In blocks, components are found block by block, each
with what it touches; united across blocks, what all parts touch decides.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

#: What touches a component: nothing yet, or several labels, a face of the volume, the unknown.
NOTHING, OPEN = 0, -1


def enclosing(
    components: npt.NDArray[np.uint32], n: int, around: npt.NDArray[np.int32]
) -> npt.NDArray[np.int32]:
    """The label that each of the components 1..n touches.

    Parameters
    ----------
    components : ndarray, uint32, (z, y, x)
        Components of the background, 0 where there is a label.
    around : ndarray, int32, (z + 2, y + 2, x + 2)
        Labels of these voxels and of those around them: 0 for background, ``OPEN`` beyond
        the volume and where nothing is known. Edges and corners are not looked at.

    Returns
    -------
    ndarray, int32, (n,)
        The only label that touches the component, ``NOTHING`` or ``OPEN``.
    """
    found: npt.NDArray[np.int32] = _enclosing(components, n, around)
    return found


def united(
    groups: npt.NDArray[np.int64], owners: npt.NDArray[np.int64], n: int
) -> npt.NDArray[np.int64]:
    """What touches each of the groups 1..n of components, from what touches the parts."""
    found: npt.NDArray[np.int64] = _united(groups, owners, n)
    return found


@numba.njit(cache=True, nogil=True)
def _both(one, other):  # type: ignore[no-untyped-def]
    """What touches two parts of a component, from what touches each."""
    if one == 0:
        return other
    if other == 0 or other == one:
        return one
    return -1


@numba.njit(cache=True, nogil=True)
def _enclosing(components, n, around):  # type: ignore[no-untyped-def]
    owner = np.zeros(n + 1, np.int32)
    nz, ny, nx = components.shape
    for z in range(nz):
        for y in range(ny):
            for x in range(nx):
                c = components[z, y, x]
                # most background is open, and once open it stays so
                if c == 0 or owner[c] == -1:
                    continue
                found = owner[c]
                found = _both(found, around[z, y + 1, x + 1])
                found = _both(found, around[z + 2, y + 1, x + 1])
                found = _both(found, around[z + 1, y, x + 1])
                found = _both(found, around[z + 1, y + 2, x + 1])
                found = _both(found, around[z + 1, y + 1, x])
                found = _both(found, around[z + 1, y + 1, x + 2])
                owner[c] = found
    return owner[1:].copy()


@numba.njit(cache=True, nogil=True)
def _united(groups, owners, n):  # type: ignore[no-untyped-def]
    owner = np.zeros(n + 1, np.int64)
    for i in range(groups.size):
        owner[groups[i]] = _both(owner[groups[i]], owners[i])
    return owner[1:].copy()
