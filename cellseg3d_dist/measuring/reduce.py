"""Merge the statistics of all blocks in bounded memory, one range of labels at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from cellseg3d_dist.measuring.partial import PartialCells, merge

Source = Callable[[], PartialCells]
"""Reads the statistics of one block, rows sorted by label."""

Span = tuple[int, int]
"""First and last label of a source; (0, 0) when it has none."""


def span(partial: PartialCells) -> Span:
    """First and last label of these statistics, (0, 0) for no row."""
    if partial.n_rows == 0:
        return (0, 0)
    return int(partial.label[0]), int(partial.label[-1])


def reduce_partials(
    sources: Sequence[Source],
    n_labels: int,
    max_rows: int,
    *,
    spans: Sequence[Span] | None = None,
    n_channels: int = 0,
) -> Iterator[PartialCells]:
    """Whole cells, range after range of labels, from the pieces of all blocks.

    Labels are numbered along the volume, so a range meets the sources of few blocks and
    each source is read about once per range its span touches.

    Parameters
    ----------
    sources : sequence of callables
        One per block.
    n_labels : int
        Labels are 1..n_labels.
    max_rows : int
        Labels per range. At most about three times as many rows, and one source, are in
        memory at a time.
    spans : sequence of (first, last), optional
        Of each source, where known; otherwise each source is read once to find it.
    n_channels : int
        Channels of the empty result when there is nothing to read.

    Yields
    ------
    PartialCells
        In ascending label order; ranges without a cell are left out, unless there is no
        cell at all, when one empty result tells the reader so.
    """
    if max_rows < 1:
        raise ValueError(f"max_rows {max_rows} must be at least 1")
    if spans is None:
        spans = [span(source()) for source in sources]
    found = False
    for first in range(1, n_labels + 1, max_rows):
        last = min(first + max_rows - 1, n_labels)
        met = [
            source
            for source, (low, high) in zip(sources, spans, strict=True)
            if low <= last and high >= first
        ]
        merged = _merge_range(met, first, last, max_rows)
        if merged is not None and merged.n_rows:
            found = True
            yield merged
    if not found:
        yield PartialCells.empty(n_channels)


def _merge_range(
    sources: Sequence[Source], first: int, last: int, max_rows: int
) -> PartialCells | None:
    """Merge the rows of one label range, folding whenever they pile up."""
    pieces: list[PartialCells] = []
    n_rows = 0
    for source in sources:
        piece = source().between(first, last)
        # a copy, as a view would keep the whole source in memory
        piece = PartialCells(**{name: a.copy() for name, a in piece.to_arrays().items()})
        pieces.append(piece)
        n_rows += piece.n_rows
        if n_rows > 2 * max_rows:
            pieces = [merge(pieces)]
            n_rows = pieces[0].n_rows
    return merge(pieces) if pieces else None
