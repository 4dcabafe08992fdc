"""Executors: run a stage's blocks one after the other, or on a Dask cluster.

An executor knows a stage and blocks, nothing of images. The Dask one keeps a bounded
window of futures, takes each as it completes and releases it at once, so that the graph,
the scheduler and this process stay small at any number of blocks.
"""

from __future__ import annotations

import functools
import itertools
import logging
import random
import time
import uuid
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from distributed import Client, Future, KilledWorker, as_completed
from distributed.client import ClosedClientError, FutureCancelledError

from cellseg3d_dist.engine.stage import Outcome, Stage, run_block
from cellseg3d_dist.errors import EnvironmentFailedError
from cellseg3d_dist.grid import Block

log = logging.getLogger(__name__)

#: Times a block is tried when an operating-system error stops it.
ATTEMPTS = 3

#: Pause before finished blocks are taken; far below a real block's time.
_LANDING_SECONDS = 0.004


class Executor(Protocol):
    """Runs a stage's blocks in any order and yields each block's outcome."""

    @property
    def n_workers(self) -> int:
        """Blocks that can be computed at the same time."""
        ...

    def run(self, stage: Stage, blocks: Iterable[Block]) -> Iterator[Outcome]:
        """Yield the outcome of each block as it is done."""
        ...

    def stop(self) -> None:
        """Take no new blocks; those being computed are still yielded."""
        ...


class SerialExecutor:
    """Blocks one after the other in this process, for debugging; same bytes as any other.

    Parameters
    ----------
    shuffle : int or None
        Seed of a random order, to test that order does not matter.
    """

    n_workers = 1

    def __init__(self, shuffle: int | None = None) -> None:
        self._shuffle = shuffle
        self._stopped = False

    def stop(self) -> None:
        """Take no new blocks."""
        self._stopped = True

    def run(self, stage: Stage, blocks: Iterable[Block]) -> Iterator[Outcome]:
        """Yield the outcome of each block; an error of a block is its outcome."""
        if self._shuffle is not None:
            blocks = list(blocks)
            random.Random(self._shuffle).shuffle(blocks)
        for block in blocks:
            if self._stopped:
                return
            yield self._one(stage, block)

    def _one(self, stage: Stage, block: Block) -> Outcome:
        for attempt in itertools.count(1):
            try:
                return Outcome(block, run_block(stage, block))
            # a block's failure of any kind must not take the run with it
            except Exception as error:
                if attempt == ATTEMPTS or not _worth_another_try(error):
                    return Outcome.of_error(block, error)
                log.warning("%s of %s: %s, trying again", block, stage.name, error)
        raise AssertionError("unreachable")


class DaskExecutor:
    """Blocks on the workers of a `distributed.Client`.

    Parameters
    ----------
    client : Client
        A client of any cluster whose workers see the run folder.
    window : int or None
        Futures held at a time; by default four per thread and at least 16.
    """

    def __init__(self, client: Client, window: int | None = None) -> None:
        self._client = client
        self._window = window
        self._stopped = False

    @property
    def n_workers(self) -> int:
        """Threads of all workers that are there now."""
        return max(1, int(sum(self._client.nthreads().values())))

    def stop(self) -> None:
        """Take no new blocks."""
        self._stopped = True

    def run(self, stage: Stage, blocks: Iterable[Block]) -> Iterator[Outcome]:
        """Yield the outcome of each block.

        A block whose worker died is tried again alone, after the others, as a block that
        kills its worker can take innocent neighbours with it.

        Raises
        ------
        EnvironmentFailedError
            If the scheduler is lost.
        """
        suspects: list[Block] = []
        window = self._window or max(16, 4 * self.n_workers)
        yield from self._pass(stage, self._until_stopped(blocks), window, suspects)
        for block in self._until_stopped(suspects):
            last: list[Block] = []
            yield from self._pass(stage, iter([block]), 1, last)
            for poison in last:
                yield Outcome(poison, None, "its worker process died, also when alone")

    def _until_stopped(self, blocks: Iterable[Block]) -> Iterator[Block]:
        return itertools.takewhile(lambda _: not self._stopped, blocks)

    def _pass(
        self, stage: Stage, blocks: Iterator[Block], window: int, suspects: list[Block]
    ) -> Iterator[Outcome]:
        flight = _Flight(self._client, stage)
        try:
            flight.submit(itertools.islice(blocks, window))
            for landed in flight.landings():
                if self._stopped:
                    flight.recall()
                for block, attempt, answer in landed:
                    if not isinstance(answer, BaseException):
                        yield Outcome(block, answer)
                    elif isinstance(answer, KilledWorker):
                        suspects.append(block)
                    elif isinstance(answer, FutureCancelledError):
                        raise answer
                    elif attempt < ATTEMPTS and _worth_another_try(answer):
                        log.warning("%s of %s: %s, trying again", block, stage.name, answer)
                        flight.submit([block], attempt + 1)
                    else:
                        yield Outcome.of_error(block, answer)
                flight.submit(itertools.islice(blocks, window - flight.n_blocks))
        except (FutureCancelledError, ClosedClientError, OSError) as error:
            raise EnvironmentFailedError(
                f"Stage {stage.name}: the scheduler at {_address(self._client)} was lost "
                f"({' '.join(str(error).split())}). Finished blocks are kept; resume the run."
            ) from error


