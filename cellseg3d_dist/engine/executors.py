"""Executors: run a stage's blocks one after the other, or on a Dask cluster.

An executor knows a stage and blocks, nothing of images. The Dask one keeps a bounded
window of futures, takes each as it completes and releases it at once, so that the graph,
the scheduler and this process stay small at any number of blocks.
"""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from dask.base import tokenize
from distributed import Client, Future, KilledWorker, as_completed
from distributed.client import FutureCancelledError

from cellseg3d_dist.engine.stage import Outcome, Stage, run_block
from cellseg3d_dist.errors import EnvironmentFailedError
from cellseg3d_dist.grid import Block

log = logging.getLogger(__name__)

#: Times a block is tried when an operating-system error stops it.
ATTEMPTS = 3


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
        yield from self._pass(stage, iter(blocks), window, suspects)
        for block in list(suspects):
            if self._stopped:
                return
            last: list[Block] = []
            yield from self._pass(stage, iter([block]), 1, last)
            for poison in last:
                yield Outcome(poison, None, "its worker process died, also when alone")

    def _pass(
        self, stage: Stage, blocks: Iterator[Block], window: int, suspects: list[Block]
    ) -> Iterator[Outcome]:
        prefix = f"{stage.name}-{tokenize(stage.name, random.random())[:8]}"
        waiting: dict[str, tuple[Block, int]] = {}
        futures = as_completed()
        try:
            for block in itertools.islice(blocks, window):
                futures.add(self._submit(stage, block, prefix, 1, waiting))
            for future in futures:
                block, attempt = waiting.pop(future.key)
                error = future.exception() if future.status != "finished" else None
                if error is None:
                    yield Outcome(block, future.result())
                elif isinstance(error, KilledWorker):
                    suspects.append(block)
                elif _is_lost_scheduler(error):
                    raise error
                elif attempt < ATTEMPTS and _worth_another_try(error):
                    log.warning("%s of %s: %s, trying again", block, stage.name, error)
                    futures.add(self._submit(stage, block, prefix, attempt + 1, waiting))
                else:
                    yield Outcome.of_error(block, error)
                future.release()
                if not self._stopped:
                    for block in itertools.islice(blocks, window - len(waiting)):
                        futures.add(self._submit(stage, block, prefix, 1, waiting))
        except (FutureCancelledError, OSError) as error:
            raise EnvironmentFailedError(
                f"Stage {stage.name}: the scheduler at {_address(self._client)} was lost "
                f"({error}). Finished blocks are kept; resume the run."
            ) from error

    def _submit(
        self,
        stage: Stage,
        block: Block,
        prefix: str,
        attempt: int,
        waiting: dict[str, tuple[Block, int]],
    ) -> Future:
        key = f"{prefix}-{block.number}-{attempt}"
        waiting[key] = (block, attempt)
        return self._client.submit(run_block, stage, block, key=key, pure=False)


def _worth_another_try(error: BaseException) -> bool:
    return isinstance(error, OSError | EnvironmentFailedError)


def _is_lost_scheduler(error: BaseException) -> bool:
    return isinstance(error, FutureCancelledError)


def _address(client: Client) -> Any:
    return getattr(client.scheduler, "address", "?")
