"""The loop: steps, validation, checkpoints and records of a training.

::

    batches (threads, ahead) ──► step ──► ... ──► epoch: a row of metrics.csv
                                                    ├─ every few: validation, picture, best.*
                                                    └─ checkpoint
"""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch

from cellseg3d_dist.training.checkpoint import Progressed, read_checkpoint, write_checkpoint
from cellseg3d_dist.training.config import TrainConfig
from cellseg3d_dist.training.distributed import Processes
from cellseg3d_dist.training.objective import Batch, Objective
from cellseg3d_dist.training.pictures import draw
from cellseg3d_dist.training.records import Board, Listener, Silent, Table, TrainFolder
from cellseg3d_dist.training.steps import Stepper, learning_rate


class TrainingStopped(KeyboardInterrupt):
    """The training was asked to stop; its last checkpoint is kept."""

    kept = "The checkpoint is kept"

    def __init__(self, signal_number: int, go_on: str) -> None:
        super().__init__(f"stopped by signal {signal_number}")
        self.signal_number = signal_number
        self.go_on = go_on


@dataclass
class Trainer:
    """A training from its first step, or from a checkpoint, to its last.

    Attributes
    ----------
    card : dict
        What the cards of saved weights say of the training, apart from its steps.
    """

    objective: Objective
    config: TrainConfig
    folder: TrainFolder
    device: torch.device
    processes: Processes = field(default_factory=Processes)
    listener: Listener = field(default_factory=Silent)
    card: dict[str, Any] = field(default_factory=dict)
    _done: Progressed = field(default_factory=Progressed)

    def __post_init__(self) -> None:
        """Bring the network to its device."""
        self._stepper = Stepper(self.objective, self.config, self.device, self.processes)

    @property
    def deciding(self) -> dict[str, Any]:
        """What a checkpoint must have in common with the training that goes on from it."""
        return {**self.config.deciding(), "processes": self.processes.world}

    def resume(self) -> None:
        """Go on from the folder's checkpoint.

        Raises
        ------
        OutputError
            If it was made with another configuration.
        WeightsError
            If it cannot be read.
        """
        self._done, state = read_checkpoint(self.folder.checkpoint, self.deciding)
        self._stepper.load(state)

    def run(self) -> Progressed:
        """Train to the last step.

        Raises
        ------
        TrainingStopped
            If a signal asked for it; a checkpoint was written.
        ConfigError
            If the loss or a gradient is not finite.
        EnvironmentFailedError
            If disk or device failed.
        """
        with contextlib.ExitStack() as stack:
            stop = stack.enter_context(_stopping_on_signals(self.folder.go_on))
            table = board = None
            if self.processes.leads:
                table = Table(self.folder.metrics, self._done.step)
                board = stack.enter_context(self._board())
                self.listener.start(self.config.steps, self._done.step)
                stack.callback(self.listener.finish)
            batches = stack.enter_context(self._batches())
            self._epochs(batches, stop, table, board)
            if self.processes.leads:
                self._save("last", self._done.scores or {})
        return self._done

    def _epochs(
        self, batches: Iterator[Batch], stop: _Stop, table: Table | None, board: Board | None
    ) -> None:
        config, done = self.config, self._done
        began = time.monotonic()
        while done.step < config.steps and not self._stale():
            value, parts = self._stepper.step(done.step, next(batches))
            self._add(value, parts)
            done.step += 1
            self.listener.step(done.step, value)
            epoch_over = done.step % config.steps_per_epoch == 0 or done.step == config.steps
            if epoch_over:
                self._end_epoch(time.monotonic() - began, table, board)
                began = time.monotonic()
            number = self.processes.any(stop.signal_number or 0)
            if epoch_over or number:
                self._checkpoint()
            if number and done.step < config.steps:
                raise TrainingStopped(number, self.folder.go_on)

    def _stale(self) -> bool:
        limit = self.config.early_stopping
        return limit is not None and self._done.stale >= limit

    def _add(self, loss: float, parts: dict[str, float]) -> None:
        done = self._done
        done.sums = done.sums or {}
        for key, value in {"loss": loss, **parts}.items():
            done.sums[key] = done.sums.get(key, 0.0) + value
        done.counted += 1

    def _end_epoch(self, seconds: float, table: Table | None, board: Board | None) -> None:
        """Write the epoch's row, with scores where it is validated."""
        done, config = self._done, self.config
        sums, counted = done.sums or {}, max(done.counted, 1)
        means = self.processes.mean([total / counted for total in sums.values()])
        epoch = math.ceil(done.step / config.steps_per_epoch)
        row: dict[str, float] = {"step": done.step, "epoch": epoch}
        row |= {"learning_rate": learning_rate(done.step - 1, config)}
        row |= dict(zip(sums, means, strict=True))
        validated = epoch % config.validate_every == 0 or done.step == config.steps
        scores: dict[str, float] = {}
        if validated:
            scores = self._validate()
            if self.processes.leads and config.pictures:
                self._draw(epoch, board)
        row |= {key: value for key, value in scores.items() if key != "score"}
        row["seconds"] = round(seconds, 3)
        done.sums, done.counted = None, 0
        if table is not None:
            table.add(row)
            self.folder.update_status(**self.facts())
        if board is not None:
            board.add(done.step, row)
        self.listener.say(_line(row, config.steps, validated))

    def _validate(self) -> dict[str, float]:
        """Score the network; the processes agree on what the first one found."""
        done = self._done
        scores: dict[str, float] = {}
        if self.processes.leads:
            scores = self.objective.validate(self._stepper.evaluated)
        known = self.processes.any(bool(scores))
        (score,) = self.processes.sum([scores.get("score", 0.0)])
        done.scores = scores
        # without scores the last weights are the best
        if not known or done.best is None or score > done.best:
            done.best, done.best_step, done.stale = (score if known else None), done.step, 0
            done.best_scores = scores
            if self.processes.leads:
                self._save("best", scores)
        else:
            done.stale += 1
        return scores

    def _draw(self, epoch: int, board: Board | None) -> None:
        panels = self.objective.picture(self._stepper.evaluated)
        image = draw(self.folder.picture(epoch), panels, f"step {self._done.step}")
        if board is not None:
            board.add_picture(self._done.step, image)

    def _save(self, name: str, scores: dict[str, float]) -> None:
        training = {**self.card, "steps": self._done.step, "seed": self.config.seed}
        path = str(self.folder.path / name)
        self.objective.save(path, self._stepper.evaluated, scores, training)

    def _checkpoint(self) -> None:
        if self.processes.leads:
            write_checkpoint(
                self.folder.checkpoint, self._done, self.deciding, self._stepper.state()
            )

    def facts(self) -> dict[str, Any]:
        """What ``train.json`` says of the progress."""
        done = self._done
        return {
            "step": done.step, "steps": self.config.steps, "best_step": done.best_step,
            "best_scores": done.best_scores or {}, "scores": done.scores or {},
            "stopped_early": self._stale(),
        }  # fmt: skip

    @contextlib.contextmanager
    def _board(self) -> Iterator[Board | None]:
        if not self.config.tensorboard:
            yield None
            return
        if not Board.importable():
            self.listener.say(
                "tensorboard is not installed (extra: tensorboard); metrics.csv has the scores."
            )
            yield None
            return
        board = Board(self.folder.tensorboard, self._done.step)
        try:
            yield board
        finally:
            board.close()

    @contextlib.contextmanager
    def _batches(self) -> Iterator[Iterator[Batch]]:
        """Batches of this process from the next step on, made ahead by threads."""
        processes, first, last = self.processes, self._done.step, self.config.steps
        pool = ThreadPoolExecutor(self.config.loaders, "batch")
        waiting: deque[Future[Batch]] = deque()

        def ahead() -> Iterator[Batch]:
            indices = iter(range(first, last))
            while True:
                while len(waiting) < 2 * self.config.loaders:
                    step = next(indices, None)
                    if step is None:
                        break
                    index = step * processes.world + processes.rank
                    waiting.append(pool.submit(self.objective.batch, index))
                if not waiting:
                    return
                yield waiting.popleft().result()

        try:
            yield ahead()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _line(row: dict[str, float], steps: int, validated: bool) -> str:
    shown = [f"step {row['step']}/{steps}", f"loss {row['loss']:.4f}"]
    hidden = ("step", "epoch", "learning_rate", "loss", "seconds")
    if validated:
        shown += [f"{key} {value:.3f}" for key, value in row.items() if key not in hidden]
    return ", ".join(shown)


@dataclass
class _Stop:
    signal_number: int | None = None


@contextlib.contextmanager
def _stopping_on_signals(go_on: str) -> Iterator[_Stop]:
    """While inside, SIGINT and SIGTERM ask for a stop; a second one stops at once.

    Outside the main thread, where Python allows no signal handlers, nothing is asked.
    """
    stop = _Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.signal_number is not None:
            raise TrainingStopped(number, go_on)
        stop.signal_number = number

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
