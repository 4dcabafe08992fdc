"""Steps of a clean-up, one after the other, on labels in memory.

Between steps labels are numbered 1..n without gaps and in order, and every rule about ties
looks at these numbers alone. A cell keeps its place in the order through every step but
two: united cells take the place of the smallest, and after a split all cells are numbered
by their first voxel in raster order (z slowest).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cellseg3d_dist.config.clean_up import (
    Artifacts,
    ClearBorder,
    Closing,
    FillHoles,
    MergeTouching,
    Size,
    Smooth,
    Split,
    Step,
    steps_of,
)
from cellseg3d_dist.config.values import Floats
from cellseg3d_dist.errors import BadInputError, ConfigError
from cellseg3d_dist.grid import Region, Triple
from cellseg3d_dist.instances.clean_up.closing import closing, closing_halo
from cellseg3d_dist.instances.clean_up.filtering import (
    faces_across,
    labels_on_faces,
    volume_limits,
    within_limits,
)
from cellseg3d_dist.instances.clean_up.holes import OPEN, enclosing
from cellseg3d_dist.instances.clean_up.smoothing import ball, ball_halo, majority
from cellseg3d_dist.instances.clean_up.touching import borders, quantising_scale, united_cells
from cellseg3d_dist.instances.components import components, components_of_labels
from cellseg3d_dist.instances.sizes import sizes_of

Labels = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]
#: The stored value of a foreground of 1.
STORED_ONE = 255.0


@dataclass(frozen=True)
class Reshaping:
    """A step that moves outlines, as a function of labels.

    Attributes
    ----------
    halo : (int, int, int)
        Voxels around a voxel that decide it.
    beyond : int
        Voxels of background beyond the volume's faces that are looked at too.
    apply : callable
    """

    halo: Triple
    beyond: int
    apply: Callable[[Labels], Labels]

    def of(self, labels: Labels, region: Region, shape: Triple) -> Labels:
        """Apply it to the labels of a region of a volume of ``shape``."""
        pads = [
            (self.beyond * (a == 0), self.beyond * (b == n))
            for a, b, n in zip(region.start, region.stop, shape, strict=True)
        ]
        inner = tuple(slice(p, p + n) for (p, _), n in zip(pads, region.shape, strict=True))
        return self.apply(np.pad(labels, pads) if self.beyond else labels)[inner]


def reshaping(step: Closing | Smooth, voxel_size: Floats) -> Reshaping:
    """A step that moves outlines, for voxels of this size."""
    if isinstance(step, Closing):
        steps = step.radius
        return Reshaping(closing_halo(steps), steps, lambda labels: closing(labels, steps))
    radius = step.radius.voxels(voxel_size)
    return Reshaping(ball_halo(radius), 0, lambda labels: majority(labels, ball(radius)))


def clean_up(
    labels: npt.NDArray[Any],
    steps: Any,
    *,
    image: npt.NDArray[Any] | None = None,
    foreground: npt.NDArray[Any] | None = None,
    within: npt.NDArray[Any] | None = None,
    voxel_size: Floats = (1.0, 1.0, 1.0),
) -> npt.NDArray[np.unsignedinteger]:
    """Clean up a label image, see ``docs/clean_up.md`` for the steps.

    ``segment --clean-up`` does the same to a stored volume, block by block.

    Parameters
    ----------
    labels : ndarray, integers, (z, y, x)
        0 is background. Larger labels win ties of a closing.
    steps : str or list
        Such as ``"closing=8,fill-holes,split"`` or ``["fill-holes", {"closing": 8}]``.
    image, foreground : ndarray, (z, y, x), optional
        What ``merge-touching`` looks at; a foreground is 0 to 1, or 0 to 255 as uint8.
    within : ndarray, (z, y, x), optional
        Non-zero where cells may be.
    voxel_size : (float, float, float)
        Micrometres, for lengths and volumes that are given in micrometres.

    Returns
    -------
    ndarray, the smallest unsigned type that holds n, (z, y, x)
        Labels 1..n.

    Raises
    ------
    ConfigError
        If a step or a parameter is unknown or out of range.
    BadInputError
        If arrays do not fit.

    Examples
    --------
    >>> ring = np.ones((3, 3, 3), np.uint8)
    >>> ring[1, 1, 1] = 0
    >>> int(clean_up(np.pad(ring, 1), "fill-holes").sum())
    27
    """
    chosen = steps_of(steps)
    arrays = {"image": image, "foreground": foreground, "within": within}
    _check_arrays(labels, arrays)
    inside = None if within is None else np.asarray(within) != 0
    now = _numbered(_masked(_ranked(labels), inside))
    for step in chosen:
        if now.size:
            now = _numbered(_after(step, now, arrays, inside, voxel_size))
    return now.astype(np.min_scalar_type(int(now.max(initial=0))))


def _check_arrays(labels: npt.NDArray[Any], others: dict[str, npt.NDArray[Any] | None]) -> None:
    if labels.ndim != 3 or labels.dtype.kind not in "ui":
        raise BadInputError(
            f"labels of shape {labels.shape} and type {labels.dtype} cannot be cleaned up. Give "
            f"integers (z, y, x)."
        )
    if labels.size and labels.min() < 0:
        raise BadInputError(f"labels hold {labels.min()}, below 0. Use 0 for background.")
    for name, other in others.items():
        if other is not None and other.shape != labels.shape:
            raise BadInputError(
                f"{name} has shape {other.shape}, labels {labels.shape}. Give the same shape."
            )


def _ranked(labels: npt.NDArray[Any]) -> Labels:
    """Labels of any size as small ones in the same order."""
    if int(labels.max(initial=0)) <= min(max(4 * labels.size, 1 << 16), 2**31 - 2):
        return labels.astype(np.int32)
    values, inverse = np.unique(labels, return_inverse=True)
    rank = np.cumsum(values > 0).astype(np.int32)
    return rank[inverse].reshape(labels.shape)


def _numbered(labels: Labels) -> Labels:
    """Labels 1..n without gaps, in the same order."""
    n = int(labels.max(initial=0))
    table = np.zeros(n + 1, np.int32)
    table[1:] = np.cumsum(sizes_of(labels, n) > 0)
    return table[labels]


def _after(
    step: Step,
    labels: Labels,
    arrays: dict[str, npt.NDArray[Any] | None],
    within: Mask | None,
    voxel_size: Floats,
) -> Labels:
    """Labels after one step."""
    n = int(labels.max())
    if isinstance(step, Closing | Smooth):
        shape: Triple = labels.shape
        moved = reshaping(step, voxel_size).of(labels, Region.whole(shape), shape)
        return _masked(moved, within)
    if isinstance(step, FillHoles):
        return _masked(_filled(labels, volume_limits(step, voxel_size)), within)
    if isinstance(step, MergeTouching):
        united = _united(step, labels, n, arrays, within)
        return np.append(0, united).astype(np.int32)[labels]
    if isinstance(step, Split):
        return components_of_labels(labels, step.connectivity)[0].astype(np.int32)
    kept = np.ones(n + 1, np.bool_)
    if isinstance(step, ClearBorder):
        kept[labels_on_faces(labels, faces_across(step.axes))] = False
    else:
        assert isinstance(step, Size | Artifacts)
        kept[1:] = within_limits(sizes_of(labels, n), volume_limits(step, voxel_size))
    dropped: Labels = labels * kept[labels]
    return dropped


def _masked(labels: Labels, within: Mask | None) -> Labels:
    return labels if within is None else np.where(within, labels, np.int32(0))


def _filled(labels: Labels, limits: tuple[int | None, int | None]) -> Labels:
    """Holes take the label around them."""
    found, first = components(labels == 0, 6)
    owners = enclosing(found, first.size, np.pad(labels, 1, constant_values=OPEN))
    fillable = (owners > 0) & within_limits(sizes_of(found, first.size), limits)
    return labels + np.append(0, owners * fillable).astype(np.int32)[found]


def _united(
    step: MergeTouching,
    labels: Labels,
    n: int,
    arrays: dict[str, npt.NDArray[Any] | None],
    within: Mask | None,
) -> npt.NDArray[np.int64]:
    of = step.of or ("image" if arrays["foreground"] is None else "foreground")
    image = arrays[of]
    if image is None:
        raise ConfigError(f"clean_up {step.name} of {of} needs {of}: give an array {of}=.")
    if image.dtype.kind == "f":
        image = np.where(np.isfinite(image), image, image.dtype.type(0))
    elif image.dtype.itemsize > 4:
        image = image.astype(np.float64)
    # bool is 0 and 1 already
    unit = STORED_ONE if of == "foreground" and image.dtype == np.uint8 else 1.0
    seen = image if within is None else image[within]
    largest = float(np.abs(seen).max(initial=0)) if image.dtype.kind == "f" else 0.0
    scale = quantising_scale(image.dtype, largest)
    found = borders(labels, np.arange(1, n + 1), image, scale)
    return united_cells(
        n, found, scale, step.low * unit, step.highest * unit,
        brightest_first=step.order == "brightest-first",
    )  # fmt: skip
