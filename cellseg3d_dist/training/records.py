"""What a training leaves to be looked at: status, a table of scores, TensorBoard, lines.

::

    OUT/train.yaml          resolved configuration
    OUT/train.json          status, versions, scores; the marker of the folder
    OUT/metrics.csv         one row per epoch
    OUT/tensorboard/        the same, where the tensorboard package is installed
    OUT/pictures/           inputs and outputs, where validated
    OUT/checkpoints/        what the training is resumed from
    OUT/best.safetensors    OUT/best.json    OUT/last.safetensors    OUT/last.json
"""

from __future__ import annotations

import csv
import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from cellseg3d_dist.errors import OutputError

PROGRAM = "cellseg3d_dist train"
_LINE_SECONDS = 30.0


@dataclass(frozen=True)
class TrainFolder:
    """Paths of a training and its status file."""

    path: Path

    @property
    def config(self) -> Path:
        """Resolved configuration."""
        return self.path / "train.yaml"

    @property
    def status_file(self) -> Path:
        """Status and scores."""
        return self.path / "train.json"

    @property
    def metrics(self) -> Path:
        """One row per epoch."""
        return self.path / "metrics.csv"

    @property
    def tensorboard(self) -> Path:
        """Event files."""
        return self.path / "tensorboard"

    @property
    def checkpoint(self) -> Path:
        """What the training is resumed from."""
        return self.path / "checkpoints" / "last.pt"

    @property
    def best(self) -> Path:
        """Weights of the best validation."""
        return self.path / "best.safetensors"

    @property
    def last(self) -> Path:
        """Weights of the last step."""
        return self.path / "last.safetensors"

    @property
    def go_on(self) -> str:
        """How a user goes on after an interruption, to end a sentence with."""
        command = f"cellseg3d-dist train {shlex.quote(str(self.path))} --resume"
        return f"resume with: {command}"

    def picture(self, epoch: int) -> Path:
        """The picture of an epoch."""
        return self.path / "pictures" / f"epoch_{epoch:04d}.png"

    def status(self) -> dict[str, Any]:
        """Content of ``train.json``.

        Raises
        ------
        OutputError
            If this is not the folder of a training.
        """
        try:
            content = json.loads(self.status_file.read_text())
        except (OSError, ValueError, RecursionError) as error:
            raise OutputError(
                f"{self.path} is not the output of a training: no readable train.json "
                f"({getattr(error, 'strerror', None) or error})."
            ) from error
        if not isinstance(content, dict) or content.get("program") != PROGRAM:
            raise OutputError(f"{self.path} is not the output of {PROGRAM}.")
        return content

    def write_status(self, status: Mapping[str, Any]) -> None:
        """Replace ``train.json``, whole or not at all."""
        partial = self.status_file.with_name("train.json.partial")
        partial.write_text(json.dumps({"program": PROGRAM, **status}, indent=1) + "\n")
        partial.replace(self.status_file)

    def update_status(self, **changes: Any) -> None:
        """Change some keys of ``train.json``."""
        self.write_status(self.status() | changes)


def check_new_folder(out: Path, inputs: Sequence[str], overwrite: bool) -> None:
    """Refuse an output folder that must not be created or replaced; nothing is changed.

    Raises
    ------
    OutputError
        If it is not empty (unless it is an earlier training and ``overwrite``), lies in,
        around or on an input, or cannot be created.
    """
    real = out.resolve()
    for text in inputs:
        given = Path(text).resolve()
        if "://" not in text and (real == given or given in real.parents or real in given.parents):
            how = "is" if real == given else "lies in" if given in real.parents else "holds"
            raise OutputError(f"output {out} {how} the input {text}. Choose another folder.")
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise OutputError(f"output {out} is a file or a link. Choose another folder.")
    if out.is_dir() and any(out.iterdir()):
        TrainFolder(out).status()
        if not overwrite:
            raise OutputError(
                f"output {out} exists. To go on with it, {TrainFolder(out).go_on}; --overwrite "
                f"replaces it."
            )
    ancestor = next(p for p in (out, *out.absolute().parents) if p.exists())
    if not (ancestor.is_dir() and os.access(ancestor, os.W_OK | os.X_OK)):
        raise OutputError(f"output {out} cannot be created: {ancestor} is not writable.")


