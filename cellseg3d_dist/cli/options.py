"""Options that several commands of the command line share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from cellseg3d_dist.errors import BadInputError


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
Instances = Annotated[
    str | None,
    option("decode (by the network's kind), voronoi-otsu, watershed or components.", "METHOD"),
]
Threshold = Annotated[
    str | None,
    option("Foreground is above it: otsu, a number in image units, 0-1 for a network.", "T"),
]
Model = Annotated[
    str | None,
    option("Where the foreground comes from: intensity, a network's name or file.", "MODEL"),
]
Decoder = Annotated[
    str | None, option("Parameters of the network's decoder, such as min_voxels=30.", "A=1,B=2")
]
LabellerOptions = Annotated[
    str | None, option("What a labeller takes, such as model=nuclei,diameter=8.", "A=1,B=2")
]
OverlapHalo = Annotated[
    str | None,
    option("Seen by a labeller beyond a block: 16, or 12um; over a cell [its own].", "LENGTH"),
]
OverlapThreshold = Annotated[
    str | None, option("Overlap over union that unites a labeller's cells, 0-1 [0.5].", "T")
]
Device = Annotated[str | None, option("Where networks run: cpu or cuda [cpu].", "NAME")]
Batch = Annotated[str | None, option("Patches a network takes at a time [1; 4 on cuda].", "N")]
Threads = Annotated[str | None, option("CPU threads of each worker's network [1].", "N")]
Flips = Annotated[
    bool | None, switch("Mean of a network over all flips of a patch, eight times slower [no].")
]
Compat = Annotated[
    str | None, option("cellseg3d: predict window by window as CellSeg3D does.", "NAME")
]
Preprocess = Annotated[
    str | None,
    option(
        "Before anything else, in order: background=7,gamma=0.8,clahe=0.01,median=1,tophat=3um.",
        "STEPS",
    ),
]
SpotSigma = Annotated[
    str | None,
    option("Smoothing before cell centres are found: 3.2um, or voxels [3.2um].", "LENGTH"),
]
OutlineSigma = Annotated[
    str | None,
    option("Smoothing before the threshold: 2um, or voxels; 0 is none [2um].", "LENGTH"),
]
Connectivity = Annotated[
    str | None, option("6, 18 or 26 neighbours, for components and watershed [6].", "N")
]
Seeds = Annotated[
    str | None,
    option(
        "Where a watershed starts: spots, threshold, hmaxima or distance "
        "[spots; threshold for a network].",
        "HOW",
    ),
]
SeedThreshold = Annotated[
    str | None, option("Seeds by threshold are above it: image units, 0-1 [0.9].", "T")
]
Height = Annotated[
    str | None,
    option("Of peaks that are seeds: image units, 0-1 [0.1] for a network, um [1 voxel].", "H"),
]
MinSeedVoxels = Annotated[str | None, option("Drop smaller seeds [1].", "N")]
MinVolume = Annotated[str | None, option("Drop smaller cells: 200um3, or voxels.", "VOLUME")]
MaxVolume = Annotated[str | None, option("Drop larger cells: 5000um3, or voxels.", "VOLUME")]
CleanUp = Annotated[
    str | None, option("Steps for labels, in order: closing=8,fill-holes,split.", "STEPS")
]
LabelsTrue = Annotated[str | None, option("True labels, to score against.", "PATH")]
Executor = Annotated[str | None, option("dask, or serial to debug [dask].", "NAME")]
Backend = Annotated[str | None, option("numba or opencl [numba].", "NAME")]
OmeZarr = Annotated[str | None, option("OME-Zarr written: 0.5 or 0.4 [0.5].", "N")]
Csv = Annotated[bool | None, switch("Write cells.csv too [no].")]
KeepWork = Annotated[bool | None, switch("Keep intermediate files [no].")]
Fucci = Annotated[
    str | None, option("State of the cell cycle from two reporters' channels.", "red=N,green=N")
]
VoxelSize = Annotated[
    str | None, option("Micrometres, needed where the image states none.", "Z,Y,X")
]
Channel = Annotated[str | None, option("Channel, counted from 0 [0].", "N")]
Time = Annotated[str | None, option("Time point, needed where there are several.", "N")]
Times = Annotated[
    str | None, option("Time points: one such as 3, several such as 0:5, or all [all].", "N")
]
Level = Annotated[str | None, option("Pyramid level, 0 is full size [0].", "N")]
RegionBox = Annotated[
    str | None, option("Part of the image to take as the whole, voxels.", "Z0:Z1,Y0:Y1,X0:X1")
]
BlockShape = Annotated[
    str | None, option("Voxels per block; never changes the result [from memory].", "Z,Y,X")
]
FloodHalo = Annotated[
    str | None, option("Voxels beyond a block; never changes the result [from sigmas].", "N")
]
Workers = Annotated[str | None, option("Worker processes [cores].", "N")]
Scheduler = Annotated[
    str | None, option("Dask scheduler to use: tcp://host:port, or its file.", "ADDRESS")
]
MemoryLimit = Annotated[str | None, option("Per worker, such as 2GB [from free memory].", "SIZE")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def count(text: str | None, name: str = "--workers", least: int = 1) -> int | None:
    """A whole number that was given as text."""
    if text is not None and not (text.isdecimal() and least <= int(text) <= 4096):
        raise BadInputError(f"{name} {text!r} must be a whole number of at least {least}.")
    return None if text is None else int(text)


def sizes(text: str | None) -> tuple[float, float, float] | None:
    """A voxel size that was given as text."""
    if text is None:
        return None
    with _three(text, "--voxel-size", "numbers z,y,x in micrometres, such as 5,1,1"):
        z, y, x = (float(part) for part in text.split(","))
    return (z, y, x)


def triple(text: str, name: str) -> tuple[int, int, int]:
    """A shape that was given as text."""
    with _three(text, name, "whole numbers z,y,x in voxels, at least 1, such as 64,256,256"):
        z, y, x = (int(part) for part in text.split(","))
        if min(z, y, x) < 1:
            raise ValueError("below 1")
    return (z, y, x)


@contextlib.contextmanager
def _three(text: str, name: str, expected: str) -> Iterator[None]:
    try:
        yield
    except ValueError:
        raise BadInputError(f"{name} {text!r} must be three {expected}.") from None
