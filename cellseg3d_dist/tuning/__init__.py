"""Search for the parameters that fit labelled crops best, to be used by ``segment``."""

from cellseg3d_dist.tuning.result import TuneResult
from cellseg3d_dist.tuning.run import tune

__all__ = ["TuneResult", "tune"]
