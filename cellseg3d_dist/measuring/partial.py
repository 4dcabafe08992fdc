"""Per-cell statistics as sums that combine in any order, bit for bit.

A cell cut by block faces is measured piecewise: every column below is an integer sum, a
minimum or a maximum, so that ``merge`` is associative and commutative *exactly* and the
table of a volume does not depend on how it was cut. Floats are made integers first: with
``q = rint(value * scale)``, ``scale`` a power of two fixed for the whole volume, sums of q
have no rounding to depend on order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from math import frexp, isfinite
from typing import Any

import numpy as np
import numpy.typing as npt

from cellseg3d_dist.errors import VolumeError
from cellseg3d_dist.grid import Triple
from cellseg3d_dist.measuring import kernels

_PAIRS = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
"""Axes of each second moment: zz, yy, xx, zy, zx, yx."""


@dataclass(frozen=True, eq=False)
class PartialCells:
    """Sums per label; rows sorted by label, each label once. Rows are the last axis.

    Attributes
    ----------
    label : (n,) uint64
    voxels : (n,) int64
    position : (3, n) int64
        Sums of the global z, y, x of each voxel.
    moment : (6, n) int64
        Sums of zz, yy, xx, zy, zx, yx. They may wrap at 64 bits: read modulo 2^64 about
        the centroid (:func:`cellseg3d_dist.measuring.table.cell_table`) they are exact up
        to 10^12 voxels in one cell.
    box_min, box_max : (3, n) int32
        Bounding box in global voxels, max excluded.
    q_sum : (c, n) int64
        Sums of the quantised intensity of each channel.
    square_high, square_low : (c, n) uint64
        Sums of its square, 128 bits.
    minimum, maximum : (c, n) float64
        Of the intensity itself; NaN where a voxel of the cell is not finite.
    """

    label: npt.NDArray[np.uint64]
    voxels: npt.NDArray[np.int64]
    position: npt.NDArray[np.int64]
    moment: npt.NDArray[np.int64]
    box_min: npt.NDArray[np.int32]
    box_max: npt.NDArray[np.int32]
    q_sum: npt.NDArray[np.int64]
    square_high: npt.NDArray[np.uint64]
    square_low: npt.NDArray[np.uint64]
    minimum: npt.NDArray[np.float64]
    maximum: npt.NDArray[np.float64]

    @classmethod
    def empty(cls, n_channels: int) -> PartialCells:
        """No cell, with this many intensity channels."""
        return cls(**{k: np.zeros((*s, 0), t) for k, s, t in _layout(n_channels)})

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> PartialCells:
        """Back from :meth:`to_arrays`.

        Raises
        ------
        VolumeError
            If an array is missing or has another type or shape.
        """
        n_channels = arrays["q_sum"].shape[0] if "q_sum" in arrays else 0
        n_rows = arrays["label"].shape[-1] if "label" in arrays else 0
        for name, shape, dtype in _layout(n_channels):
            if name not in arrays:
                raise VolumeError(f"Cell statistics lack the array {name!r}; measure again.")
            found = arrays[name]
            if found.dtype != dtype or found.shape != (*shape, n_rows):
                raise VolumeError(
                    f"Cell statistics: array {name!r} is {found.dtype} {found.shape}, "
                    f"not {dtype} {(*shape, n_rows)}; measure again."
                )
        return cls(**{name: arrays[name] for name, _, _ in _layout(n_channels)})

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Columns by name, for storage."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def n_rows(self) -> int:
        """Number of labels."""
        return self.label.size

    @property
    def n_channels(self) -> int:
        """Number of intensity channels."""
        return int(self.q_sum.shape[0])

    def between(self, first: int, last: int) -> PartialCells:
        """Rows with ``first <= label <= last``; a view."""
        start = np.searchsorted(self.label, np.uint64(first), side="left")
        stop = np.searchsorted(self.label, np.uint64(last), side="right")
        return PartialCells(**{k: a[..., start:stop] for k, a in self.to_arrays().items()})

    def relabelled(self, final_labels: npt.NDArray[Any]) -> PartialCells:
        """Rename label i + 1 to ``final_labels[i]``, merging equal ones.

        Parameters
        ----------
        final_labels : (n,) unsigned integer
            0 drops the row.

        Raises
        ------
        ValueError
            If a label has no entry.
        """
        if self.n_rows and int(self.label[-1]) > final_labels.size:
            raise ValueError(
                f"label {int(self.label[-1])} has no entry among {final_labels.size} final labels"
            )
        renamed = final_labels.astype(np.uint64)[(self.label - np.uint64(1)).astype(np.intp)]
        arrays = self.to_arrays() | {"label": renamed}
        keep = renamed != 0
        if not keep.all():
            arrays = {name: array[..., keep] for name, array in arrays.items()}
        return _grouped(arrays)


def _layout(n_channels: int) -> list[tuple[str, tuple[int, ...], Any]]:
    """Name, leading shape and type of each column."""
    c = (n_channels,)
    return [
        ("label", (), np.uint64),
        ("voxels", (), np.int64),
        ("position", (3,), np.int64),
        ("moment", (6,), np.int64),
        ("box_min", (3,), np.int32),
        ("box_max", (3,), np.int32),
        ("q_sum", c, np.int64),
        ("square_high", c, np.uint64),
        ("square_low", c, np.uint64),
        ("minimum", c, np.float64),
        ("maximum", c, np.float64),
    ]


def intensity_scale(dtype: npt.DTypeLike, max_abs: float) -> float:
    """The power of two that makes intensities integers of at most 2^31 in magnitude.

    Parameters
    ----------
    dtype : dtype of the stored image
    max_abs : float
        Largest finite magnitude in the whole volume; the same for every block of a run.

    Returns
    -------
    float
        1 for integers up to 32 bit, whose sums are exact as they are. Floats, and 64-bit
        integers (which are read as float64), are resolved to max_abs / 2^30 or finer.

    >>> intensity_scale("uint16", 4095), intensity_scale("float32", 1.0)
    (1.0, 2147483648.0)
    """
    kind = np.dtype(dtype)
    if kind.kind in "bui" and kind.itemsize <= 4:
        return 1.0
    if not isfinite(max_abs) or max_abs <= 0:
        return 1.0
    mantissa, exponent = frexp(max_abs)  # max_abs = mantissa 2^exponent, 0.5 <= mantissa < 1
    power = 31 - exponent + (1 if mantissa == 0.5 else 0)
    return float(2.0 ** min(power, 1000))


def measure_fragments(
    fragments: npt.NDArray[np.uint32],
    n_fragments: int,
    channels: Sequence[npt.NDArray[Any]] = (),
    start: Triple = (0, 0, 0),
    scales: Sequence[float] = (),
) -> PartialCells:
    """Sums over the voxels of each fragment of one block.

    Parameters
    ----------
    fragments : (z, y, x) uint32
        Fragments 1..n_fragments, 0 is background.
    n_fragments : int
    channels : sequence of (z, y, x) arrays
        Intensities, any integer or float type; 64-bit integers are read as float64.
    start : (z, y, x)
        Global coordinate of the block's first voxel.
    scales : one float per channel
        From :func:`intensity_scale`.

    Returns
    -------
    PartialCells
        One row per fragment that has a voxel, labelled as in ``fragments``.

    Raises
    ------
    VolumeError
        If an intensity is beyond what its scale was chosen for.
    ValueError
        If shapes differ or a fragment is over ``n_fragments``.
    """
    if len(scales) != len(channels):
        raise ValueError(f"{len(channels)} channels but {len(scales)} scales")
    sums = np.zeros((n_fragments, 10), dtype=np.int64)
    box_min = np.full((n_fragments, 3), np.iinfo(np.int32).max, dtype=np.int32)
    box_max = np.zeros((n_fragments, 3), dtype=np.int32)
    if not kernels.geometry(np.ascontiguousarray(fragments), sums, box_min, box_max):
        raise ValueError(f"a fragment is over n_fragments = {n_fragments}")
    present = np.flatnonzero(sums[:, 0])
    measured = [
        _measure_channel(fragments, n_fragments, image, scale, start)
        for image, scale in zip(channels, scales, strict=True)
    ]
    position, moment = _globally(sums[present].T, start)
    corner = np.asarray(start, dtype=np.int32)
    blank = PartialCells.empty(0).to_arrays()
    names = ("q_sum", "square_high", "square_low", "minimum", "maximum")
    per_channel = {
        name: np.stack([m[k][present] for m in measured])
        if measured
        else np.zeros((0, present.size), blank[name].dtype)
        for k, name in enumerate(names)
    }
    return PartialCells(
        label=(present + 1).astype(np.uint64),
        voxels=np.ascontiguousarray(sums[present, 0]),
        position=position,
        moment=moment,
        box_min=np.ascontiguousarray((box_min[present] + corner).T),
        box_max=np.ascontiguousarray((box_max[present] + corner).T),
        **per_channel,
    )


def _globally(
    sums: npt.NDArray[np.int64], start: Triple
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Coordinate sums and second moments moved from the block to the volume."""
    count, local, moment = sums[0], sums[1:4], sums[4:10]
    position = np.stack([local[a] + count * start[a] for a in range(3)])
    moved = [
        moment[k] + start[a] * local[b] + start[b] * local[a] + count * (start[a] * start[b])
        for k, (a, b) in enumerate(_PAIRS)
    ]
    return position, np.stack(moved)


