"""Stop on a signal: what is in flight is noted, then the run ends and can be resumed."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from cellseg3d_dist.engine.runner import Interrupted, Runner


@contextlib.contextmanager
def stopping_on_signals(runner: Runner) -> Iterator[None]:
    """While inside, SIGINT and SIGTERM ask the runner to stop; a second one stops at once.

    Does nothing outside the main thread, where Python allows no signal handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        if runner.stop_signal is not None:
            raise Interrupted(number, runner.folder.go_on)
        runner.progress.say("stopping: blocks in flight are finished and noted ...")
        runner.request_stop(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
