"""How far a run is, from its folder alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cellseg3d_dist.engine.folder import RunFolder
from cellseg3d_dist.engine.journal import read_journal
from cellseg3d_dist.engine.series import Series, describe_parts, totals


def describe(out: Path) -> dict[str, Any]:
    """Status, blocks done per stage, failed blocks and, when known, cells; of each time point.

    Raises
    ------
    OutputError
        If ``out`` is no run folder.
    """
    folder = RunFolder(out)
    status = folder.status()
    series = Series.of(out)
    parts = describe_parts(series) if series is not None else []
    if parts:
        status["facts"] = {"cells": totals(parts)["cells"]}
    counts = {entry["stage"]: entry["blocks"] for entry in status.get("stages", [])}
    stages = []
    paths = (out / "journal").glob("*.jsonl")
    for path in sorted(paths, key=lambda path: path.stat().st_mtime_ns):
        _, records = read_journal(path)
        stages.append({"stage": path.stem, "done": len(records), "blocks": counts.get(path.stem)})
    return {
        "folder": str(out),
        "status": status["status"],
        "started": status.get("started"),
        "ended": status.get("ended"),
        "stages": stages,
        "failed_blocks": status.get("failed_blocks", []),
        "cells": status.get("facts", {}).get("cells"),
        **({"times": parts} if parts else {}),
    }


def lines(found: dict[str, Any]) -> list[str]:
    """The description as plain lines."""
    said = [f"{found['folder']}: {found['status']}"]
    for part in found.get("times", []):
        cells = "" if part["cells"] is None else f", {part['cells']} cells"
        failed = f", {len(part['failed_blocks'])} blocks" if part["failed_blocks"] else ""
        said.append(f"  time {part['time']:<9} {part['status']}{failed}{cells}")
    for stage in [] if "times" in found else found["stages"]:
        total = "" if stage["blocks"] is None else f"/{stage['blocks']}"
        said.append(f"  {stage['stage']:<14} {stage['done']}{total} blocks")
    for failed in found["failed_blocks"]:
        said.append(f"  failed: {tuple(failed['block'])} in {failed['stage']}: {failed['error']}")
    if found["cells"] is not None:
        said.append(f"  {found['cells']} cells")
    if found["status"] != "complete":
        said.append(f"  go on with: cellseg3d-dist resume {found['folder']}")
    return said
