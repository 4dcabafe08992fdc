"""Closing of labels: cells grow together over narrow gaps and notches.

As in clEsperanto's ``closing_labels``: every background voxel takes the largest label of
its 3 x 3 x 3 box (steps 1, 3, 5, ...) or of its 6 face neighbours (steps 2, 4, 6, ...);
what is covered after ``radius`` steps is eroded as often by the same neighbourhoods, and
the grown labels are kept where the eroded cover is left. Voxels that had a label keep it.
What lies beyond the volume is background that labels grow into as well: otherwise every
cell that is near a face of the volume would be drawn to it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cellseg3d_dist.instances.clean_up.extremes import largest_in_box, largest_in_diamond

Labels = npt.NDArray[np.int32]


def closing_halo(radius: int) -> tuple[int, int, int]:
    """Voxels around a voxel that decide its closing: what grows there, and what erodes it."""
    return (2 * radius, 2 * radius, 2 * radius)


def closing(labels: Labels, radius: int) -> Labels:
    """Close labels by ``radius`` steps; the larger of two labels wins a tie.

    Parameters
    ----------
    labels : ndarray, int32, (z, y, x)
        0 is background; ``radius`` voxels beyond the volume are part of it.
    radius : int
        Steps of growth, and of erosion.

    Returns
    -------
    ndarray, int32, shape of ``labels``
    """
    grown = labels
    for step in range(radius):
        grown = _grown(grown, step % 2 == 0)
    cover = (grown > 0).astype(np.uint8)
    for step in range(radius):
        cover = _eroded(cover, step % 2 == 0)
    closed: Labels = grown * cover
    return closed


def _grown(labels: Labels, box: bool) -> Labels:
    """Background takes the largest label of its box, or of its diamond."""
    largest = largest_in_box(labels) if box else largest_in_diamond(labels)
    return np.where(labels > 0, labels, largest)


def _eroded(cover: npt.NDArray[np.uint8], box: bool) -> npt.NDArray[np.uint8]:
    """The smallest of each box, or diamond, as the largest of the complement."""
    outside = 1 - cover
    eroded = 1 - (largest_in_box(outside) if box else largest_in_diamond(outside))
    return np.asarray(eroded, np.uint8)
