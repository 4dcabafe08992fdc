"""Scores of predicted labels against true ones: stores, arrays, folders, points."""

from cellseg3d_dist.evaluation.document import Evaluation
from cellseg3d_dist.evaluation.run import evaluate

__all__ = ["Evaluation", "evaluate"]