def _measure_channel(
    fragments: npt.NDArray[np.uint32],
    n_fragments: int,
    image: npt.NDArray[Any],
    scale: float,
    start: Triple,
) -> tuple[npt.NDArray[Any], ...]:
    """Sum, square sums (high, low), min and max of one channel, each (n_fragments,)."""
    if image.shape != fragments.shape:
        raise ValueError(f"intensity shape {image.shape} is not that of labels {fragments.shape}")
    q_sum = np.zeros(n_fragments, dtype=np.int64)
    high = np.zeros(n_fragments, dtype=np.uint64)
    low = np.zeros(n_fragments, dtype=np.uint64)
    least = np.full(n_fragments, np.inf)
    most = np.full(n_fragments, -np.inf)
    out = (q_sum, high, low, least, most)
    labels = np.ascontiguousarray(fragments)
    if image.dtype.kind in "bui" and image.dtype.itemsize <= 4:
        kernels.integer_intensity(labels, np.ascontiguousarray(image), *out)
        return out
    dtype = np.float32 if image.dtype.itemsize <= 4 else np.float64
    values = np.ascontiguousarray(image, dtype=dtype)
    if not kernels.float_intensity(labels, values, scale, *out):
        raise VolumeError(
            f"Intensities in the block at voxel {start} reach past {kernels.Q_LIMIT / scale:g}, "
            "the largest magnitude surveyed; the image changed since the survey, start a new run."
        )
    return out


