"""One segmentation run: what its steps share."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

from cellseg3d_dist.config import SegmentConfig
from cellseg3d_dist.engine.earlier import EarlierRun
from cellseg3d_dist.engine.folder import RunFolder
from cellseg3d_dist.engine.inputs import ImageInput
from cellseg3d_dist.engine.method import Method
from cellseg3d_dist.engine.plan import Plan
from cellseg3d_dist.engine.runner import Runner
from cellseg3d_dist.grid import BlockGrid
from cellseg3d_dist.volumes import Volume


@dataclass
class Job:
    """Configuration, plan and input of a run, its runner, and the facts it finds.

    Attributes
    ----------
    prepared : ImageInput or None
        The image after preprocessing, where there is any.
    foreground : ImageInput or None
        A network's foreground channel, once it is there.
    maxima : dict
        Largest value of each channel of the prediction, by block.
    facts : dict
        Filled by the steps; goes to ``run.json`` and the report.
    """

    config: SegmentConfig
    plan: Plan
    image: ImageInput
    labels_true: Volume | None
    folder: RunFolder
    runner: Runner
    method: Method
    prepared: ImageInput | None = None
    foreground: ImageInput | None = None
    maxima: dict[int, list[int]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def seen(self) -> ImageInput:
        """What a network or a threshold sees: the image, after preprocessing if there is any."""
        return self.prepared or self.image

    @property
    def source(self) -> ImageInput:
        """What instances are found in: the image as it is seen, or a network's foreground."""
        return self.foreground or self.seen

    @functools.cached_property
    def earlier(self) -> EarlierRun | None:
        """The run whose results are used again."""
        path = self.config.earlier_run
        return None if path is None else EarlierRun.of(path)

    @property
    def predicted_in(self) -> RunFolder:
        """The run folder that holds the prediction."""
        return self.folder if self.earlier is None else self.earlier.predicted.folder

    @property
    def grid(self) -> BlockGrid:
        """The cut."""
        return self.plan.grid
