"""Progress of stages: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress

_LINE_SECONDS = 10.0


class Progress(Protocol):
    """Is told of stages and of voxels done."""

    def start(self, stage: str, n_blocks: int, n_done: int) -> None:
        """A stage begins; some of its blocks may have been done before."""

    def advance(self, voxels: int) -> None:
        """One more block, of so many voxels, is done."""

    def finish(self) -> None:
        """The stage is over."""

    def say(self, text: str) -> None:
        """One line for the user."""


class NoProgress:
    """Says nothing; for use as a library."""

    def start(self, stage: str, n_blocks: int, n_done: int) -> None:
        """Nothing."""

    def advance(self, voxels: int) -> None:
        """Nothing."""

    def finish(self) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""


class TerminalProgress:
    """Bars on a terminal; a line every ten seconds and at each stage's end elsewhere."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(file=sys.stderr, highlight=False)
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None
        self._stage, self._n, self._done, self._before = "", 0, 0, 0
        self._voxels = 0
        self._began = self._said = time.monotonic()

    def __enter__(self) -> TerminalProgress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._drop_bar()

    def start(self, stage: str, n_blocks: int, n_done: int) -> None:
        """Begin a stage."""
        self._stage, self._n, self._done, self._before = stage, n_blocks, n_done, n_done
        self._voxels = 0
        self._began = self._said = time.monotonic()
        if self._console.is_terminal and n_blocks > n_done:
            self._bar = RichProgress(
                TextColumn("{task.description:<12}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                console=self._console,
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(stage, total=n_blocks, completed=n_done, rate="")

    def advance(self, voxels: int) -> None:
        """Count a block."""
        self._done += 1
        self._voxels += voxels
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._done, rate=self._rate())
        elif time.monotonic() - self._said > _LINE_SECONDS:
            self._said = time.monotonic()
            self.say(f"{self._line()}, {self._time_left()} left")

    def finish(self) -> None:
        """End the stage with a line."""
        self._drop_bar()
        if self._n:
            seconds = time.monotonic() - self._began
            kept = f", {self._before} kept from before" if self._before else ""
            self.say(f"{self._line()} in {seconds:.1f} s{kept}")

    def say(self, text: str) -> None:
        """Print one line."""
        self._console.print(text, markup=False, soft_wrap=True)

    def _drop_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._task = None

    def _line(self) -> str:
        return f"{self._stage:<12} {self._done}/{self._n} blocks, {self._rate()}"

    def _rate(self) -> str:
        seconds = max(time.monotonic() - self._began, 1e-6)
        return f"{self._voxels / seconds / 1e6:.1f} Mvoxel/s"

    def _time_left(self) -> str:
        fresh = self._done - self._before
        seconds = (time.monotonic() - self._began) / max(fresh, 1) * (self._n - self._done)
        return f"{seconds / 60:.0f} min" if seconds > 90 else f"{seconds:.0f} s"