def merge(partials: Iterable[PartialCells]) -> PartialCells:
    """Combine statistics; associative and commutative, bit for bit.

    Raises
    ------
    ValueError
        If there is nothing to merge or the channel counts differ.
    """
    pieces = list(partials)
    if not pieces:
        raise ValueError("no statistics to merge")
    counts = {piece.n_channels for piece in pieces}
    if len(counts) > 1:
        raise ValueError(f"statistics of different channel counts {sorted(counts)}")
    if len(pieces) == 1:
        return pieces[0]
    columns = [piece.to_arrays() for piece in pieces]
    return _grouped({k: np.concatenate([c[k] for c in columns], axis=-1) for k in columns[0]})


def _grouped(arrays: dict[str, npt.NDArray[Any]]) -> PartialCells:
    """Sort rows by label and reduce rows of equal label."""
    label = arrays["label"]
    if label.size == 0:
        return PartialCells(**arrays)
    if not (label[1:] > label[:-1]).all():
        order = np.argsort(label, kind="stable")
        arrays = {name: array[..., order] for name, array in arrays.items()}
        label = arrays["label"]
    starts = np.flatnonzero(np.concatenate([[True], label[1:] != label[:-1]]))
    if starts.size == label.size:
        return PartialCells(**arrays)

    def reduce(ufunc: np.ufunc, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.asarray(ufunc.reduceat(array, starts, axis=-1))

    low, carry = _sum_with_carry(arrays["square_low"], starts)
    return PartialCells(
        label=label[starts],
        voxels=reduce(np.add, arrays["voxels"]),
        position=reduce(np.add, arrays["position"]),
        moment=reduce(np.add, arrays["moment"]),
        box_min=reduce(np.minimum, arrays["box_min"]),
        box_max=reduce(np.maximum, arrays["box_max"]),
        q_sum=reduce(np.add, arrays["q_sum"]),
        square_high=reduce(np.add, arrays["square_high"]) + carry,
        square_low=low,
        minimum=reduce(np.minimum, arrays["minimum"]),
        maximum=reduce(np.maximum, arrays["maximum"]),
    )


def _sum_with_carry(
    low: npt.NDArray[np.uint64], starts: npt.NDArray[np.intp]
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Group sums of uint64 modulo 2^64 and their carries, through 32-bit halves."""
    mask, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    small = np.add.reduceat(low & mask, starts, axis=-1)
    large = np.add.reduceat(low >> shift, starts, axis=-1) + (small >> shift)
    return (large << shift) | (small & mask), large >> shift
