"""The command line in this process, and small images to give it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cellseg3d_dist.cli import run
from cellseg3d_dist.instances.filters import gaussian
from cellseg3d_dist.instances.threshold import count_bins, otsu
from cellseg3d_dist.instances.voronoi import VoronoiSpec, voronoi_otsu

#: Small sigmas, in voxels of the finest axis, and no processes to start.
QUICK = ("--executor", "serial", "--spot-sigma", "1", "--outline-sigma", "1")


@dataclass(frozen=True)
class Said:
    """What a command left on its streams."""

    code: int
    out: str
    err: str

    @property
    def error(self):
        """The one line of the error."""
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, self.err
        assert self.err.splitlines()[-1] == lines[0]
        return lines[0].removeprefix("error: ")


class CommandLine:
    """Runs commands; knows what lies in a folder before and after."""

    def __init__(self, root, capsys):
        self.root, self._capsys = root, capsys

    def __call__(self, *arguments):
        """Run; unless a test names a model the image itself is the foreground, without torch."""
        self._capsys.readouterr()
        if arguments and arguments[0] in ("segment", "plan", "tune") and "--model" not in arguments:
            arguments = (arguments[0], "--model", "intensity", *arguments[1:])
        code = run([str(argument) for argument in arguments])
        found = self._capsys.readouterr()
        assert "Traceback" not in found.err
        return Said(code, found.out, found.err)

    def does(self, *arguments):
        """The command succeeds."""
        said = self(*arguments)
        assert said.code == 0, said.err
        return said

    def refuses(self, *arguments, match, code=2):
        """One line, this exit code, and nothing created or changed; the line."""
        before = listing(self.root)
        said = self(*arguments)
        assert said.code == code, said.err
        assert len(said.err.splitlines()) == 1, said.err
        assert said.out == ""
        assert re.search(match, said.error), said.error
        assert listing(self.root) == before
        return said.error


def listing(root):
    """Every path under a folder with its type, size and time of change."""
    found = {}
    for where, folders, files in os.walk(root):
        for name in [".", *folders, *files]:
            path = Path(where, name)
            status = path.lstat()
            found[str(path)] = (status.st_mode, status.st_size, status.st_mtime_ns)
    return found


def cells_image(shape=(20, 24, 28), dtype=np.uint16, seed=0):
    """Some round cells on a noisy background."""
    rng = np.random.default_rng(seed)
    grid = np.indices(shape).astype(float)
    image = rng.poisson(5, shape).astype(float)
    for _ in range(max(2, int(np.prod(shape)) // 1100)):
        centre = rng.uniform(0, shape)
        square = sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True))
        image += 100 * np.exp(-square / 8)
    return np.clip(image, 0, 250).astype(dtype)


def in_memory(image, voxel_size=(1.0, 1.0, 1.0), threshold=None):
    """Labels of the quick options by the function for whole volumes."""
    z, y, x = (min(voxel_size) / size for size in voxel_size)
    image = np.ascontiguousarray(image)
    if threshold is None:
        smoothed = gaussian(image, (z, y, x))
        low, high = float(smoothed.min()), float(smoothed.max())
        threshold = high
        if high > low:
            threshold = otsu(count_bins(smoothed, low, high), low, high)
    return voronoi_otsu(image, VoronoiSpec((z, y, x), (z, y, x), threshold))
