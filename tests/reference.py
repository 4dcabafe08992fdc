"""Plain whole-volume references: numpy and scipy only, one readable pass after the other.

Nothing here knows of blocks. The package's Gaussian is used as it is, since spots and
masks compare its exact bits; `test_filters.py` holds it against scipy.
"""

import itertools

import numpy as np
import scipy.ndimage as ndi

from cellseg3d_dist.instances.filters import gaussian

BOX = np.ones((3, 3, 3), bool)
DIAMOND = ndi.generate_binary_structure(3, 1)
NEVER = np.int32(2**31 - 1)


def spots_plain(smoothed, mask):
    """Voxels of the mask without a larger neighbour and without an equal earlier one."""
    padded = np.pad(smoothed.astype(np.float64), 1, constant_values=-np.inf)
    found = mask != 0
    for shift in itertools.product((-1, 0, 1), repeat=3):
        if shift == (0, 0, 0):
            continue
        window = tuple(slice(1 + d, 1 + d + n) for d, n in zip(shift, mask.shape, strict=True))
        other = padded[window]
        earlier = shift[::-1] < (0, 0, 0)  # x slowest, z fastest
        found &= (other < smoothed) if earlier else (other <= smoothed)
    return found


def number_spots(found):
    """Labels 1..n of spots in x-major order, x slowest and z fastest."""
    at = np.argwhere(found)
    at = at[np.lexsort((at[:, 0], at[:, 1], at[:, 2]))]
    labels = np.zeros(found.shape, np.int64)
    labels[tuple(at.T)] = np.arange(1, len(at) + 1)
    return labels


def flood_plain(mask, sources, arrival=None):
    """Alternate box and diamond dilations until both are idle and no source is to come.

    ``sources`` are labels (0 for none) that appear at step ``arrival`` (0 by default) and
    are there whatever the mask says. Returns labels and the step at which each came.
    """
    due = np.where(sources > 0, 0, NEVER) if arrival is None else arrival
    labels = np.where(due == 0, sources, 0)
    came = np.where(due == 0, 0, NEVER)
    last = max([0, *due[due != NEVER].ravel().tolist()])
    step = idle = 0
    while idle < 2 or step <= last:
        step += 1
        footprint = BOX if step % 2 else DIAMOND
        offered = ndi.grey_dilation(labels, footprint=footprint, mode="constant")
        taken = (labels == 0) & (mask != 0) & (due == NEVER) & (offered > 0)
        joins = due == step
        labels = np.where(taken, offered, np.where(joins, sources, labels))
        came = np.where(taken | joins, step, came)
        idle = 0 if taken.any() or joins.any() else idle + 1
    return labels, came.astype(np.int32)


def voronoi_otsu_plain(image, spec, within=None):
    """Voronoi-Otsu of a whole volume at a given threshold, labels in x-major order of spots."""
    mask = gaussian(image, spec.outline_sigma) > np.float32(spec.threshold)
    if within is not None:
        mask &= within != 0
    seeds = number_spots(spots_plain(gaussian(image, spec.spot_sigma), mask))
    return flood_plain(mask, seeds)[0]


def keep_volumes(labels, smallest=0, largest=None):
    """Drop cells by voxels, both limits allowed, and number the rest again in order."""
    volumes = np.bincount(labels.ravel())
    kept = volumes >= smallest
    if largest is not None:
        kept &= volumes <= largest
    kept[0] = False
    return np.where(kept, np.cumsum(kept), 0)[labels]
