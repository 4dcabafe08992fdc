"""What a machine is, so that two of them can be compared."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import psutil

from cellseg3d_dist.engine.clusters import default_workers
from cellseg3d_dist.engine.run_json import versions


def machine() -> dict[str, Any]:
    """Processor, cores, memory, system and versions; nothing that names the machine."""
    return {
        "cpu": _processor(),
        "cores": default_workers(),
        "cores_of_machine": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.release()}",
        "versions": versions(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