def create_folder(out: Path, status: Mapping[str, Any]) -> TrainFolder:
    """Make the folder, empty apart from its status; an earlier training there is removed."""
    folder = TrainFolder(out.absolute())
    if folder.status_file.exists():
        folder.status()
        shutil.rmtree(out)
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.write_status(status)
    for path in (folder.checkpoint, folder.picture(0)):
        path.parent.mkdir()
    return folder


class Table:
    """``metrics.csv``: a row per epoch, columns in the order in which they first came."""

    def __init__(self, path: Path, keep_steps: int = 0) -> None:
        """Keep the rows of at most ``keep_steps`` steps: later ones are trained again."""
        self._path = path
        self._rows: list[dict[str, str]] = []
        if keep_steps and path.exists():
            with path.open(newline="") as file:
                rows = [row for row in csv.DictReader(file) if (row.get("step") or "").isdecimal()]
            kept = [row for row in rows if int(row["step"]) <= keep_steps]
            self._rows = [{key: value for key, value in row.items() if value} for row in kept]
        self._write()

    def add(self, row: Mapping[str, float]) -> None:
        """Add a row; it is on disk when this returns."""
        # repr of a float is exact, so that two trainings can be compared
        self._rows.append({key: repr(value) for key, value in row.items()})
        self._write()

    def _write(self) -> None:
        columns = list(dict.fromkeys(key for row in self._rows for key in row))
        partial = self._path.with_name(f"{self._path.name}.partial")
        with partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(self._rows)
        partial.replace(self._path)


class Board:
    """TensorBoard's event files, where its package is installed."""

    def __init__(self, folder: Path, from_step: int) -> None:
        # the package is optional
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder), purge_step=from_step or None)

    @staticmethod
    def importable() -> bool:
        """Whether the package is installed."""
        try:
            import torch.utils.tensorboard  # noqa: F401
        except ImportError:
            return False
        return True

    def add(self, step: int, row: Mapping[str, float]) -> None:
        """Add the values of an epoch."""
        for key, value in row.items():
            if key not in ("step", "epoch"):
                self._writer.add_scalar(key, value, step)
        self._writer.flush()

    def add_picture(self, step: int, image: Any) -> None:
        """Add a picture (rows, columns, 3)."""
        self._writer.add_image("picture", image, step, dataformats="HWC")

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


class Listener(Protocol):
    """Is told how a training goes."""

    def start(self, n_steps: int, done: int) -> None:
        """Training begins."""

    def step(self, done: int, loss: float) -> None:
        """A step is done."""

    def say(self, text: str) -> None:
        """One line for the user."""

    def finish(self) -> None:
        """Training is over."""


class Silent:
    """Says nothing; for use as a library."""

    def start(self, n_steps: int, done: int) -> None:
        """Nothing."""

    def step(self, done: int, loss: float) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    def finish(self) -> None:
        """Nothing."""


@dataclass
class Terminal:
    """A bar on a terminal, a line every half minute elsewhere."""

    console: Console = field(default_factory=lambda: Console(file=sys.stderr, highlight=False))
    _bar: RichProgress | None = None
    _task: TaskID | None = None
    _n: int = 0
    _first: int = 0
    _began: float = 0.0
    _said: float = 0.0

    def start(self, n_steps: int, done: int) -> None:
        """Begin."""
        self._n, self._first = n_steps, done
        self._began = self._said = time.monotonic()
        if self.console.is_terminal:
            self._bar = RichProgress(
                TextColumn("training"), BarColumn(), MofNCompleteColumn(),
                TextColumn("{task.fields[loss]}"), TimeRemainingColumn(),
                console=self.console, transient=True,
            )  # fmt: skip
            self._bar.start()
            self._task = self._bar.add_task("training", total=n_steps, completed=done, loss="")

    def step(self, done: int, loss: float) -> None:
        """Count a step."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, loss=f"loss {loss:.4f}")
        elif time.monotonic() - self._said > _LINE_SECONDS:
            self._said = time.monotonic()
            rate = (done - self._first) / (self._said - self._began)
            left = (self._n - done) / rate / 60
            self.say(
                f"step {done}/{self._n}, loss {loss:.4f}, {rate:.2f} steps/s, {left:.0f} min left"
            )

    def say(self, text: str) -> None:
        """Print one line."""
        self.console.print(text, markup=False, soft_wrap=True)

    def finish(self) -> None:
        """End the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
