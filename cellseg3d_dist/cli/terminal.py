"""What commands share with the terminal: a progress bar, and the line they were called by."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def progress_bar() -> Iterator[Any]:
    """Shows stages and blocks on a terminal."""
    from cellseg3d_dist.engine.progress import TerminalProgress

    with TerminalProgress() as progress:
        yield progress


def command_line() -> str:
    """The line this program was called by."""
    return shlex.join(["cellseg3d-dist", *sys.argv[1:]])
