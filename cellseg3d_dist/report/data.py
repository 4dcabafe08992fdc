"""What a report is made of: plain values, so that the engine is not needed to write one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from cellseg3d_dist.grid import Region, Triple

Spacing = tuple[float, float, float]


class Readable(Protocol):
    """A stored image or label image that hands out regions."""

    def read(self, region: Region) -> npt.NDArray[Any]:
        """Voxels of a region, (z, y, x)."""


@dataclass(frozen=True)
class Projection:
    """A maximum projection of the intensity.

    ``image`` is (rows, columns), ``axes`` names them ('yx', 'zx' or 'zy'), ``pixel_size``
    is their size in micrometres.
    """

    axes: str
    image: npt.NDArray[Any]
    pixel_size: tuple[float, float]


@dataclass(frozen=True)
class Method:
    """How cells were found, in the words of the command line's options.

    Attributes
    ----------
    foreground : str
        'intensity' or the name of a network.
    instances : str
        'voronoi-otsu', 'watershed', 'components', or a representation that was decoded.
    foreground_note : str
        Where the network comes from: its card, its weights' hash.
    spot_sigma_um, outline_sigma_um : float or None
        Smoothing before seeds and before the threshold, micrometres; None or 0: none.
    seeds : str
        'spots', 'threshold' or 'hmaxima'; empty where there are none.
    seed_threshold : float or None
    connectivity : int or None
    min_volume, max_volume : str
        As given, with unit; empty for none.
    merging : str
        'name', 'contact' or 'overlap'.
    decoder : mapping
        Parameters of a representation's decoder.
    labeller : str
        The labeller that found the instances, with its versions; empty for none.
    """

    foreground: str
    instances: str
    foreground_note: str = ""
    spot_sigma_um: float | None = None
    outline_sigma_um: float | None = None
    seeds: str = ""
    seed_threshold: float | None = None
    connectivity: int | None = None
    min_volume: str = ""
    max_volume: str = ""
    merging: str = ""
    decoder: Mapping[str, Any] = field(default_factory=dict)
    labeller: str = ""


@dataclass(frozen=True)
class Threshold:
    """The foreground threshold: value, ``how`` ('otsu' or 'given') and an optional histogram.

    ``counts`` has one entry per bin of ``edges`` (one more entry).
    """

    value: float
    how: str
    counts: npt.NDArray[np.int64] | None = None
    edges: npt.NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Certificate:
    """How it was established that the cut does not show.

    Attributes
    ----------
    voxels : int
        Foreground voxels whose label had to be proven.
    open_first : int
        Not proven by their own block with its first halo.
    blocks_redone : int
        Blocks read again with twice the halo.
    blocks_exchanged : int
        Blocks settled by exchange with their neighbours, in ``rounds`` rounds.
    open_last : int
        Voxels left open; anything but 0 breaks the promise.
    of : str
        What was proven, where it is not foreground voxels: 'candidates' of stars.
    """

    voxels: int
    open_first: int
    blocks_redone: int = 0
    blocks_exchanged: int = 0
    rounds: int = 0
    open_last: int = 0
    of: str = "foreground voxels"


@dataclass(frozen=True)
class Skipped:
    """Blocks that were not computed, and why that changes nothing."""

    reason: str
    blocks: int
    voxels: int | None = None


@dataclass(frozen=True)
class StageTiming:
    """Blocks done, wall seconds and megavoxels per second of one stage."""

    stage: str
    blocks: int
    seconds: float
    mvoxel_per_s: float | None = None


@dataclass(frozen=True)
class FailedBlock:
    """A block that is missing from the result, with its error in one line."""

    block: str
    stage: str
    error: str


@dataclass(frozen=True)
class Truth:
    """A known number of cells to compare with, such as a phantom's."""

    n_cells: int
    source: str


@dataclass(frozen=True)
class ReportData:
    """Everything a report shows.

    Attributes
    ----------
    title, image_path : str
    image, labels : Readable
        Of equal ``shape``; small windows are read for the slices.
    shape, block_shape, offset : (z, y, x) voxels
        ``offset`` is where voxel (0, 0, 0) lies in the stored level, as in the cell table.
    voxel_size : (z, y, x) um
    cells_path : path
        Parquet file of :func:`cellseg3d_dist.measuring.cell_table`.
    n_blocks : int
    dropped_small, dropped_large : int
        Objects removed by the volume limits.
    clean_up : sequence of mappings
        Each step with its cells before and after, as in ``run.json``.
    matching : sequence of mappings
        As in ``scores.json``; empty without truth.
    statements : sequence of str
        What the reader must know of region, mask, and promises that do not hold.
    """

    title: str
    image: Readable
    labels: Readable
    shape: Triple
    voxel_size: Spacing
    block_shape: Triple
    cells_path: str | Path
    method: Method
    image_path: str = ""
    offset: Triple = (0, 0, 0)
    status: str = "COMPLETE"
    projections: tuple[Projection, ...] = ()
    n_blocks: int = 0
    dropped_small: int = 0
    dropped_large: int = 0
    clean_up: tuple[Mapping[str, Any], ...] = ()
    skipped: tuple[Skipped, ...] = ()
    certificate: Certificate | None = None
    threshold: Threshold | None = None
    timings: tuple[StageTiming, ...] = ()
    failed_blocks: tuple[FailedBlock, ...] = ()
    warnings: tuple[str, ...] = ()
    statements: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    config_yaml: str = ""
    matching: tuple[Mapping[str, Any], ...] = ()
    truth: Truth | None = None
    finished: str = ""
    machine: str = ""

    @property
    def extent_um(self) -> Spacing:
        """Physical size of the volume, (z, y, x)."""
        z, y, x = (n * s for n, s in zip(self.shape, self.voxel_size, strict=True))
        return (z, y, x)
