"""Log files of a run: one for the driver, one for each worker process."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distributed import Worker, WorkerPlugin

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_ROOT = "cellseg3d_dist"


@contextlib.contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Append this package's log messages, and warnings of others, to a file."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter(_FORMAT))
    loggers = [logging.getLogger(_ROOT), logging.getLogger("distributed")]
    levels = [logger.level for logger in loggers]
    propagates = [logger.propagate for logger in loggers]
    loggers[0].setLevel(logging.INFO)
    for logger in loggers:
        logger.addHandler(handler)
        # the terminal belongs to the progress display
        logger.propagate = False
    removed = [list(logger.handlers) for logger in loggers]
    for logger in loggers:
        for other in list(logger.handlers):
            if other is not handler:
                logger.removeHandler(other)
    try:
        yield
    finally:
        for logger, level, propagate, handlers in zip(
            loggers, levels, propagates, removed, strict=True
        ):
            logger.setLevel(level)
            logger.propagate = propagate
            logger.handlers = [h for h in handlers if h is not handler]
        handler.close()


class WorkerLog(WorkerPlugin):
    """Gives each worker process a log file in the run folder."""

    name = "cellseg3d-dist-log"

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._handler: logging.Handler | None = None

    def setup(self, worker: Worker) -> None:
        """Open the file and bound the threads that codecs and Zarr use."""
        from cellseg3d_dist.volumes import limit_threads

        limit_threads()
        with contextlib.suppress(OSError):
            path = Path(self._folder) / f"worker-{os.getpid()}.log"
            self._handler = logging.FileHandler(path, encoding="utf-8", delay=True)
            self._handler.setFormatter(logging.Formatter(_FORMAT))
            logging.getLogger(_ROOT).addHandler(self._handler)
            logging.getLogger(_ROOT).setLevel(logging.INFO)

    def teardown(self, worker: Any) -> None:
        """Close the file."""
        if self._handler is not None:
            logging.getLogger(_ROOT).removeHandler(self._handler)
            self._handler.close()
