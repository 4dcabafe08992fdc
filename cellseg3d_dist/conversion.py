"""Copy a TIFF, Zarr or remote volume into OME-Zarr with a pyramid."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellseg3d_dist.engine.production import producing
from cellseg3d_dist.engine.progress import Progress
from cellseg3d_dist.engine.stages.convert import Convert
from cellseg3d_dist.grid import Selection, Triple
from cellseg3d_dist.paths import absolute_path
from cellseg3d_dist.volumes import open_volume
from cellseg3d_dist.volumes.convert import create_conversion, plan_conversion

if TYPE_CHECKING:
    from distributed import Client


def convert(
    src: str | Path,
    dst: str | Path,
    *,
    labels: bool = False,
    block_shape: Triple = (128, 128, 128),
    ome_zarr: str = "0.5",
    client: Client | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Path:
    """Copy a volume into OME-Zarr, all channels of one time point, block by block.

    Parameters
    ----------
    src, dst : path
        ``dst`` must not exist, unless an interrupted call left it unfinished.
    labels : bool
        Write a label image, whose pyramid keeps labels.
    **options
        ``voxel_size``, ``time``, ``level``, ``region`` as in
        :func:`cellseg3d_dist.volumes.open_volume`.

    Raises
    ------
    BadInputError
        If the source cannot be opened or the destination exists.
    """
    destination = absolute_path(dst)
    volume = open_volume(src, **options)
    how: dict[str, Any] = {
        "block_shape": block_shape,
        "kind": "labels" if labels else "image",
        "format": ome_zarr,
    }
    conversion = plan_conversion(volume, destination, **how)
    # a mended file is still the source; what was copied of it is copied anew
    decides = how | {"source": volume.fingerprint(files=False)}
    with producing(
        destination,
        decides,
        inputs=[str(src), volume.location],
        client=client,
        workers=workers,
        progress=progress,
    ) as production:
        if not destination.exists():
            create_conversion(volume, destination, **how)
        production.run(Convert(conversion), Selection.all(conversion.grid))
        production.pyramid(conversion.image, volume.fingerprint())
    return destination
