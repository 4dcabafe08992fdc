"""Voronoi-Otsu's primitives on an OpenCL device, through clEsperanto.

A thin shim over whichever package is installed: ``pyclesperanto_prototype``, which the
``opencl`` extra brings, or the newer ``pyclesperanto``. Neither is imported before it is
used. :func:`gaussian`, :func:`spots` and :func:`flood` follow this package's rules on both
(ties, numbering and stop rule of :mod:`.spots` and :mod:`.flood`), so that they can stand
in for the numba kernels; :func:`voronoi_otsu` is clEsperanto's own method with its own
rules, to compare with. Arrays are (z, y, x), sigmas voxels in that order.

Devices compute in float32. Their Gaussian may differ from ours in the last bits (another
``exp``, or no fused multiply-add), and labels are exact up to 2^24, above which they are
refused.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from cellseg3d_dist.errors import BadInputError
from cellseg3d_dist.instances.filters import Sigma
from cellseg3d_dist.instances.opencl_device import (
    MAX_VOXELS,
    Package,
    available_devices,
    pull,
    push,
    session,
)

#: Largest label that float32 holds exactly.
MAX_RANK = 2**24
_FLAG = np.zeros((1, 1, 1), np.bool_)


def gaussian(
    image: npt.NDArray[Any], sigma: Sigma, device: str | None = None
) -> npt.NDArray[np.float32]:
    """Separable Gaussian in float32, edges clamped, int(8 sigma) taps made odd.

    Parameters
    ----------
    image : ndarray, (z, y, x)
        Any real dtype; converted to float32.
    sigma : (float, float, float)
        Voxels along z, y, x; 0 leaves an axis as it is.
    device : str or None
        Part of the device's name; None is the package's own choice.

    Returns
    -------
    ndarray, float32, shape of ``image``

    Raises
    ------
    BadInputError
        Not 3D, too large for a device buffer, or a negative sigma.
    EnvironmentFailedError
        No package, no such device, or the device failed.
    """
    _check_volume("gaussian", image)
    _check_sigma(sigma)
    if image.size == 0:
        return image.astype(np.float32)
    with session("gaussian", image.shape, device) as package:
        blurred: npt.NDArray[np.float32] = pull(
            package, _blur(package, push(package, image), sigma), image, np.float32
        )
    return blurred


def spots(smoothed: npt.NDArray[Any], device: str | None = None) -> npt.NDArray[np.bool_]:
    """Local maxima of 3 x 3 x 3; of equal neighbours the x-major first stays.

    Voxels beyond the volume do not count, so a voxel on a face can be a spot. The device
    finds the voxels that no neighbour exceeds; ties among these few are broken here, the
    same way for both packages (the newer one drops every tie).

    Parameters
    ----------
    smoothed : ndarray, (z, y, x)
        Finite; converted to float32.
    device : str or None
        As in :func:`gaussian`.
    """
    _check_volume("spots", smoothed)
    if smoothed.size == 0:
        return np.zeros(smoothed.shape, np.bool_)
    values = np.ascontiguousarray(smoothed, dtype=np.float32)
    with session("spots", values.shape, device) as package:
        highest = pull(package, package.box_maximum(push(package, values)), values, np.float32)
    result: npt.NDArray[np.bool_] = values == highest
    for dx, dy, dz in product((-1, 0, 1), repeat=3):
        if (dx, dy, dz) == (0, 0, 0):
            break  # the rest come later in x-major order
        pairs = [_shift(d, n) for d, n in zip((dz, dy, dx), values.shape, strict=True)]
        here, earlier = tuple(p[0] for p in pairs), tuple(p[1] for p in pairs)
        result[here] &= values[here] != values[earlier]
    return result


def _shift(d: int, n: int) -> tuple[slice, slice]:
    """Along an axis of n voxels, those that have a neighbour d further on, and these."""
    return slice(max(-d, 0), n - max(d, 0)), slice(max(d, 0), n - max(-d, 0))


def flood(
    seeds: npt.NDArray[Any], mask: npt.NDArray[Any], device: str | None = None
) -> npt.NDArray[np.int32]:
    """Grow seeds inside the mask by alternating box and diamond steps, to the fixpoint.

    An empty voxel takes the largest label among its neighbours, in step 1, 3, ... of the
    3 x 3 x 3 box, in step 2, 4, ... of the 6 faces. It ends when a box and a diamond step
    in a row change nothing; clEsperanto ends at the first idle step, see
    :func:`voronoi_otsu`.

    Parameters
    ----------
    seeds : ndarray, integer, (z, y, x)
        0 is empty, a positive number is the seed's rank: the larger wins a tie. Seeds
        outside the mask are dropped.
    mask : ndarray, shape of ``seeds``
        Non-zero where labels may grow.
    device : str or None
        As in :func:`gaussian`.

    Returns
    -------
    ndarray, int32, shape of ``seeds``
        Rank of the seed that came first, 0 outside the mask and where none comes.

    Raises
    ------
    BadInputError
        Shapes differ, a rank is negative or above 2^24, or as in :func:`gaussian`.
    """
    _check_volume("flood", seeds)
    if mask.shape != seeds.shape:
        raise BadInputError(
            f"OpenCL flood: seeds have shape {seeds.shape}, the mask {mask.shape}. "
            "Give arrays of one shape."
        )
    if seeds.size == 0:
        return np.zeros(seeds.shape, np.int32)
    check_ranks(int(seeds.min()), int(seeds.max()))
    start = np.where(mask != 0, seeds, -1)
    labels, _ = grow(start, device, timed=False)
    return np.maximum(labels, 0, out=labels)


def grow(
    start: npt.NDArray[Any], device: str | None, *, timed: bool
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Flood to the fixpoint from labels > 0 into zeros; negative voxels stay out.

    Returns
    -------
    labels : ndarray, int32
    empty_for : ndarray, int32
        Steps for which a voxel was empty, which is the step its label came at; zeros
        unless ``timed``, because counting doubles the work.
    """
    with session("flood", start.shape, device) as package:
        cle = package.cle
        now, after = push(package, start), push(package, start)
        flag = push(package, _FLAG)
        empty_for = push(package, np.zeros(start.shape))
        step, idle = 0, 0
        while idle < 2:
            if timed:
                empty = cle.equal_constant(now, None, 0.0)
                empty_for = cle.add_images_weighted(empty_for, empty, None, 1.0, 1.0)
            advance = package.box_step if step % 2 == 0 else package.diamond_step
            advance(now, flag, after)
            now, after = after, now
            idle = 0 if np.any(pull(package, flag, _FLAG, np.bool_)) else idle + 1
            cle.set(flag, 0.0)
            step += 1
        labels = pull(package, now, start, np.int32)
        return labels, pull(package, empty_for, start, np.int32)


