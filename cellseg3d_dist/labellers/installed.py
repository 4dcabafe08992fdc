"""Programs of others that labellers call: imported where one is asked for, and told apart."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from types import ModuleType

from cellseg3d_dist.errors import ConfigError


def program(module: str, packages: str) -> ModuleType:
    """Import a module of an installed program.

    Raises
    ------
    ConfigError
        If it, or what it needs, is not installed, with the command that does.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        raise ConfigError(
            f"labeller {name} needs the program of that name, which cannot be imported "
            f"({error}). Install it: pip install {packages}"
        ) from error


def versions_of(*packages: str) -> dict[str, str]:
    """Installed versions; packages that are not there are left out."""
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def files_digest(paths: Iterable[Path]) -> str:
    """Checksum (sha256) over files' names and bytes, whatever their order."""
    total = hashlib.sha256()
    for path in sorted(paths):
        total.update(path.name.encode())
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()
