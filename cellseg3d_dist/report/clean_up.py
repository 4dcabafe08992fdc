"""Steps of a clean-up in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cellseg3d_dist.config.clean_up import (
    Artifacts,
    ClearBorder,
    Closing,
    FillHoles,
    MergeTouching,
    Size,
    Smooth,
    Split,
    Step,
    steps_of,
)
from cellseg3d_dist.report import text


def rows(facts: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Each step and its cells before and after, for a table."""
    return [
        (
            f"clean-up, {fact['step']}",
            f"{fact['cells_before']:,} to {text.plural(fact['cells_after'], 'cell')}",
        )
        for fact in facts
    ]


def sentences(facts: Sequence[Mapping[str, Any]]) -> list[str]:
    """What was done, for a methods paragraph; empty without a clean-up."""
    if not facts:
        return []
    done = [_words(step) for fact in facts for step in steps_of(fact["step"])]
    return [f"The labels were then cleaned up in this order: {'; '.join(done)}."]


def _words(step: Step) -> str:
    if isinstance(step, Closing):
        return f"labels were closed by {text.plural(step.radius, 'voxel')}"
    if isinstance(step, FillHoles):
        up_to = f" of up to {_volume(step.max_volume)}" if step.max_volume else ""
        return f"background enclosed by one cell{up_to} was filled"
    if isinstance(step, MergeTouching):
        return _merging(step)
    if isinstance(step, Smooth):
        unit = "" if step.radius.in_micrometres else " voxels"
        return f"each voxel took the most frequent label within {step.radius}{unit}"
    if isinstance(step, Size):
        limits = ((step.min_volume, "smaller"), (step.max_volume, "larger"))
        said = [f"{word} than {_volume(limit)}" for limit, word in limits if limit]
        return f"cells {' or '.join(said)} were dropped"
    if isinstance(step, Artifacts):
        return f"cells of {_volume(step.volume)} or more were dropped"
    if isinstance(step, Split):
        return f"cells were split into their {step.connectivity}-connected components"
    assert isinstance(step, ClearBorder)
    return f"cells that touch the faces of the volume across {', '.join(step.axes)} were dropped"


def _merging(step: MergeTouching) -> str:
    limit = f"{step.low:.4g} or more" if step.high is None else f"{step.low:.4g} to {step.high:.4g}"
    of = "" if step.of is None else f" in the {step.of}"
    how = "" if step.order == "at-once" else ", one pair at a time, the brightest border first"
    return f"touching cells were merged where their border has a mean of {limit}{of}{how}"


def _volume(volume: Any) -> str:
    return str(volume) if volume.in_micrometres else f"{volume} voxels"
