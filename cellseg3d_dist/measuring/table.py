"""The cell table: one row per cell, from exact sums to numbers with units."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cellseg3d_dist.grid import Triple
from cellseg3d_dist.measuring.kernels import standard_deviation
from cellseg3d_dist.measuring.partial import _PAIRS, PartialCells

Floats = npt.NDArray[np.float64]
Spacing = tuple[float, float, float]

_CHUNK = 1 << 16
"""Cells per batch of eigenvalues: bounds the temporary 3 x 3 matrices."""

_AXES = ("z", "y", "x")


@dataclass(frozen=True)
class Column:
    """One column of the table with what a reader must know of it."""

    name: str
    dtype: pa.DataType
    unit: str
    description: str

    def field(self) -> pa.Field:
        """As an Arrow field with unit and description as metadata."""
        notes = {"unit": self.unit, "description": self.description}
        return pa.field(self.name, self.dtype, nullable=False, metadata=notes)


def columns(channels: Sequence[str]) -> list[Column]:
    """The columns of the table, in order, for these channel names."""
    integer, real = pa.int64(), pa.float64()
    out = [Column("label", integer, "", "id of the cell in the label image")]
    out += [
        Column(f"centroid_{a}", real, "voxel", f"mean {a} of its voxels, source level")
        for a in _AXES
    ]
    out += [
        Column(f"centroid_{a}_um", real, "um", f"mean {a} of its voxel centres, image origin added")
        for a in _AXES
    ]
    out += [
        Column(f"bbox_{a}_{end}", integer, "voxel", f"bounding box, {what} of {a}, source level")
        for end, what in (("min", "first voxel"), ("max", "last voxel + 1"))
        for a in _AXES
    ]
    out += [
        Column("volume", integer, "voxel", "number of voxels"),
        Column("volume_um3", real, "um3", "volume"),
    ]
    for suffix, channel in zip(_suffixes(channels), channels, strict=True):
        for statistic, what in (
            ("mean", "mean"),
            ("min", "least"),
            ("max", "greatest"),
            ("sum", "summed"),
            ("std", "population standard deviation of"),
        ):
            text = f"{what} intensity of channel {channel}"
            out.append(Column(f"intensity_{statistic}{suffix}", real, "image unit", text))
    out += [
        Column("equivalent_diameter_um", real, "um", "diameter of the sphere of equal volume"),
        Column("axis_major_um", real, "um", "longest axis of the ellipsoid of equal moments"),
        Column("axis_middle_um", real, "um", "middle axis of that ellipsoid, full length"),
        Column("axis_minor_um", real, "um", "shortest axis of that ellipsoid, full length"),
        Column("sphericity", real, "", "of the oblate spheroid of these axes; 1 is a sphere"),
        Column("touches_border", pa.bool_(), "", "its bounding box touches a face of the volume"),
    ]
    return out


def mean_columns(channels: Sequence[str]) -> list[str]:
    """Name of each channel's column of mean intensities."""
    return [f"intensity_mean{suffix}" for suffix in _suffixes(channels)]


def _suffixes(channels: Sequence[str]) -> list[str]:
    """Column suffix of each channel; none for a single one, a number where names repeat."""
    if len(channels) <= 1:
        return [""] * len(channels)
    if len(set(channels)) < len(channels):
        return [f"_{name}_{i}" for i, name in enumerate(channels)]
    return [f"_{name}" for name in channels]


