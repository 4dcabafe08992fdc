"""One segmentation run: what its steps share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from cellseg3d_dist.config import SegmentConfig
from cellseg3d_dist.engine.folder import RunFolder
from cellseg3d_dist.engine.inputs import ImageInput
from cellseg3d_dist.engine.plan import Plan
from cellseg3d_dist.engine.runner import Runner
from cellseg3d_dist.grid import BlockGrid
from cellseg3d_dist.volumes import Volume


@dataclass
class Job:
    """Configuration, plan and input of a run, its runner, and the facts it finds.

    Attributes
    ----------
    facts : dict
        Filled by the steps; goes to ``run.json`` and the report.
    """

    config: SegmentConfig
    plan: Plan
    image: ImageInput
    labels_true: Volume | None
    folder: RunFolder
    runner: Runner
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def grid(self) -> BlockGrid:
        """The cut."""
        return self.plan.grid