def voronoi_otsu(
    image: npt.NDArray[Any],
    spot_sigma: Sigma,
    outline_sigma: Sigma,
    threshold: float | None = None,
    device: str | None = None,
) -> npt.NDArray[np.uint32]:
    """Label a whole volume with clEsperanto's own Voronoi-Otsu, by its own rules.

    These are: Otsu of this array; the flood stops at the first step that is idle anywhere
    in the volume; numbers and ties x-major (prototype) or in raster order (newer package,
    which also drops every spot that has an equal neighbour). One call where it takes the
    arguments; its single steps for anisotropic sigmas or a given threshold. The prototype's
    maxima print a line to stdout.

    Parameters
    ----------
    image : ndarray, (z, y, x)
        Finite; converted to float32.
    spot_sigma, outline_sigma : (float, float, float)
        Voxels along z, y, x.
    threshold : float or None
        Foreground is above it in the image smoothed for outlines; None is Otsu.
    device : str or None
        As in :func:`gaussian`.

    Returns
    -------
    ndarray, uint32, shape of ``image``
        0 is background.

    Raises
    ------
    BadInputError
        Not finite, too large for the package's labels, or as in :func:`gaussian`.
    """
    _check_volume("voronoi_otsu", image)
    for sigma in (spot_sigma, outline_sigma):
        _check_sigma(sigma)
    if image.size == 0:
        return np.zeros(image.shape, np.uint32)
    values = np.ascontiguousarray(image, dtype=np.float32)
    if not np.isfinite(values).all():
        raise BadInputError(
            "OpenCL voronoi_otsu: the image holds NaN or infinite voxels, which leave no "
            "threshold. Replace them, for example with 0."
        )
    with session("voronoi_otsu", values.shape, device) as package:
        if values.size > package.max_labelled_voxels:
            raise BadInputError(
                f"OpenCL voronoi_otsu: {values.size} voxels, but {package.name} numbers seeds "
                f"exactly only up to {package.max_labelled_voxels}. Use a smaller region."
            )
        # Otsu of a constant volume divides 0 by 0 on the way to "no foreground"
        with np.errstate(invalid="ignore", divide="ignore"):
            found = _label(package, push(package, values), spot_sigma, outline_sigma, threshold)
        labels: npt.NDArray[np.uint32] = pull(package, found, values, np.uint32)
    return labels


def _label(
    package: Package, image: Any, spot_sigma: Sigma, outline_sigma: Sigma, threshold: float | None
) -> Any:
    cle = package.cle
    isotropic = len(set(spot_sigma)) == len(set(outline_sigma)) == 1
    if isotropic and threshold is None:
        return cle.voronoi_otsu_labeling(
            image, spot_sigma=float(spot_sigma[0]), outline_sigma=float(outline_sigma[0])
        )
    found = package.maxima(_blur(package, image, spot_sigma))
    outline = _blur(package, image, outline_sigma)
    if threshold is None:
        mask = cle.threshold_otsu(outline)
    else:
        mask = cle.greater_constant(outline, None, float(threshold))
    return cle.masked_voronoi_labeling(cle.binary_and(found, mask), mask)


def _blur(package: Package, image: Any, sigma: Sigma) -> Any:
    z, y, x = (float(s) for s in sigma)
    return package.cle.gaussian_blur(image, None, x, y, z)


def check_ranks(lowest: int, highest: int) -> None:
    """Refuse seed ranks that float32 would round."""
    if lowest < 0 or highest > MAX_RANK:
        raise BadInputError(
            f"OpenCL flood: seed ranks {lowest}..{highest}, but float32 labels are exact only "
            f"within 0..{MAX_RANK}. Renumber the seeds, or use a smaller block_shape."
        )


def _check_volume(what: str, array: npt.NDArray[Any]) -> None:
    if array.ndim != 3:
        raise BadInputError(
            f"OpenCL {what}: the array has {array.ndim} axes, shape {array.shape}, not "
            "(z, y, x). Add axes of length 1."
        )
    if array.size > MAX_VOXELS:
        raise BadInputError(
            f"OpenCL {what}: {array.size} voxels, but device buffers are addressed with int32, "
            f"at most {MAX_VOXELS}. Use a smaller block_shape."
        )


def _check_sigma(sigma: Sigma) -> None:
    if len(sigma) != 3 or not all(np.isfinite(s) and s >= 0 for s in sigma):
        raise BadInputError(
            f"OpenCL gaussian: sigma {sigma} is not three voxel lengths >= 0 in (z, y, x) order."
        )


__all__ = ["available_devices", "flood", "gaussian", "spots", "voronoi_otsu"]
