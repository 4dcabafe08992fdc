"""What a run writes into ``run.json``: times, versions, and how far it came."""

from __future__ import annotations

import contextlib
import datetime
import sys
from importlib import metadata
from typing import Any

import cellseg3d_dist
from cellseg3d_dist.engine.folder import RunFolder
from cellseg3d_dist.engine.runner import Runner
from cellseg3d_dist.engine.stage import peak_rss

_REPORTED = (
    "numpy", "numba", "zarr", "dask", "distributed", "scipy", "scikit-image", "torch", "monai",
)  # fmt: skip


def note_end(
    folder: RunFolder, runner: Runner, status: str, facts: dict[str, Any], **more: Any
) -> None:
    """Bring ``run.json`` up to date, timings of earlier sittings kept."""
    before = folder.status()
    earlier = {entry["stage"]: entry for entry in before.get("stages", [])}
    for summary in runner.summaries:
        earlier[summary.stage] = summary.with_earlier(earlier.get(summary.stage, {}))
    steps = dict(before.get("steps", {}))
    for name, seconds in runner.steps.items():
        steps[name] = steps.get(name, 0.0) + seconds
    runner.summaries_noted()
    failed = [
        {"block": list(block.index), "stage": stage, "error": error}
        for block, stage, error in runner.failed.values()
    ]
    folder.update_status(
        status=status,
        ended=now_text(),
        seconds=before.get("seconds", 0.0) + runner.seconds_since_noted(),
        stages=list(earlier.values()),
        steps=steps,
        driver_peak_rss=max(before.get("driver_peak_rss", 0), peak_rss()),
        failed_blocks=failed,
        **({"facts": facts} if facts else {}),
        **more,
    )


def versions() -> dict[str, str]:
    """Of Python, this package and those that decide a result, where installed."""
    found = {"python": sys.version.split()[0], "cellseg3d_dist": cellseg3d_dist.__version__}
    for name in _REPORTED:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def now_text() -> str:
    """Local time with its offset, to the second."""
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")
