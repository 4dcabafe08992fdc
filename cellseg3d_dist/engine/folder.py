"""The run folder OUT: who may create, replace, resume and write to it.

::

    OUT/run.yaml            resolved configuration
    OUT/run.json            status, versions, input fingerprint, results, timings; our marker
    OUT/journal/            one file per stage
    OUT/work/               fragments and records while the run goes on
    OUT/labels.ome.zarr     OUT/cells.parquet     OUT/report.html     OUT/logs/
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cellseg3d_dist.errors import EnvironmentFailedError, OutputError

PROGRAM = "cellseg3d_dist"


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run and its status file."""

    path: Path

    @property
    def config(self) -> Path:
        """Resolved configuration."""
        return self.path / "run.yaml"

    @property
    def status_file(self) -> Path:
        """Status and results."""
        return self.path / "run.json"

    @property
    def work(self) -> Path:
        """Intermediate data, removed once the run is complete."""
        return self.path / "work"

    @property
    def labels(self) -> Path:
        """The label image."""
        return self.path / "labels.ome.zarr"

    @property
    def cells(self) -> Path:
        """The cell table."""
        return self.path / "cells.parquet"

    @property
    def logs(self) -> Path:
        """Log files of the driver and the workers."""
        return self.path / "logs"

    def journal(self, stage: str) -> Path:
        """Journal of a stage."""
        return self.path / "journal" / f"{stage}.jsonl"

    def status(self) -> dict[str, Any]:
        """Content of ``run.json``.

        Raises
        ------
        OutputError
            If this is not the folder of a run.
        """
        try:
            content = json.loads(self.status_file.read_text())
        except (OSError, ValueError) as error:
            raise OutputError(
                f"{self.path} is not the output of a run: no readable run.json ({_short(error)})."
            ) from error
        if not isinstance(content, dict) or content.get("program") != PROGRAM:
            raise OutputError(f"{self.path} is not the output of a run of {PROGRAM}.")
        return content

    def write_status(self, status: dict[str, Any]) -> None:
        """Replace ``run.json``, whole or not at all."""
        partial = self.status_file.with_name("run.json.partial")
        with naming_disk_errors(self.path):
            partial.write_text(json.dumps({"program": PROGRAM, **status}, indent=1) + "\n")
            partial.replace(self.status_file)

    def update_status(self, **changes: Any) -> None:
        """Change some keys of ``run.json``."""
        self.write_status(self.status() | changes)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for one driver; the lock falls with the process that holds it.

        Raises
        ------
        EnvironmentFailedError
            If another driver is at work on it.
        """
        with naming_disk_errors(self.path):
            file = (self.path / ".lock").open("a+")
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.seek(0)
                raise EnvironmentFailedError(
                    f"{self.path} is in use by another run ({file.read().strip() or 'unknown'}). "
                    f"Wait for it to end, or stop it and resume."
                ) from error
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
            yield


@contextlib.contextmanager
def naming_disk_errors(path: Path) -> Iterator[None]:
    """Turn an error of the disk into one line that names the path and how to go on."""
    try:
        yield
    except OSError as error:
        raise EnvironmentFailedError(
            f"{error.filename or path}: {error.strerror or error}. Free space or fix access, "
            f"then resume with: cellseg3d-dist resume {path}"
        ) from error


def check_new_output(out: Path, inputs: list[str], overwrite: bool) -> None:
    """Refuse an output folder that must not be created or replaced; nothing is changed.

    Raises
    ------
    OutputError
        If it exists (unless it is an earlier run and ``overwrite``), lies in, around or on
        an input, or is a link, a mount point, the home or the working folder.
    """
    real = out.resolve()
    for text in inputs:
        if "://" in text:
            continue
        given = Path(text).resolve()
        if real == given or given in real.parents or real in given.parents:
            relation = "is" if real == given else "lies in" if given in real.parents else "holds"
            raise OutputError(f"output {out} {relation} the input {text}. Choose another folder.")
    if not out.exists() and not out.is_symlink():
        ancestor = next(parent for parent in (out, *out.absolute().parents) if parent.exists())
        if not ancestor.is_dir():
            raise OutputError(f"output {out} cannot be created: {ancestor} is a file.")
        if not os.access(ancestor, os.W_OK):
            raise OutputError(f"output {out} cannot be created: {ancestor} is not writable.")
        return
    if out.is_symlink():
        raise OutputError(f"output {out} is a link. Give the folder it points to, or another.")
    if not out.is_dir():
        raise OutputError(f"output {out} exists and is a file. Choose another folder.")
    if os.path.ismount(real) or real in {Path("/"), Path.home().resolve(), Path.cwd().resolve()}:
        raise OutputError(f"output {out} is a mount point, the home or the working folder.")
    if not any(out.iterdir()):
        return
    try:
        RunFolder(out).status()
    except OutputError:
        raise OutputError(
            f"output {out} is not empty and not the output of an earlier run. Choose another."
        ) from None
    if not overwrite:
        raise OutputError(
            f"output {out} exists. Use 'cellseg3d-dist resume {out}' to go on with it, "
            f"or --overwrite to replace it."
        )


def create_output(out: Path, overwrite: bool) -> RunFolder:
    """Make the folder, replacing an earlier run where that was checked and asked for."""
    folder = RunFolder(out.absolute())
    with naming_disk_errors(out):
        if overwrite and folder.status_file.exists():
            folder.status()
            with folder.locked():
                shutil.rmtree(out)
        for path in (folder.path, folder.logs, folder.work, folder.path / "journal"):
            path.mkdir(parents=True, exist_ok=True)
    return folder


def _short(error: BaseException) -> str:
    return getattr(error, "strerror", None) or " ".join(str(error).split())
