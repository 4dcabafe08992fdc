"""Run a command and look at its memory along the way."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

#: Seconds between two looks.
PAUSE = 0.5


@dataclass(frozen=True)
class Watched:
    """What a command took.

    Attributes
    ----------
    seconds : float
    driver, worker, together : tuple of int
        Resident bytes of the process itself, of the largest of its children, and of all
        (shared pages counted in each), every half second.
    """

    seconds: float
    driver: tuple[int, ...]
    worker: tuple[int, ...]
    together: tuple[int, ...]

    def memory(self) -> dict[str, Any]:
        """Largest, and the driver's early and late."""
        tenth = max(1, len(self.driver) // 10)
        early, late = self.driver[tenth : 2 * tenth], self.driver[-tenth:]
        return {
            "worker_peak": max(self.worker, default=0),
            "driver_peak": max(self.driver, default=0),
            "all_peak": max(self.together, default=0),
            "driver_early": statistics.median(early) if early else 0,
            "driver_late": statistics.median(late) if late else 0,
        }


def watch(command: str | Sequence[str], folder: Path | None = None) -> Watched:
    """Run a command to its end; a text is a line for the shell."""
    began, samples = time.monotonic(), []
    process = subprocess.Popen(command, shell=isinstance(command, str), cwd=folder)
    driver = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            children = [child.memory_info().rss for child in driver.children(recursive=True)]
            own = driver.memory_info().rss
            if own:
                samples.append((own, max(children, default=own), own + sum(children)))
        except psutil.Error:
            pass
        time.sleep(PAUSE)
    if process.returncode:
        raise SystemExit(f"the command ended with exit code {process.returncode}: {command}")
    columns = tuple(zip(*samples, strict=True)) or ((), (), ())
    return Watched(time.monotonic() - began, *columns)


def size_below(path: Path) -> dict[str, int]:
    """Bytes and number of files of a file or folder."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return {"bytes": sum(p.stat().st_size for p in files), "files": len(files)}
