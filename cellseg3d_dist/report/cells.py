"""Read what the report needs from the cell table, in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from cellseg3d_dist.errors import VolumeError
from cellseg3d_dist.grid import Triple

Floats = npt.NDArray[np.float64]

LIMIT = 2_000_000
"""Cells kept for figures and the seam check; a larger table is sampled evenly."""


@dataclass(frozen=True)
class Cells:
    """Columns of all cells, or of an even random sample of them.

    Attributes
    ----------
    total, touching_border : int
        Counted over the whole table.
    centroid : (n, 3) float64
        Voxels of the volume: the source level's offset is taken off.
    volume, volume_um3, diameter_um, sphericity : (n,) float64
    intensity : mapping of channel column to (n,) float64
        Mean intensities; the key is the column's name.
    """

    total: int
    touching_border: int
    centroid: Floats
    volume: Floats
    volume_um3: Floats
    diameter_um: Floats
    sphericity: Floats
    intensity: dict[str, Floats]

    @property
    def weight(self) -> float:
        """Cells of the table that each kept one stands for."""
        return self.total / self.volume.size if self.volume.size else 1.0


def read_cells(
    path: str | Path, offset: Triple = (0, 0, 0), *, limit: int = LIMIT, seed: int = 0
) -> Cells:
    """Read a cell table, batch by batch; beyond ``limit`` rows keep an even sample.

    Raises
    ------
    VolumeError
        If the file is no readable cell table.
    """
    try:
        with pq.ParquetFile(path) as file:
            return _read(file, offset, limit, np.random.default_rng(seed))
    except (OSError, KeyError, pa.ArrowInvalid) as error:
        raise VolumeError(f"{path} is no readable cell table: {error}; measure again.") from error


def _read(file: Any, offset: Triple, limit: int, generator: np.random.Generator) -> Cells:
    names = file.schema_arrow.names
    intensities = [name for name in names if name.startswith("intensity_mean")]
    wanted = [f"centroid_{axis}" for axis in "zyx"]
    wanted += ["volume", "volume_um3", "equivalent_diameter_um", "sphericity", *intensities]
    for name in (*wanted, "touches_border"):
        if name not in names:
            raise KeyError(f"column {name} is missing")
    total = file.metadata.num_rows
    touching = 0
    pieces: list[Floats] = []
    for batch in file.iter_batches(1 << 17, columns=[*wanted, "touches_border"]):
        touching += int(np.count_nonzero(batch["touches_border"].to_numpy(zero_copy_only=False)))
        keep: Any = slice(None)
        if total > limit:
            keep = generator.random(batch.num_rows) < limit / total
        columns = [np.asarray(batch[name].to_numpy(), dtype=np.float64)[keep] for name in wanted]
        pieces.append(np.stack(columns))
    kept = np.concatenate(pieces, axis=1) if pieces else np.empty((len(wanted), 0))
    return Cells(
        total=total,
        touching_border=touching,
        centroid=kept[:3].T - np.asarray(offset),
        volume=kept[3],
        volume_um3=kept[4],
        diameter_um=kept[5],
        sphericity=kept[6],
        intensity=dict(zip(intensities, kept[7:], strict=True)),
    )
