"""What a run is predicted to cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Range:
    """What is expected, and what it may lie between."""

    low: float
    expected: float
    high: float

    def __str__(self) -> str:
        return f"{self.expected:.3g} ({self.low:.3g} to {self.high:.3g})"

    def times(self, factor: float) -> Range:
        """In other units, or so many of them."""
        return Range(self.low * factor, self.expected * factor, self.high * factor)


@dataclass(frozen=True)
class StageCost:
    """Of one family of stages.

    Attributes
    ----------
    blocks, voxels : int
        Done, and in their write regions.
    seconds : float
    busy_seconds : float
        Of all workers together.
    """

    stage: str
    blocks: int
    voxels: int
    seconds: float
    busy_seconds: float


@dataclass(frozen=True)
class Cost:
    """Predicted time, memory and disk.

    Attributes
    ----------
    hours : Range
        From the begin of the run to its end, start of workers and report included.
    stages : tuple of StageCost
        What is expected of each.
    steps : dict
        Seconds of what the driver does between stages.
    worker_bytes, driver_bytes : Range
        Largest memory of one worker; at its high end what was projected for it. Of the driver
        with its scheduler.
    kept_bytes, disk_bytes : Range
        What stays in the run folder; what lies there when all blocks are done, files of
        ``work`` included.
    files : int
        At that time.
    cells, fragments : int
    workers : int
    measured : tuple of str
        The runs it is from.
    notes : tuple of str
        What was assumed, and where the runs are unlike what is planned.
    """

    hours: Range
    stages: tuple[StageCost, ...]
    steps: dict[str, float]
    worker_bytes: Range
    driver_bytes: Range
    kept_bytes: Range
    disk_bytes: Range
    files: int
    cells: int
    fragments: int
    workers: int
    measured: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """For people."""
        workers = "1 worker" if self.workers == 1 else f"{self.workers} workers"
        yield f"by the rates of {', '.join(self.measured)}, with {workers}:"
        yield f"  time              {_time(self.hours)}"
        for stage in self.stages:
            yield f"    {stage.stage:<15} {_span(stage.seconds)}, {stage.blocks} blocks"
        for step, seconds in self.steps.items():
            if seconds >= 0.5:
                yield f"    {step:<15} {_span(seconds)}, on the driver"
        for name, amount in (
            ("memory per worker", _amount(self.worker_bytes, 2**30, "GiB")),
            ("memory of driver", _amount(self.driver_bytes, 2**30, "GiB")),
            ("disk, at most", f"{_disk(self.disk_bytes)}, {self.files} files"),
            ("disk, kept", _disk(self.kept_bytes)),
        ):
            yield f"  {name:<17} {amount}"
        yield f"  cells             about {_rounded(self.cells)}"
        for note in self.notes:
            yield f"  note: {note}"


def _rounded(number: float) -> str:
    return f"{float(f'{number:.2g}'):,.0f}"


def _span(seconds: float) -> str:
    if seconds < 600:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _time(hours: Range) -> str:
    low, expected, high = (_span(3600 * h) for h in (hours.low, hours.expected, hours.high))
    return f"about {expected} ({low} to {high})"


def _disk(amount: Range) -> str:
    return _amount(amount, 1e9, "GB") if amount.high >= 1e8 else _amount(amount, 1e6, "MB")


def _amount(amount: Range, unit: float, name: str) -> str:
    low, expected, high = (f"{n / unit:.2f}" for n in (amount.low, amount.expected, amount.high))
    return f"about {expected} {name} ({low} to {high})"
