"""A stage: one idempotent function over many blocks; and what becomes of each block."""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from cellseg3d_dist.errors import CellSegError, EnvironmentFailedError, LabelsError
from cellseg3d_dist.grid import Block

_PROC_STATUS = Path("/proc/self/status")
_PROC_IO = Path("/proc/self/io")
#: Stages that this process has done a block of.
_MET: set[str] = set()

#: A small JSON-able answer of a stage for one block; large arrays go to disk.
BlockRecord = dict[str, Any]


@runtime_checkable
class Stage(Protocol):
    """What an executor needs to know; implementations are small frozen dataclasses.

    ``run`` reads, computes and writes one block on a worker. Running it twice, or late,
    writes the same bytes again.
    """

    @property
    def name(self) -> str:
        """Name of the journal, in progress and in timings."""
        ...

    def run(self, block: Block) -> BlockRecord:
        """Do one block and return its record."""
        ...

    def decides(self) -> BlockRecord:
        """Everything that decides the result besides the run's own header."""
        ...

    def verify(self, block: Block, record: BlockRecord) -> bool:
        """Whether what the record says was written is still there, by digest."""
        ...


@dataclass(frozen=True)
class Outcome:
    """A block that came back: its record, or the error that stopped it.

    ``environment`` tells that disk or cluster failed, not the block; ``unusable`` that what
    was given is of no use in any block.
    """

    block: Block
    record: BlockRecord | None
    error: str = ""
    environment: bool = False
    unusable: bool = False

    @classmethod
    def of_error(cls, block: Block, error: BaseException) -> Outcome:
        """The outcome of a block that raised."""
        text = " ".join(str(error).split()) or type(error).__name__
        if not isinstance(error, CellSegError):
            text = f"{type(error).__name__}: {text}"
        environment = isinstance(error, EnvironmentFailedError | OSError)
        return cls(block, None, text, environment, isinstance(error, LabelsError))

    @property
    def failed(self) -> bool:
        """Whether the block has no result."""
        return self.record is None


@dataclass(frozen=True)
class Verify:
    """The stage that checks another stage's finished blocks against their digests."""

    stage: Stage
    records: dict[int, BlockRecord]

    @property
    def name(self) -> str:
        """Name in progress."""
        return f"verify {self.stage.name}"

    def run(self, block: Block) -> BlockRecord:
        """Compare one block with its record."""
        return {"intact": self.stage.verify(block, self.records[block.number])}

    def decides(self) -> BlockRecord:
        """Nothing: a check is not a result."""
        return {}

    def verify(self, block: Block, record: BlockRecord) -> bool:
        """Checks are not checked."""
        return True


def run_block(stage: Stage, block: Block) -> BlockRecord:
    """Run one block where this is called, with what it took of the process.

    Noted are its seconds; those of processor time, of all threads; bytes that went through
    read and write calls, whether a cache or a disk answered; the process's peak memory; and
    whether it was the process's first block of the stage, which loads and compiles.
    """
    start, cpu, (read, written) = time.perf_counter(), time.process_time(), _bytes_moved()
    record = stage.run(block)
    read_after, written_after = _bytes_moved()
    used = {
        "seconds": round(time.perf_counter() - start, 4),
        "cpu_seconds": round(time.process_time() - cpu, 4),
        "read_bytes": read_after - read,
        "written_bytes": written_after - written,
        "peak_rss": peak_rss(),
    }
    if stage.name not in _MET:
        _MET.add(stage.name)
        used["first_here"] = 1
    return record | used


def _bytes_moved() -> tuple[int, int]:
    """Bytes that this process has read and written by system calls; 0 where nobody counts."""
    try:
        lines = _PROC_IO.read_text().splitlines()
    except OSError:
        return 0, 0
    counted = dict(line.split(": ") for line in lines)
    return int(counted.get("rchar", 0)), int(counted.get("wchar", 0))


def peak_rss() -> int:
    """Largest resident memory this process has had, in bytes."""
    try:
        # getrusage would count what the parent held when it forked
        with _PROC_STATUS.open() as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
