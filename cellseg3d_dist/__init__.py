"""Find and measure every cell in large 3D microscopy, block by block.

The public names are loaded when they are first used, so that ``import cellseg3d_dist``
is fast and needs neither Dask nor torch.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cellseg3d_dist.arrays import label, measure, merge, predict
    from cellseg3d_dist.comparison import compare
    from cellseg3d_dist.evaluation import evaluate
    from cellseg3d_dist.instances.clean_up import clean_up
    from cellseg3d_dist.phantoms import phantom
    from cellseg3d_dist.segmentation import estimate, plan, relabel, resume, segment
    from cellseg3d_dist.training.train import train
    from cellseg3d_dist.volumes import open_volume

__version__ = "0.1.0"

_WHERE = {
    "clean_up": "cellseg3d_dist.instances.clean_up",
    "compare": "cellseg3d_dist.comparison",
    "estimate": "cellseg3d_dist.segmentation",
    "evaluate": "cellseg3d_dist.evaluation",
    "label": "cellseg3d_dist.arrays",
    "measure": "cellseg3d_dist.arrays",
    "merge": "cellseg3d_dist.arrays",
    "open_volume": "cellseg3d_dist.volumes",
    "phantom": "cellseg3d_dist.phantoms",
    "plan": "cellseg3d_dist.segmentation",
    "predict": "cellseg3d_dist.arrays",
    "relabel": "cellseg3d_dist.segmentation",
    "resume": "cellseg3d_dist.segmentation",
    "segment": "cellseg3d_dist.segmentation",
    "train": "cellseg3d_dist.training.train",
}

__all__ = [
    "clean_up",
    "compare",
    "estimate",
    "evaluate",
    "label",
    "measure",
    "merge",
    "open_volume",
    "phantom",
    "plan",
    "predict",
    "relabel",
    "resume",
    "segment",
    "train",
]

logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
