"""Paths as users give them."""

from __future__ import annotations

import re
from pathlib import Path

from cellseg3d_dist.errors import BadInputError


def absolute_path(given: str | Path) -> Path:
    """The path, absolute and with ``~`` resolved; nothing is looked up on disk.

    Raises
    ------
    BadInputError
        If it is a URL or empty, holds a NUL, is not valid UTF-8 (reports and tables could not
        name it), or names an unknown user's home.
    """
    text = str(given)
    # pathlib drops the second slash
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", text):
        raise BadInputError(f"{text!r} is a URL; a path on this machine is needed.")
    if not text or "\0" in text:
        raise BadInputError(f"{text!r} is not a path.")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadInputError(f"path {text!r} is not valid UTF-8. Rename it.") from None
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError as error:
        raise BadInputError(f"path {text!r} cannot be resolved: {error}") from error
    except OSError as error:
        raise BadInputError(f"path {text!r} needs a working folder: {error.strerror}.") from error
