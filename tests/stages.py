"""Small stages for tests of executors; in a module of their own so that workers find them."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Counting:
    """Adds a line to a file per block each time the block is executed."""

    folder: Path
    name: str = "counting"

    def run(self, block):
        with (self.folder / f"{block.number}.runs").open("a") as file:
            file.write("x")
        self.provoke(block)
        return {"square": block.number**2, "start": list(block.write_region.start)}

    def provoke(self, block):
        """Nothing here."""

    def decides(self):
        return {"of": "numbers"}

    def verify(self, block, record):
        return record["square"] == block.number**2

    def runs(self, number):
        path = self.folder / f"{number}.runs"
        return len(path.read_text()) if path.exists() else 0

    def first_time(self, block):
        return self.runs(block.number) == 1


@dataclass(frozen=True)
class ThirdFailsOnce(Counting):
    """Every third block meets an operating-system error the first time."""

    def provoke(self, block):
        if block.number % 3 == 0 and self.first_time(block):
            raise OSError(5, "Input/output error", f"/store/{block.number}")


@dataclass(frozen=True)
class Raising(Counting):
    """Some blocks raise each time."""

    bad: tuple[int, ...] = ()
    error: type[BaseException] = ValueError

    def provoke(self, block):
        if block.number in self.bad:
            raise self.error(f"value {block.number}\nis bad")


@dataclass(frozen=True)
class Killing(Counting):
    """Some blocks kill their process, as the kernel does when memory runs out."""

    bad: tuple[int, ...] = ()
    only_once: bool = False

    def provoke(self, block):
        if block.number in self.bad and (not self.only_once or self.first_time(block)):
            os._exit(137)
        time.sleep(0.01)


@dataclass(frozen=True)
class KillingWorker(Counting):
    """One block kills its worker from outside once, as ``kill -9`` does."""

    bad: int = 0

    def provoke(self, block):
        if block.number == self.bad and self.first_time(block):
            os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Slow(Counting):
    """Every block takes a while."""

    seconds: float = 0.05

    def provoke(self, block):
        time.sleep(self.seconds)


@dataclass(frozen=True)
class Damaged(Counting):
    """Block 5 cannot be checked and block 6 is found damaged."""

    def verify(self, block, record):
        if block.number == 5:
            raise OSError("unreadable")
        return block.number != 6


@dataclass(frozen=True)
class Writing(Counting):
    """Writes so many bytes per block."""

    size: int = 0

    def provoke(self, block):
        (self.folder / f"{block.number}.bytes").write_bytes(bytes(self.size))
