"""One measurement: a phantom, a program that labels it, and the scores of its labels."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cellseg3d_dist
from cellseg3d_dist.evaluation import evaluate
from cellseg3d_dist.phantoms import phantom
from scales.machine import machine
from scales.watching import size_below, watch

Triple = tuple[int, int, int]

#: For the phantom's nuclei, 9 voxels wide.
SIGMAS = ("--spot-sigma", "1.6um", "--outline-sigma", "1.5um")


@dataclass(frozen=True)
class How:
    """How the phantom is segmented.

    Attributes
    ----------
    command : str or None
        Another program, ``{image}`` and ``{out}`` filled in.
    more : tuple of str
        Options of ``segment``.
    """

    workers: int = 2
    memory_limit: str = "2GB"
    model: str = "intensity"
    block_shape: str | None = None
    command: str | None = None
    more: tuple[str, ...] = ()

    def options(self) -> list[str]:
        """Of the command line."""
        given = ["--workers", str(self.workers), "--memory-limit", self.memory_limit]
        given += ["--model", self.model]
        if self.model == "intensity" and "--spot-sigma" not in self.more:
            given += SIGMAS
        if self.block_shape:
            given += ["--block-shape", self.block_shape]
        return given + list(self.more)


def made_phantom(folder: Path, shape: Triple, how: How) -> dict[str, Any]:
    """Make a phantom, if it is not there; what it says of itself."""
    said = folder / "phantom.json"
    if not said.exists():
        phantom(folder, shape, seed=5, workers=how.workers)
    found: dict[str, Any] = json.loads(said.read_text())
    return found


def measure(folder: Path, out: Path, how: How) -> dict[str, Any]:
    """Segment a phantom in a process of its own, and score the labels when it has ended."""
    about = machine()
    made = json.loads((folder / "phantom.json").read_text())
    z, y, x = made["spec"]["shape"]
    image = folder / "image.ome.zarr"
    if how.command is None:
        program: dict[str, Any] = {
            "name": "cellseg3d_dist",
            "version": cellseg3d_dist.__version__,
            "options": shlex.join(how.options()),
        }
        own = [sys.executable, "-m", "cellseg3d_dist", "segment", str(image), str(out)]
        watched, labels = watch(own + how.options()), out / "labels.ome.zarr"
        program |= _told(out)
    else:
        filled = how.command.replace("{image}", shlex.quote(str(image)))
        filled = filled.replace("{out}", shlex.quote(str(out)))
        watched, labels = watch(filled), _written(out)
        program = {"name": Path(how.command.split()[0]).name, "command": how.command}
    return {
        "machine": about,
        "program": program,
        "workers": how.workers,
        "volume": {
            "shape": [z, y, x],
            "dtype": made["spec"]["dtype"],
            "voxels": z * y * x,
            "cells": made["cells"],
            "image_bytes": size_below(image)["bytes"],
        },
        "seconds": watched.seconds,
        "voxels_per_second": z * y * x / watched.seconds,
        "memory": watched.memory(),
        "written": size_below(labels if how.command else out),
        "scores": _scores(folder / "labels.ome.zarr", labels, how),
    }


def _written(out: Path) -> Path:
    """What another program wrote: ``{out}``, or with its own ending, as ``{out}.tif``."""
    found = sorted(out.parent.glob(f"{out.name}*"))
    if len(found) != 1:
        raise SystemExit(f"the command left {len(found)} paths that begin with {out}, not one")
    return found[0]


def _told(out: Path) -> dict[str, Any]:
    """What a run of this program notes of itself."""
    run = json.loads((out / "run.json").read_text())
    keep = ("stages", "steps", "disk", "driver_peak_rss")
    told: dict[str, Any] = {key: run[key] for key in keep}
    told["seconds"] = run["seconds"] + run["steps"]["workers"]
    told["block_shape"] = run["plan"]["block_shape"]
    told["certificate"] = run["facts"].get("certificate")
    told["projected"] = max(stage["n_bytes"] for stage in run["plan"]["stages"])
    told["limit"] = run["plan"]["memory_limit"]
    told["worker_peak"] = max(stage["peak_rss"] for stage in run["stages"])
    return told


def _scores(labels_true: Path, labels_pred: Path, how: How) -> dict[str, Any]:
    """The scores document of the labels."""
    found = evaluate(str(labels_true), str(labels_pred), workers=how.workers)
    scored: dict[str, Any] = found.to_dict()
    return scored