class _Flight:
    """Blocks that are with the cluster; their futures are released as they land."""

    def __init__(self, client: Client, stage: Stage) -> None:
        self._client = client
        self._run = functools.partial(run_block, stage)
        self._prefix = f"{stage.name}-{uuid.uuid4().hex[:8]}"
        self._blocks: dict[str, tuple[Block, int]] = {}
        self._sent: dict[str, Future] = {}
        # by default it would listen to the newest client of this process, whosever that is
        self._futures = as_completed(loop=client.loop)

    @property
    def n_blocks(self) -> int:
        """Blocks in flight."""
        return len(self._blocks)

    def submit(self, blocks: Iterable[Block], attempt: int = 1) -> None:
        """Send blocks off, for the n-th time."""
        sent = list(blocks)
        if not sent:
            return
        keys = [f"{self._prefix}-{block.number}-{attempt}" for block in sent]
        self._blocks |= {key: (block, attempt) for key, block in zip(keys, sent, strict=True)}
        futures = self._client.map(self._run, sent, key=keys, pure=False)
        self._sent |= zip(keys, futures, strict=True)
        self._futures.update(futures)

    def recall(self) -> None:
        """Take back the blocks that wait at the scheduler for a worker."""
        begun = {key for keys in self._client.processing().values() for key in keys}
        waiting = [future for key, future in self._sent.items() if key not in begun]
        waiting = [future for future in waiting if future.status == "pending"]
        for future in waiting:
            self._forget(future)
        self._client.cancel(waiting)

    def _forget(self, future: Future) -> tuple[Block, int]:
        self._sent.pop(future.key)
        return self._blocks.pop(future.key)

    def landings(self) -> Iterator[list[tuple[Block, int, Any]]]:
        """What has come back since the last look: each block with its record or its error.

        Records are gathered together, as each trip to the event loop costs as much as an
        idle task.
        """
        for first in self._futures.batches():
            # the scheduler may live in this process: let it work, then take more at a time
            time.sleep(_LANDING_SECONDS)
            batch = [*first, *self._futures.next_batch(block=False)]
            batch = [future for future in batch if future.key in self._sent]
            answers = self._answers(batch)
            yield [
                (*self._forget(future), answer)
                for future, answer in zip(batch, answers, strict=True)
            ]

    def _answers(self, batch: list[Future]) -> list[Any]:
        try:
            if all(future.status == "finished" for future in batch):
                return list(self._client.gather(batch))
            return [_answer(future) for future in batch]
        # whatever one block raised, the others' records are wanted
        except Exception:
            return [_answer(future) for future in batch]
        finally:
            for future in batch:
                future.release()


def _answer(future: Future) -> Any:
    """A future's record, or the error it ended in."""
    error = future.exception()
    return future.result() if error is None else error


def _worth_another_try(error: BaseException) -> bool:
    return isinstance(error, OSError | EnvironmentFailedError)


def _address(client: Client) -> Any:
    return getattr(client.scheduler, "address", "?")
