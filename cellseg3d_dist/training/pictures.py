"""Pictures of what a network in training makes of one volume: middle sections, side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cellseg3d_dist.training.objective import Panel

_COLUMNS = 4
_INCHES = 3.0
_GOLDEN = 0.6180339887498949


def draw(path: Path, panels: Sequence[Panel], title: str) -> npt.NDArray[np.uint8] | None:
    """Write a picture of the panels' middle sections (y, x).

    Returns
    -------
    ndarray, uint8, (rows, columns, 3), or None
        The picture; None, and no file, where there are no panels.
    """
    if not panels:
        return None
    # drawn without pyplot, which would choose a screen and keep figures
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(_COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(_INCHES * columns, (_INCHES + 0.3) * rows), layout="constrained")
    canvas: Any = FigureCanvasAgg(figure)
    figure.suptitle(title)
    for number, panel in enumerate(panels):
        axes: Any = figure.add_subplot(rows, columns, number + 1)
        axes.set_title(panel.title, fontsize=9)
        axes.set_axis_off()
        section = panel.volume[panel.volume.shape[0] // 2]
        if panel.labels:
            axes.imshow(_coloured(section), interpolation="nearest")
        else:
            drawn = axes.imshow(section, cmap="gray", interpolation="nearest", **_limits(section))
            figure.colorbar(drawn, ax=axes, shrink=0.7)
    canvas.draw()
    image = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    partial = path.with_name(f"{path.stem}.partial.png")
    figure.savefig(partial)
    partial.replace(path)
    return image


def _limits(section: npt.NDArray[Any]) -> dict[str, float]:
    low, high = np.percentile(section, (0.5, 99.5))
    return {"vmin": float(low), "vmax": float(high if high > low else low + 1)}


def _coloured(labels: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """A colour per label, black for 0: neighbouring numbers get distant hues."""
    from matplotlib.colors import hsv_to_rgb

    ids = labels.astype(np.float64)
    hue = (ids * _GOLDEN) % 1.0
    bright = 0.65 + 0.35 * ((ids * 0.754877666) % 1.0)
    hsv = np.stack([hue, np.full_like(hue, 0.75), np.where(ids > 0, bright, 0.0)], axis=-1)
    return np.asarray(hsv_to_rgb(hsv), np.float32)
