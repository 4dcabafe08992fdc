"""Peaks by their height: seeds that no smoothing has to be tuned for.

A peak is a connected part C of the foreground, higher than M - h, whose highest voxel is M:
whoever wants higher has to go down by h or more first. Peaks never touch each other.

They come from the reconstruction R by dilation of the image less h under the image (Vincent
1993): R is the largest image of which R <= image, and that at no voxel rises above every
neighbour and the image less h. Where the image is above R, R is constant on each connected
part, and the part is a peak if R equals the image less h somewhere in it; there
`skimage.morphology.h_maxima` is 1.

Reconstruction is isotone, so blocks that know nothing of each other yet are too low, never
too high; given the reconstruction on the voxels around them again and again until nothing
changes, all blocks together hold the one of the whole volume (:func:`reconstructed`).
Neighbours are the 26 around a voxel.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from cellseg3d_dist.instances.components import components

Image = npt.NDArray[np.float32]

#: Lower than anything: outside the foreground, and what is not known yet.
NOTHING = np.float32(-np.inf)


def reconstructed(values: Image, mask: npt.NDArray[np.uint8], h: float, around: Image) -> Image:
    """Reconstruction of ``values - h`` under ``values`` in the foreground, from all around.

    Parameters
    ----------
    values : ndarray, float32, (z, y, x)
    mask : ndarray, uint8
        Non-zero is foreground; nothing passes through what is not.
    h : float
        Above 0.
    around : ndarray, float32, (z + 2, y + 2, x + 2)
        The reconstruction on the voxels around, as far as it is known, and ``NOTHING``
        elsewhere. What it holds of the region itself is not looked at.

    Returns
    -------
    ndarray, float32, (z, y, x)
        ``NOTHING`` outside the foreground.
    """
    level = np.full([n + 2 for n in values.shape], NOTHING, np.float32)
    inner = (slice(1, -1), slice(1, -1), slice(1, -1))
    level[inner] = np.where(mask != 0, values, NOTHING)
    state = around.astype(np.float32)
    state[inner] = level[inner] - np.float32(h)
    _reconstruct(level.reshape(-1), state.reshape(-1), level.shape)
    return np.ascontiguousarray(state[inner])


def peaks(
    values: Image, reconstruction: Image, h: float
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Parts of peaks in a region.

    Parameters
    ----------
    values, reconstruction : ndarray, float32, (z, y, x)
        As for :func:`reconstructed`, and what it gives once nothing changes.

    Returns
    -------
    labels : ndarray, uint32
        26-connected parts that are higher than the reconstruction.
    first : ndarray, int64, (n,)
        Raveled index of each part's first voxel, ascending.
    tops : ndarray, int64, (n,)
        Voxels of each part where the reconstruction is the image less h. A whole of parts
        that has none is no peak.
    """
    inside = reconstruction > NOTHING
    labels, first = components(inside & (values > reconstruction), 26)
    is_top = inside & (reconstruction == values - np.float32(h)) & (labels > 0)
    tops = np.bincount(labels[is_top], minlength=first.size + 1)[1:]
    return labels, first, tops.astype(np.int64)


def h_maxima(values: Image, mask: npt.NDArray[np.uint8], h: float) -> npt.NDArray[np.bool_]:
    """Peaks of a whole image; no two of them touch.

    Parameters
    ----------
    values : ndarray, float32, (z, y, x)
    mask : ndarray, uint8
        Non-zero is foreground.
    h : float
        Height, in the image's units, above 0.
    """
    around = np.full([n + 2 for n in values.shape], NOTHING, np.float32)
    labels, _, tops = peaks(values, reconstructed(values, mask, h, around), h)
    found: npt.NDArray[np.bool_] = np.append(False, tops > 0)[labels]
    return found


@numba.njit(cache=True, nogil=True)
def _reconstruct(level, state, shape):  # type: ignore[no-untyped-def]
    """Two scans, then what is still too low from a queue (Vincent's hybrid algorithm)."""
    nz, ny, nx = shape
    before = np.empty(13, np.int64)
    n = 0
    for dz in range(-1, 1):
        for dy in range(-1, 2):
            for dx in range(-1, 2):
                if n < 13:
                    before[n] = (dz * ny + dy) * nx + dx
                    n += 1
    for z in range(1, nz - 1):
        for y in range(1, ny - 1):
            row = (z * ny + y) * nx
            for p in range(row + 1, row + nx - 1):
                if level[p] > state[p]:
                    _raise(level, state, p, before)
    queue = np.empty(1024, np.int64)
    head, size = 0, 0
    for z in range(nz - 2, 0, -1):
        for y in range(ny - 2, 0, -1):
            row = (z * ny + y) * nx
            for p in range(row + nx - 2, row, -1):
                if level[p] == -np.inf:
                    continue
                _raise(level, state, p, -before)
                for i in range(13):
                    q = p - before[i]
                    if state[q] < state[p] and state[q] < level[q]:
                        queue, head = _room(queue, head, size)
                        queue[(head + size) % queue.size] = p
                        size += 1
                        break
    while size > 0:
        p = queue[head]
        head = (head + 1) % queue.size
        size -= 1
        for i in range(26):
            q = p + before[i] if i < 13 else p - before[i - 13]
            if state[q] < state[p] and state[q] < level[q]:
                state[q] = min(state[p], level[q])
                queue, head = _room(queue, head, size)
                queue[(head + size) % queue.size] = q
                size += 1


@numba.njit(cache=True, nogil=True)
def _raise(level, state, p, offsets):  # type: ignore[no-untyped-def]
    best = state[p]
    for i in range(offsets.size):
        best = max(best, state[p + offsets[i]])
    state[p] = min(best, level[p])


@numba.njit(cache=True, nogil=True)
def _room(queue, head, size):  # type: ignore[no-untyped-def]
    """A ring with room for one more, and where it begins."""
    if size < queue.size:
        return queue, head
    grown = np.empty(2 * queue.size, np.int64)
    grown[: size - head] = queue[head:]
    grown[size - head : size] = queue[:head]
    return grown, 0
