"""Groups that hold images instead of being one: tiles, series, labels, plates."""

from __future__ import annotations

from pathlib import Path

from cellseg3d_dist.errors import VolumeError
from cellseg3d_dist.volumes.checks import array_info
from cellseg3d_dist.volumes.multiscales import check_relative, group_attributes
from cellseg3d_dist.volumes.storage import JSONObject, check_inside, is_url, join, read_json

_MOST_LISTED = 12
_MOST_CHILDREN = 10_000


def find_image(location: str, attributes: JSONObject) -> str:
    """The one image inside a group without multiscales.

    mesoSPIM's software writes one group per tile inside an outer ``.ome.zarr``; Bio-Formats
    writes one per series, a labels group lists its images.

    Raises
    ------
    VolumeError
        If there is none, or several: lists the paths to give instead.
    """
    if "plate" in attributes or "well" in attributes:
        raise VolumeError(f"{location} is a plate or well; give the path of one of its images.")
    images, arrays = [], []
    for name in _children(location, attributes):
        child = join(location, name)
        check_inside(location, child)
        if array_info(child) is not None:
            arrays.append(child)
            continue
        found = group_attributes(child)
        if found is not None and "multiscales" in found:
            images.append(child)
    if len(images) == 1:
        return images[0]
    if images:
        raise VolumeError(f"{location} holds {len(images)} images; give one: {_listed(images)}.")
    if arrays:
        raise VolumeError(
            f"{location} is a group without multiscales. It holds arrays; give one with its "
            f"voxel_size: {_listed(arrays)}."
        )
    raise VolumeError(f"{location} is a Zarr group without multiscales and without images in it.")


def _listed(paths: list[str]) -> str:
    more = len(paths) - _MOST_LISTED
    return ", ".join(paths[:_MOST_LISTED]) + (f" and {more} more" if more > 0 else "")


def _children(location: str, attributes: JSONObject) -> list[str]:
    """Names of child groups: from the metadata, else from the folder."""
    for names in (attributes.get("labels"), attributes.get("series")):
        if isinstance(names, list) and names:
            return _checked(location, [name for name in names if isinstance(name, str)])
    if not is_url(location):
        try:
            found = sorted(entry.name for entry in Path(location).iterdir() if entry.is_dir())
        except OSError as error:
            raise VolumeError(f"{location} cannot be listed ({error}).") from error
        return [name for name in found if not name.startswith(".")][:_MOST_CHILDREN]
    if "bioformats2raw.layout" in attributes:
        return ["0"]
    # folders cannot be listed over http; consolidated metadata names them
    meta = read_json(location, "zarr.json") or {}
    inline = meta.get("consolidated_metadata")
    names = inline.get("metadata") if isinstance(inline, dict) else None
    if names is None:
        names = (read_json(location, ".zmetadata") or {}).get("metadata")
    if not isinstance(names, dict):
        return []
    tops = {str(name).split("/")[0] for name in names}
    return _checked(location, sorted(top for top in tops if top and not top.startswith(".")))


def _checked(location: str, names: list[str]) -> list[str]:
    for name in names:
        check_relative(location, name)
    return names[:_MOST_CHILDREN]
