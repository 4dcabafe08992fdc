"""The journal of a stage: which blocks are done, and what each wrote.

One file of lines, only ever appended to::

    <crc32c> {"stage": "label", "decides": {...}}      header: what decides the result
    <crc32c> {"block": 7, "digest": "5f0c91aa", ...}   one per finished block

A block is done when its line is there, never because its chunk exists. A line that was
cut or damaged is as if it had never been written; a header that differs from what the
stage now depends on starts the stage anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import google_crc32c

from cellseg3d_dist.engine.stage import BlockRecord


class Journal:
    """Append-only record of one stage, open for one driver.

    Parameters
    ----------
    path : Path
        File of the journal; made where missing.
    stage : str
        Name of the stage.
    decides : dict
        Everything that decides the result, JSON-able. A journal on disk with another
        header is started anew.
    """

    def __init__(self, path: Path, stage: str, decides: dict[str, Any]) -> None:
        self._path = path
        self._header = json.loads(json.dumps({"stage": stage, "decides": decides}))
        self.done: set[int] = set()
        self.restarted = False
        self._open()

    def _open(self) -> None:
        lines = list(_lines(self._path)) if self._path.exists() else []
        same = bool(lines) and lines[0] == self._header
        self.restarted = bool(lines) and not same
        kept = lines[1:] if same else []
        self.done = {line["block"] for line in kept}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # written anew: a cut tail must not be glued to the next line
        self._rewrite(kept)

    def _rewrite(self, kept: Iterable[BlockRecord]) -> None:
        partial = self._path.with_name(self._path.name + ".partial")
        with partial.open("wb") as file:
            file.write(_line(self._header))
            file.writelines(_line(record) for record in kept)
        partial.replace(self._path)
        self._file: IO[bytes] = self._path.open("ab")

    def append(self, block: int, record: BlockRecord) -> None:
        """Note a finished block. It survives the death of this process from here on."""
        self._file.write(_line({"block": block, **record}))
        self._file.flush()
        self.done.add(block)

    def forget(self, blocks: set[int]) -> None:
        """Strike out blocks whose output was found damaged."""
        if blocks:
            self._file.close()
            self._rewrite([r for r in list(self.records()) if r["block"] not in blocks])
            self.done -= blocks

    def records(self) -> Iterator[BlockRecord]:
        """Every finished block's record, read from disk as it is asked for."""
        if not self._file.closed:
            self._file.flush()
        lines = _lines(self._path)
        next(lines, None)
        return lines

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def read_journal(path: Path) -> tuple[dict[str, Any] | None, list[BlockRecord]]:
    """Header and records of a journal, without opening it for writing."""
    lines = list(_lines(path)) if path.exists() else []
    return (lines[0], lines[1:]) if lines else (None, [])


def _line(content: dict[str, Any]) -> bytes:
    text = json.dumps(content, separators=(",", ":")).encode()
    return b"%08x %s\n" % (google_crc32c.value(text), text)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for i, line in enumerate(file):
            content = _checked(line)
            if content is not None:
                yield content
            elif i == 0:
                return


def _checked(line: bytes) -> dict[str, Any] | None:
    crc, _, text = line.rstrip(b"\n").partition(b" ")
    if not line.endswith(b"\n") or crc != b"%08x" % google_crc32c.value(text):
        return None
    content: dict[str, Any] = json.loads(text)
    return content
