"""Per-cell statistics: mergeable sums, the cell table, and its files."""

from cellseg3d_dist.measuring.partial import (
    PartialCells,
    intensity_scale,
    measure_fragments,
    merge,
)
from cellseg3d_dist.measuring.reduce import reduce_partials, span
from cellseg3d_dist.measuring.table import cell_table, columns
from cellseg3d_dist.measuring.writing import write_cells, write_csv

__all__ = [
    "PartialCells",
    "cell_table",
    "columns",
    "intensity_scale",
    "measure_fragments",
    "merge",
    "reduce_partials",
    "span",
    "write_cells",
    "write_csv",
]
