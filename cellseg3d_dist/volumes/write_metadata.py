"""The OME metadata of images that are written, checked with the published models."""

from __future__ import annotations

import warnings
from typing import Any, Literal

import numpy as np
from pydantic import ValidationError

from cellseg3d_dist.errors import ConfigError
from cellseg3d_dist.volumes.storage import JSONObject
from cellseg3d_dist.volumes.stored import StoredImage

_COLORS = ("00FF00", "FF00FF", "00FFFF", "FFFF00", "FF0000", "0000FF", "FFFFFF")


def group_metadata(
    image: StoredImage, format: Literal["0.5", "0.4"], name: str, channels: tuple[str, ...] | None
) -> JSONObject:
    """Attributes of the image's group.

    Labels carry ``image-label`` without colours or properties: those have one entry per cell.

    Raises
    ------
    ConfigError
        If the published model refuses them.
    """
    multiscale = _multiscale(image, name, channels)
    attributes: JSONObject
    if format == "0.5":
        attributes = {"version": "0.5", "multiscales": [multiscale]}
    else:
        attributes = {"multiscales": [{"version": "0.4", **multiscale}]}
    if image.kind == "labels":
        attributes["image-label"] = {"version": format}
    else:
        attributes["omero"] = _omero(channels or (name,), image.levels[0].dtype)
    _validate(attributes, format, image.kind == "labels")
    return {"ome": attributes} if format == "0.5" else attributes


def _multiscale(image: StoredImage, name: str, channels: tuple[str, ...] | None) -> JSONObject:
    timed = image.levels[0].n_times is not None
    axes: list[JSONObject] = [{"name": "t", "type": "time"}] if timed else []
    axes += [] if channels is None else [{"name": "c", "type": "channel"}]
    axes += [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "zyx"]
    datasets = []
    for number in range(len(image.levels)):
        size, origin = image.level_geometry(number)
        one, zero = ([], []) if channels is None else ([1.0], [0.0])
        if timed:
            one, zero = [1.0, *one], [float(image.first_time), *zero]
        datasets.append(
            {
                "path": str(number),
                "coordinateTransformations": [
                    {"type": "scale", "scale": [*one, *size]},
                    {"type": "translation", "translation": [*zero, *origin]},
                ],
            }
        )
    rule = "mode" if image.kind == "labels" else "mean"
    return {
        "name": name,
        "axes": axes,
        "datasets": datasets,
        "type": rule,
        "metadata": {"description": f"each level is the {rule} of 2 voxels along the fine axes"},
    }


def _omero(names: tuple[str, ...], dtype: np.dtype[Any]) -> JSONObject:
    low, high = (0.0, 1.0) if dtype.kind == "f" else _limits(dtype)
    return {
        "channels": [
            {
                "label": name,
                "color": "FFFFFF" if len(names) == 1 else _COLORS[number % len(_COLORS)],
                "active": True,
                "window": {"min": low, "max": high, "start": low, "end": high},
            }
            for number, name in enumerate(names)
        ],
    }


def _limits(dtype: np.dtype[Any]) -> tuple[float, float]:
    limits = np.iinfo(dtype)
    return float(limits.min), float(limits.max)


def _validate(attributes: JSONObject, format: str, is_label: bool) -> None:
    # heavy to import, and only needed where something is created
    from ome_zarr_models.v04.image import ImageAttrs as Image04
    from ome_zarr_models.v04.image_label import ImageLabelAttrs as Label04
    from ome_zarr_models.v05.image import ImageAttrs as Image05
    from ome_zarr_models.v05.image_label import ImageLabelAttrs as Label05

    models: dict[tuple[str, bool], Any] = {("0.4", False): Image04, ("0.4", True): Label04}
    models |= {("0.5", False): Image05, ("0.5", True): Label05}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            models[format, is_label].model_validate(attributes)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(
            f"OME-Zarr {format} metadata are not valid at {first['loc']}: {first['msg']}."
        ) from error
