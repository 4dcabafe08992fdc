"""Stop on a signal: what is in flight is noted, then the run ends and can be resumed."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FrameType

from cellseg3d_dist.engine.progress import Progress


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop; what was in flight is noted."""

    def __init__(self, signal_number: int, go_on: str = "") -> None:
        super().__init__(f"stopped by signal {signal_number}")
        self.signal_number = signal_number
        self.go_on = go_on


@dataclass
class Stop:
    """A request to stop, and who has to be told of it.

    Attributes
    ----------
    go_on : str
        How a run that was stopped is continued, for the message.
    """

    go_on: str = ""
    signal_number: int | None = None
    _told: list[Callable[[], None]] = field(default_factory=list)

    def request(self, signal_number: int) -> None:
        """Stop: take no new blocks."""
        self.signal_number = signal_number
        for listener in self._told:
            listener()

    def tell(self, listener: Callable[[], None]) -> None:
        """Call this when a stop is requested, now if it has been."""
        self._told.append(listener)
        if self.signal_number is not None:
            listener()

    def check(self) -> None:
        """End here if a stop was requested.

        Raises
        ------
        Interrupted
            If so.
        """
        if self.signal_number is not None:
            raise Interrupted(self.signal_number, self.go_on)


@contextlib.contextmanager
def stopping_on_signals(progress: Progress, go_on: str = "") -> Iterator[Stop]:
    """While inside, SIGINT and SIGTERM request a stop; a second one stops at once.

    Nothing is interrupted halfway: whoever is at work checks the request. Outside the main
    thread, where Python allows no signal handlers, no stop is ever requested.
    """
    stop = Stop(go_on)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.signal_number is not None:
            raise Interrupted(number, go_on)
        stop.request(number)
        # printed by another thread, as this one may be in the middle of printing
        said = "stopping: blocks in flight are finished and noted ..."
        threading.Thread(target=progress.say, args=(said,), daemon=True).start()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
