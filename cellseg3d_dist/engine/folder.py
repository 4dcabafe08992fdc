"""The run folder OUT: who may create, replace, resume and write to it.

::

    OUT/run.yaml            resolved configuration
    OUT/run.json            status, versions, input fingerprint, results, timings; our marker
    OUT/journal/            one file per stage
    OUT/work/               fragments and records while the run goes on
    OUT/prediction.ome.zarr what a network predicted; OUT/peaks of sparse candidates
    OUT/surveys/            small results of the whole image, for runs that label it again
    OUT/labels.ome.zarr     OUT/cells.parquet     OUT/report.html     OUT/logs/
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shlex
import shutil
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cellseg3d_dist.errors import EnvironmentFailedError, OutputError
from cellseg3d_dist.paths import absolute_path

PROGRAM = "cellseg3d_dist"


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run and its status file.

    Attributes
    ----------
    same_command : bool
        Whether an interrupted run goes on when its command is given again, not by resume.
    part_of : Path or None
        The run folder of all time points, where this is one of them.
    """

    path: Path
    same_command: bool = False
    part_of: Path | None = None

    @property
    def go_on(self) -> str:
        """How a user goes on after an interruption, to end a sentence with."""
        if self.same_command:
            return "give the same command again"
        return f"resume with: cellseg3d-dist resume {shlex.quote(str(self.part_of or self.path))}"

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
    def prediction(self) -> Path:
        """What a network predicted."""
        return self.path / "prediction.ome.zarr"

    @property
    def peaks(self) -> Path:
        """Sparse candidates of the prediction, where its representation has such."""
        return self.path / "peaks"

    @property
    def surveys(self) -> Path:
        """Small results of the whole image."""
        return self.path / "surveys"

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
        except (OSError, ValueError, RecursionError) as error:
            raise OutputError(
                f"{self.path} is not the output of a run: no readable run.json ({_short(error)})."
            ) from error
        if not isinstance(content, dict) or content.get("program") != PROGRAM:
            raise OutputError(f"{self.path} is not the output of a run of {PROGRAM}.")
        if not isinstance(content.get("status"), str):
            raise OutputError(f"{self.status_file} has no status; it was edited. Start anew.")
        return content

    def write_status(self, status: dict[str, Any]) -> None:
        """Replace ``run.json``, whole or not at all."""
        partial = self.status_file.with_name("run.json.partial")
        with naming_disk_errors(self):
            partial.write_text(json.dumps({"program": PROGRAM, **status}, indent=1) + "\n")
            partial.replace(self.status_file)

    def update_status(self, **changes: Any) -> None:
        """Change some keys of ``run.json``."""
        self.write_status(self.status() | changes)

    def disk_use(self) -> dict[str, dict[str, int]]:
        """Bytes in files, and files, of each part of this folder; of a lone file, its own."""
        with os.scandir(self.path) as entries:
            return {entry.name: _size_below(entry) for entry in entries}

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for one driver; the lock falls with the process that holds it.

        Raises
        ------
        EnvironmentFailedError
            If another driver is at work on it.
        """
        with naming_disk_errors(self):
            file = (self.path / ".lock").open("a+")
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.seek(0)
                raise EnvironmentFailedError(
                    f"{self.path} is in use by another run ({file.read().strip() or 'unknown'}). "
                    f"Wait for it to end, or stop it and go on."
                ) from error
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
            yield


@contextlib.contextmanager
def naming_disk_errors(folder: RunFolder) -> Iterator[None]:
    """Turn an error of the disk into one line that names the path and how to go on."""
    try:
        yield
    except OSError as error:
        raise EnvironmentFailedError(
            f"{error.filename or folder.path}: {error.strerror or error}. Free space or fix "
            f"access, then {folder.go_on}"
        ) from error


def check_new_output(out: Path, inputs: Iterable[str], overwrite: bool) -> None:
    """Refuse an output folder that must not be created or replaced; nothing is changed.

    Raises
    ------
    OutputError
        If it exists (unless it is an earlier run and ``overwrite``), lies in, around or on
        an input, or is a link, a mount point, or is or holds the home or working folder.
    """
    with _naming_lookups(out):
        check_apart(out, inputs)
        if not out.exists() and not out.is_symlink():
            check_creatable(out)
            return
        _check_replaceable(out)
        if not any(out.iterdir()):
            return
        _check_ours(out)
    if not overwrite:
        raise OutputError(
            f"output {out} exists. To go on with it, {RunFolder(out).go_on}; "
            f"--overwrite replaces it."
        )


@contextlib.contextmanager
def _naming_lookups(out: Path) -> Iterator[None]:
    try:
        yield
    # a loop of links is a RuntimeError
    except (OSError, RuntimeError) as error:
        raise OutputError(f"output {out} cannot be used: {_short(error)}.") from error


def check_apart(out: Path, inputs: Iterable[str]) -> None:
    """Refuse an output that is, lies in or holds an input.

    Raises
    ------
    OutputError
        With both.
    """
    with _naming_lookups(out):
        real = out.resolve()
        for text in inputs:
            if "://" in text:
                continue
            given = absolute_path(text).resolve()
            if real == given or given in real.parents or real in given.parents:
                how = "is" if real == given else "lies in" if given in real.parents else "holds"
                raise OutputError(f"output {out} {how} the input {text}. Choose another folder.")


def check_creatable(out: Path) -> None:
    """Refuse a path, of which nothing exists yet, that cannot be made.

    Raises
    ------
    OutputError
        With the parent that is in the way.
    """
    with _naming_lookups(out):
        name_limit = 255
        if len(os.fsencode(out.name)) > name_limit:
            raise OutputError(f"output {out} has a name of over {name_limit} bytes. Shorten it.")
        ancestor = next(parent for parent in out.absolute().parents if parent.exists())
        if not ancestor.is_dir():
            raise OutputError(f"output {out} cannot be created: {ancestor} is a file.")
        if not os.access(ancestor, os.W_OK | os.X_OK):
            raise OutputError(f"output {out} cannot be created: {ancestor} is not writable.")


def _check_replaceable(out: Path) -> None:
    if out.is_symlink():
        raise OutputError(f"output {out} is a link. Give the folder it points to, or another.")
    if not out.is_dir():
        raise OutputError(f"output {out} exists and is a file. Choose another folder.")
    real = out.resolve()
    if os.path.ismount(real):
        raise OutputError(f"output {out} is a mount point. Choose a folder in it.")
    for name, folder in (("home", Path.home()), ("working", Path.cwd())):
        if real == folder.resolve() or real in folder.resolve().parents:
            raise OutputError(f"output {out} is or holds the {name} folder. Choose another.")


def _check_ours(out: Path) -> None:
    try:
        RunFolder(out).status()
    except OutputError:
        raise OutputError(
            f"output {out} is not empty and not the output of an earlier run. Choose another."
        ) from None


def create_output(out: Path, overwrite: bool, status: dict[str, Any]) -> RunFolder:
    """Make the folder, replacing an earlier run where that was checked and asked for.

    ``run.json`` is its first file, so that a folder left by a kill is known as ours.
    """
    folder = RunFolder(out.absolute())
    with naming_disk_errors(folder):
        if overwrite and folder.status_file.exists():
            folder.status()
            with folder.locked():
                shutil.rmtree(out)
        folder.path.mkdir(parents=True, exist_ok=True)
        folder.write_status(status)
        for path in (folder.logs, folder.work, folder.path / "journal"):
            path.mkdir(exist_ok=True)
    return folder


def _size_below(top: os.DirEntry[str]) -> dict[str, int]:
    n_bytes, files, pending = 0, 0, [top]
    while pending:
        entry = pending.pop()
        # another process may be at work in its scratch folder
        with contextlib.suppress(FileNotFoundError):
            if entry.is_dir(follow_symlinks=False):
                with os.scandir(entry.path) as inside:
                    pending.extend(inside)
            else:
                n_bytes += entry.stat(follow_symlinks=False).st_size
                files += 1
    return {"bytes": n_bytes, "files": files}


def _short(error: BaseException) -> str:
    return getattr(error, "strerror", None) or " ".join(str(error).split())
