"""The main job: a stored volume in; labels, a cell table and a report out.

`segment` starts it, `resume` goes on with it, `relabel` finds the cells of a finished one
again, `plan` says what `segment` would do, `estimate` also what it would cost by the rates
of finished runs.
"""

from __future__ import annotations

from cellseg3d_dist.segmentation.commands import plan, relabel, resume, segment
from cellseg3d_dist.segmentation.estimating import Estimate, estimate
from cellseg3d_dist.segmentation.running import RunResult

__all__ = ["Estimate", "RunResult", "estimate", "plan", "relabel", "resume", "segment"]
