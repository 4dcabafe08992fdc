"""OME-Zarr metadata, 0.4 and 0.5: levels, axes, voxel size in micrometres.

Checked at the edge by one small checker per rule, before any array is opened. The
published models are stricter than real files (they refuse xyz order, for one) and do not
say where a value stands, so they are used for what is written, not for what is read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from cellseg3d_dist.errors import VolumeError, VoxelSizeError
from cellseg3d_dist.volumes.storage import JSONObject, join, read_json

Size = tuple[float, float, float]

MICROMETRES = {
    "angstrom": 1e-4,
    "nanometer": 1e-3,
    "nanometre": 1e-3,
    "nm": 1e-3,
    "micrometer": 1.0,
    "micrometre": 1.0,
    "micron": 1.0,
    "microns": 1.0,
    "um": 1.0,
    "\u00b5m": 1.0,
    "\u03bcm": 1.0,
    "millimeter": 1e3,
    "millimetre": 1e3,
    "mm": 1e3,
    "centimeter": 1e4,
    "centimetre": 1e4,
    "cm": 1e4,
    "meter": 1e6,
    "metre": 1e6,
    "m": 1e6,
}
"""Micrometres per unit of length; other units are refused."""

_AXIS_TYPES = {"z": "space", "y": "space", "x": "space", "c": "channel", "t": "time"}


@dataclass(frozen=True)
class Level:
    """One dataset of an image: its path and the sizes per stored axis, as written.

    ``scale`` is None where the metadata gives none.
    """

    path: str
    scale: tuple[float, ...] | None
    translation: tuple[float, ...]


@dataclass(frozen=True)
class Multiscale:
    """The first multiscale of a group.

    Attributes
    ----------
    axes
        Names of the stored axes, one letter each of t, c, z, y, x, in stored order.
    units
        Per stored axis; None where none is given.
    is_label
        Whether the group carries ``image-label``.
    """

    location: str
    axes: tuple[str, ...]
    units: tuple[str | None, ...]
    levels: tuple[Level, ...]
    channels: tuple[str, ...]
    is_label: bool

    def level(self, number: int) -> Level:
        """A level by number.

        Raises
        ------
        VolumeError
            If there is no such level.
        """
        if not 0 <= number < len(self.levels):
            raise VolumeError(
                f"{self.location} has no level {number}; its levels are 0 to "
                f"{len(self.levels) - 1}."
            )
        return self.levels[number]

    def voxel_size(self, number: int) -> tuple[Size, Size]:
        """Voxel size and origin of a level in (z, y, x), micrometres.

        Raises
        ------
        VolumeError
            If the scale is missing, not positive or in an unknown unit.
        """
        level = self.level(number)
        if level.scale is None:
            raise VoxelSizeError(
                f"{self.location} has no scale for level {number}, so no voxel size. "
                "Give voxel_size."
            )
        size, origin = [], []
        for name in "zyx":
            axis = self.axes.index(name)
            scale = level.scale[axis]
            if not (math.isfinite(scale) and scale > 0):
                raise VolumeError(
                    f"{self.location} has scale {scale:g} along {name} at level {number}; it must "
                    "be above 0. Give voxel_size."
                )
            factor = self._micrometres(axis)
            size.append(scale * factor)
            shift = level.translation[axis] * factor
            origin.append(shift if math.isfinite(shift) else 0.0)
        return (size[0], size[1], size[2]), (origin[0], origin[1], origin[2])

    def _micrometres(self, axis: int) -> float:
        unit = self.units[axis]
        name = self.axes[axis]
        if unit is None:
            raise VoxelSizeError(
                f"{self.location} gives no unit along {name}, so its voxel size is not known. "
                "Give voxel_size."
            )
        if unit not in MICROMETRES:
            raise VolumeError(
                f"{self.location} has the unknown unit {unit[:40]!r} along {name}. Give voxel_size."
            )
        return MICROMETRES[unit]


def group_attributes(location: str) -> JSONObject | None:
    """OME attributes of a Zarr group, or None where there is no group.

    The attributes of 0.4 (Zarr 2) lie at the top, those of 0.5 (Zarr 3) under ``ome``; both
    come back alike, with ``version``.
    """
    meta = read_json(location, "zarr.json")
    if meta is not None:
        if meta.get("node_type") != "group":
            return None
        attributes = meta.get("attributes")
        ome = attributes.get("ome") if isinstance(attributes, dict) else None
        return dict(ome) if isinstance(ome, dict) else {}
    attributes = read_json(location, ".zattrs")
    group = read_json(location, ".zgroup")
    if attributes is None and group is None:
        return None
    return dict(attributes or {})


def parse_multiscale(location: str, attributes: JSONObject) -> Multiscale:
    """The first multiscale in a group's OME attributes.

    Raises
    ------
    VolumeError
        If version, axes, paths or transformations cannot be used.
    """
    found = attributes.get("multiscales")
    if not isinstance(found, list) or not found or not isinstance(found[0], dict):
        raise VolumeError(f"{location} has no usable 'multiscales' in its metadata.")
    multiscale: JSONObject = found[0]
    _check_version(location, attributes.get("version", multiscale.get("version")))
    axes, units = _axes(location, multiscale.get("axes"))
    datasets = multiscale.get("datasets")
    if not isinstance(datasets, list) or not datasets:
        raise VolumeError(f"{location} has no datasets in its multiscales.")
    outer = _transform(location, multiscale.get("coordinateTransformations"), len(axes))
    levels = tuple(_level(location, dataset, outer, len(axes)) for dataset in datasets)
    return Multiscale(
        location, axes, units, levels, _channel_names(attributes), "image-label" in attributes
    )


def _check_version(location: str, version: object) -> None:
    if version is None or str(version) == "0.4" or str(version).startswith("0.5"):
        return
    raise VolumeError(
        f"{location} is OME-Zarr {str(version)[:20]!r}; 0.4 and 0.5 can be read. Open one of its "
        "arrays by path and give voxel_size, or convert it."
    )


def _axes(location: str, axes: object) -> tuple[tuple[str, ...], tuple[str | None, ...]]:
    if not isinstance(axes, list):
        raise VolumeError(f"{location} has no list of axes in its multiscales.")
    names: list[str] = []
    units: list[str | None] = []
    for axis in axes:
        name = axis.get("name") if isinstance(axis, dict) else axis
        kind = axis.get("type") if isinstance(axis, dict) else None
        letter = name.lower() if isinstance(name, str) else ""
        if letter not in _AXIS_TYPES or kind not in (None, _AXIS_TYPES[letter]):
            raise VolumeError(
                f"{location} has the axis {str(name)[:40]!r} of type {str(kind)[:40]!r}; axes must "
                "be t (time), c (channel) and z, y, x (space)."
            )
        names.append(letter)
        unit = axis.get("unit") if isinstance(axis, dict) else None
        units.append(unit if isinstance(unit, str) else None)
    check_axes(location, tuple(names))
    return tuple(names), tuple(units)


def check_axes(location: str, axes: tuple[str, ...]) -> None:
    """Refuse duplicate axes and images that are not 3D.

    Raises
    ------
    VolumeError
        With the axes as they are.
    """
    text = "".join(axes)
    if len(set(axes)) != len(axes):
        raise VolumeError(f"{location} has duplicate axes {text!r}.")
    missing = [name for name in "zyx" if name not in axes]
    if missing:
        raise VolumeError(
            f"{location} has axes {text!r}, without {', '.join(missing)}; only 3D images (with "
            "optional channel and time) can be read."
        )


def _level(
    location: str,
    dataset: object,
    outer: tuple[tuple[float, ...] | None, tuple[float, ...]],
    n_axes: int,
) -> Level:
    path = dataset.get("path") if isinstance(dataset, dict) else None
    if not isinstance(dataset, dict) or not isinstance(path, str) or not path:
        raise VolumeError(f"{location} has a dataset without a path in its multiscales.")
    check_relative(location, path)
    scale, translation = _transform(location, dataset.get("coordinateTransformations"), n_axes)
    outer_scale, outer_translation = outer
    if outer_scale is not None:
        scale = _multiply(scale or (1.0,) * n_axes, outer_scale)
        translation = _multiply(translation, outer_scale)
    shifted = tuple(a + b for a, b in zip(translation, outer_translation, strict=True))
    return Level(path, scale, shifted)


def check_relative(location: str, path: str) -> None:
    """Refuse a path in the metadata that leaves the group.

    Raises
    ------
    VolumeError
        If it is absolute, has a ``..`` part, a backslash or a scheme.
    """
    parts = PurePosixPath(path).parts
    if path.startswith("/") or ".." in parts or "\\" in path or ":" in path or "\0" in path:
        raise VolumeError(
            f"{location} names the path {path[:80]!r} in its metadata; only paths inside the "
            "store are allowed."
        )


def _transform(
    location: str, transforms: object, n_axes: int
) -> tuple[tuple[float, ...] | None, tuple[float, ...]]:
    """Scale (None where absent) and translation of a list of transformations, in order."""
    scale: tuple[float, ...] | None = None
    translation = (0.0,) * n_axes
    if transforms is None:
        return scale, translation
    if not isinstance(transforms, list):
        raise VolumeError(f"{location} has coordinateTransformations that are not a list.")
    for item in transforms:
        kind = item.get("type") if isinstance(item, dict) else None
        if kind == "scale":
            values = _numbers(location, item.get("scale"), "scale", n_axes)
            scale = _multiply(scale or (1.0,) * n_axes, values)
            translation = _multiply(translation, values)
        elif kind == "translation":
            values = _numbers(location, item.get("translation"), "translation", n_axes)
            translation = tuple(a + b for a, b in zip(translation, values, strict=True))
        elif kind != "identity":
            raise VolumeError(
                f"{location} has a coordinateTransformation of type {str(kind)[:40]!r}; only scale "
                "and translation can be read."
            )
    return scale, translation


def _numbers(location: str, values: object, key: str, n_axes: int) -> tuple[float, ...]:
    if not isinstance(values, list) or len(values) != n_axes:
        raise VolumeError(
            f"{location} has {key} {str(values)[:80]} for {n_axes} axes; it needs one number each."
        )
    numbers: list[float] = []
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float):
            # kept as NaN, so that a given voxel_size can still take its place
            numbers.append(math.nan)
        else:
            # an integer too long for a float is no size either
            numbers.append(math.inf if abs(value) > 1e300 else float(value))
    return tuple(numbers)


def _multiply(a: tuple[float, ...], b: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(p * q for p, q in zip(a, b, strict=True))


def _channel_names(attributes: JSONObject) -> tuple[str, ...]:
    omero = attributes.get("omero")
    channels: Any = omero.get("channels") if isinstance(omero, dict) else None
    if not isinstance(channels, list):
        return ()
    names = (item.get("label") if isinstance(item, dict) else None for item in channels)
    return tuple(
        name if isinstance(name, str) else f"channel {number}" for number, name in enumerate(names)
    )


def level_location(multiscale: Multiscale, level: Level) -> str:
    """Where the array of a level lies."""
    return join(multiscale.location, level.path)
