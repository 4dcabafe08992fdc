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

_REPORTED = (
    "numpy", "numba", "zarr", "dask", "distributed", "scipy", "scikit-image", "torch", "monai",
)  # fmt: skip


def note_end(
    folder: RunFolder, runner: Runner, status: str, facts: dict[str, Any], **more: Any
) -> None:
    """Bring ``run.json`` up to date, timings of earlier sittings kept."""
    earlier = {entry["stage"]: entry for entry in folder.status().get("stages", [])}
    for summary in runner.summaries:
        entry = summary.to_dict()
        before = earlier.get(summary.stage)
        if before:
            for key in ("executed", "voxels", "seconds"):
                entry[key] += before[key]
            entry["peak_rss"] = max(entry["peak_rss"], before["peak_rss"])
        earlier[summary.stage] = entry
    runner.summaries_noted()
    failed = [
        {"block": list(block.index), "stage": stage, "error": error}
        for block, stage, error in runner.failed.values()
    ]
    folder.update_status(
        status=status,
        ended=now_text(),
        stages=list(earlier.values()),
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
