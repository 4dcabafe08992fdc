"""Predictions side by side: tests, plots, tables and a page from their scores documents."""

from cellseg3d_dist.comparison.result import Comparison
from cellseg3d_dist.comparison.run import compare

__all__ = ["Comparison", "compare"]