def cell_table(
    partial: PartialCells,
    *,
    voxel_size: Spacing,
    shape: Triple,
    offset: Triple = (0, 0, 0),
    origin: Spacing = (0.0, 0.0, 0.0),
    channels: Sequence[str] = (),
    scales: Sequence[float] = (),
) -> pa.Table:
    """One row per cell, sorted by label.

    Parameters
    ----------
    partial : PartialCells
        Merged sums of whole cells, in voxels of the volume (0 is its first voxel).
    voxel_size : (z, y, x) in micrometres
    shape : (z, y, x)
        Of the volume, to tell the cells that touch its faces.
    offset : (z, y, x)
        Where the volume's voxel (0, 0, 0) lies in the stored level; added to centroid and
        bounding box in voxels.
    origin : (z, y, x) in micrometres
        Physical position of the volume's voxel (0, 0, 0), any offset included.
    channels, scales : one name, one float per channel
        The scales given to ``measure_fragments``.

    Returns
    -------
    pyarrow.Table
        Columns as in :func:`columns`, each with ``unit`` and ``description`` metadata. Mean,
        min, max, sum and std of a cell with a voxel that is not finite are NaN.

    Notes
    -----
    Axes are the full lengths of the solid ellipsoid with the cell's second moments,
    sqrt(20 e) for each eigenvalue e of the covariance of its voxel centres, which is
    scikit-image's definition; here in micrometres, so also right for anisotropic voxels.
    """
    if not partial.n_channels == len(channels) == len(scales):
        raise ValueError(
            f"{partial.n_channels} channels measured, {len(channels)} names, {len(scales)} scales"
        )
    voxels = partial.voxels
    centroid = partial.position / voxels
    axes = principal_axes(partial, voxel_size)
    volume_um3 = voxels * float(np.prod(voxel_size))
    values: list[npt.NDArray[Any]] = [partial.label.astype(np.int64)]
    values += [centroid[a] + offset[a] for a in range(3)]
    values += [centroid[a] * voxel_size[a] + origin[a] for a in range(3)]
    for box in (partial.box_min, partial.box_max):
        values += [box[a].astype(np.int64) + offset[a] for a in range(3)]
    values += [voxels, volume_um3]
    for k, scale in enumerate(scales):
        values += _intensity(partial, k, scale)
    values += [np.cbrt(6 * volume_um3 / np.pi), *axes, spheroid_sphericity(axes[0], axes[2])]
    at_face = [partial.box_min[a] <= 0 for a in range(3)]
    at_face += [partial.box_max[a] >= shape[a] for a in range(3)]
    values.append(np.logical_or.reduce(at_face))
    named = columns(channels)
    notes = {
        "axis_order": "zyx",
        "voxel_size_um": list(voxel_size),
        "shape": list(shape),
        "offset": list(offset),
        "origin_um": list(origin),
        "channels": list(channels),
    }
    schema = pa.schema(
        [column.field() for column in named], metadata={"cellseg3d_dist": json.dumps(notes)}
    )
    arrays = [
        pa.array(value, type=column.dtype) for value, column in zip(values, named, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _intensity(partial: PartialCells, channel: int, scale: float) -> list[Floats]:
    """Mean, min, max, sum and std of one channel, each (n,)."""
    q_sum = partial.q_sum[channel]
    std = standard_deviation(
        partial.voxels,
        np.ascontiguousarray(q_sum),
        np.ascontiguousarray(partial.square_high[channel]),
        np.ascontiguousarray(partial.square_low[channel]),
    )
    least, most = partial.minimum[channel], partial.maximum[channel]
    finite = np.isfinite(least) & np.isfinite(most)
    total = q_sum / scale
    found = [total / partial.voxels, least, most, total, std / scale]
    return [np.where(finite, values, np.nan) for values in found]


def principal_axes(partial: PartialCells, voxel_size: Spacing) -> Floats:
    """Full lengths of the ellipsoid of equal second moments, longest first.

    Parameters
    ----------
    partial : PartialCells
    voxel_size : (z, y, x) in micrometres

    Returns
    -------
    (3, n) float64
        Micrometres; 0 along a direction in which the cell is one voxel thick.
    """
    out = np.empty((3, partial.n_rows), dtype=np.float64)
    for start in range(0, partial.n_rows, _CHUNK):
        rows = slice(start, start + _CHUNK)
        eigenvalues = np.linalg.eigvalsh(_covariance(partial, rows, voxel_size))[:, ::-1].T
        # rounding leaves a flat cell a tiny eigenvalue; two voxels of 10^4 give 3e-8
        solid = eigenvalues > 1e-12 * eigenvalues[:1]
        out[:, rows] = np.sqrt(20 * np.where(solid, eigenvalues, 0))
    return out


def _covariance(partial: PartialCells, rows: slice, voxel_size: Spacing) -> Floats:
    """Covariance matrices (n, 3, 3) of the voxel centres, in square micrometres.

    Moments are first moved, in integers modulo 2^64, to the voxel nearest the centroid:
    exact, although sums about the volume's corner may have wrapped, because the moved
    sums are small; and free of the cancellation of sum(z^2)/n - mean^2.
    """
    voxels, position = partial.voxels[rows], partial.position[:, rows]
    nearest = np.rint(position / voxels).astype(np.int64)
    rest = position - voxels * nearest
    matrices = np.empty((voxels.size, 3, 3), dtype=np.float64)
    for k, (a, b) in enumerate(_PAIRS):
        moved = (
            partial.moment[k, rows]
            - nearest[a] * position[b]
            - nearest[b] * position[a]
            + voxels * nearest[a] * nearest[b]
        )
        value = moved / voxels - (rest[a] / voxels) * (rest[b] / voxels)
        matrices[:, a, b] = matrices[:, b, a] = value * (voxel_size[a] * voxel_size[b])
    return matrices


def spheroid_sphericity(major: Floats, minor: Floats) -> Floats:
    """Sphericity of an oblate spheroid, as CellSeg3D reports it.

    The surface of the sphere of equal volume over the surface of the spheroid with two
    semi-axes a (major / 2) and one b (minor / 2) [1]_; CellSeg3D [2]_ evaluates it with the
    longest and the shortest axis of each cell:

        2 (a b^2)^(1/3) / (a + b^2 / sqrt(a^2 - b^2) ln((a + sqrt(a^2 - b^2)) / b))

    written here with the eccentricity e, ln(...) = artanh(e), which stays accurate near a
    sphere. It is 1 for a = b, 0 for a flat cell (b = 0) and NaN for a single voxel (a = 0).

    Parameters
    ----------
    major, minor : (n,) float64
        Full lengths, any one unit.

    References
    ----------
    .. [1] H. Wadell, Volume, shape, and roundness of quartz particles, J. Geol. 43, 1935.
    .. [2] C. Achard et al., CellSeg3D, Self-supervised 3D cell segmentation for
       fluorescence microscopy, eLife 13, RP99848, 2025.

    >>> spheroid_sphericity(np.array([2.0, 2.0, 2.0]), np.array([2.0, 1.0, 0.0])).round(4)
    array([1.    , 0.9129, 0.    ])
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        squared = np.minimum(minor / major, 1.0) ** 2
        eccentricity = np.sqrt(1 - squared)
        ratio = np.arctanh(eccentricity) / eccentricity
        # series of artanh(e) / e, where the quotient is 0 / 0
        ratio = np.where(eccentricity < 1e-4, 1 + eccentricity**2 / 3, ratio)
        value = 2 * np.cbrt(squared) / (1 + squared * ratio)
    value = np.where(minor <= 0, 0.0, value)
    return np.where(major <= 0, np.nan, value)
