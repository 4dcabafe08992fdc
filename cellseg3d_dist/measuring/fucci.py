"""State of the cell cycle from two FUCCI reporters, each cell's mean intensities alone.

========  =========  ==============
red       green      state
========  =========  ==============
above     not above  ``G1``
above     above      ``G1/S``
not       above      ``S/G2/M``
not       not        ``M/G1``
========  =========  ==============

A cell whose mean is not a number (a voxel of it is not finite) is ``unknown``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cellseg3d_dist.instances.threshold import N_BINS, count_bins, otsu

Floats = npt.NDArray[np.float64]

#: By 2 x (red above) + (green above); the last is for means that are no numbers.
STATES = ("M/G1", "S/G2/M", "G1", "G1/S", "unknown")
COLUMN = "fucci_state"

#: Gives the cell table in parts, from its first row, each time it is called.
Parts = Callable[[], Iterable[pa.Table]]


@dataclass(frozen=True)
class Reporters:
    """Where the reporters' means are, and above what a reporter is on.

    Attributes
    ----------
    red, green : str
        Columns of the cell table.
    red_threshold, green_threshold : float
        In the image's units.
    """

    red: str
    green: str
    red_threshold: float
    green_threshold: float


def state_numbers(
    red: Floats, green: Floats, red_threshold: float, green_threshold: float
) -> npt.NDArray[np.int8]:
    """Index into :data:`STATES` of each cell.

    Parameters
    ----------
    red, green : ndarray, float64, (n,)
        Mean intensities.

    >>> red, green = np.array([9.0, 9.0, 1.0, 1.0]), np.array([1.0, 9.0, 9.0, 1.0])
    >>> [STATES[i] for i in state_numbers(red, green, 5, 5)]
    ['G1', 'G1/S', 'S/G2/M', 'M/G1']
    """
    states = 2 * (red > red_threshold) + (green > green_threshold)
    return np.where(np.isnan(red) | np.isnan(green), len(STATES) - 1, states).astype(np.int8)


def with_states(table: pa.Table, reporters: Reporters) -> tuple[pa.Table, npt.NDArray[np.int64]]:
    """The table with one column more, and how many cells are in each of :data:`STATES`."""
    states = state_numbers(
        _column(table, reporters.red),
        _column(table, reporters.green),
        reporters.red_threshold,
        reporters.green_threshold,
    )
    notes = {"unit": "", "description": f"cell cycle by {reporters.red} and {reporters.green}"}
    field = pa.field(COLUMN, pa.string(), nullable=False, metadata=notes)
    values = pa.array(np.array(STATES)[states], type=pa.string())
    counts = np.bincount(states, minlength=len(STATES))
    return table.append_column(field, values), counts.astype(np.int64)


def otsu_over_cells(parts: Parts, columns: tuple[str, ...]) -> dict[str, float]:
    """Otsu's threshold of each column over all cells, in two passes and bounded memory.

    Means are rounded to float32, and counted in 256 bins between the least and the greatest;
    those that are not numbers do not count. The threshold is the upper edge of a bin, so that
    it parts the cells as they were counted. Of no cells, or where all are equal, it is the
    greatest value (0 of none): no cell is above.
    """
    extremes = dict.fromkeys(columns, (np.inf, -np.inf))
    for table in parts():
        for name, (low, high) in extremes.items():
            values = _finite(table, name)
            if values.size:
                extremes[name] = (min(low, float(values.min())), max(high, float(values.max())))
    counts = {name: np.zeros(N_BINS, np.int64) for name in columns}
    for table in parts():
        for name, (low, high) in extremes.items():
            if high > low:
                counts[name] += count_bins(_finite(table, name), low, high)
    return {
        name: otsu(counts[name], low, high) + (high - low) / 510 if np.isfinite(high) else 0.0
        for name, (low, high) in extremes.items()
    }


def _column(table: pa.Table, name: str) -> Floats:
    values: Floats = table[name].to_numpy()
    return values


def _finite(table: pa.Table, name: str) -> npt.NDArray[np.float32]:
    values = _column(table, name)
    return values[~np.isnan(values)].astype(np.float32)
