"""Options that several commands of the command line share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def option(help: str, metavar: str, **more: Any) -> Any:
    """An option whose help tells its default itself."""
    return typer.Option(help=help, metavar=metavar, show_default=False, **more)


def switch(help: str) -> Any:
    """An option that is on or off."""
    return typer.Option(help=help, show_default=False)


Image = Annotated[
    str, typer.Argument(metavar="IMAGE", help="OME-Zarr, Zarr array or TIFF; path or URL.")
]
Out = Annotated[Path, typer.Argument(metavar="OUT", help="Run folder.")]
Config = Annotated[
    Path | None, option("YAML file with these options as keys; those given here win.", "FILE")
]
Instances = Annotated[str | None, option("voronoi-otsu or components [voronoi-otsu].", "METHOD")]
Threshold = Annotated[
    str | None, option("Foreground is above it: otsu, or a number in image units [otsu].", "T")
]
SpotSigma = Annotated[
    str | None,
    option("Smoothing before cell centres are found: 3.2um, or voxels [3.2um].", "LENGTH"),
]
OutlineSigma = Annotated[
    str | None,
    option("Smoothing before the threshold: 2um, or voxels; 0 is none [2um].", "LENGTH"),
]
VoxelSize = Annotated[
    str | None, option("Micrometres, needed where the image states none.", "Z,Y,X")
]
Channel = Annotated[int | None, option("Channel, counted from 0 [0].", "N")]
Time = Annotated[int | None, option("Time point, needed where there are several.", "N")]
Level = Annotated[int | None, option("Pyramid level, 0 is full size [0].", "N")]
RegionBox = Annotated[
    str | None, option("Part of the image to take as the whole, voxels.", "Z0:Z1,Y0:Y1,X0:X1")
]
BlockShape = Annotated[
    str | None, option("Voxels per block; never changes the result [from memory].", "Z,Y,X")
]
FloodHalo = Annotated[
    int | None, option("Voxels beyond a block; never changes the result [from sigmas].", "N")
]
Workers = Annotated[int | None, option("Worker processes [cores].", "N", min=1)]
MemoryLimit = Annotated[str | None, option("Per worker, such as 2GB [from free memory].", "SIZE")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
