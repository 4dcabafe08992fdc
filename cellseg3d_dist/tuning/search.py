"""Coordinate search over grids of values: one line after the other, until none gains."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: Steps of the grid to each side of the best that later sweeps look at.
NEAR = 2


@dataclass(frozen=True)
class Axis:
    """The values that one setting may have, in order.

    Attributes
    ----------
    values : tuple
        Each once; ``default`` is one of them.
    """

    name: str
    values: tuple[Any, ...]
    default: Any

    def near(self, value: Any) -> tuple[Any, ...]:
        """Values within :data:`NEAR` steps of one of them."""
        at = self.values.index(value)
        return self.values[max(0, at - NEAR) : at + NEAR + 1]

    def steps_from_default(self, value: Any) -> int:
        """Steps of the grid between a value and the default."""
        return abs(self.values.index(value) - self.values.index(self.default))


@dataclass(frozen=True)
class Sweep:
    """Lines of one sweep: for each axis the values that it tries."""

    number: int
    n_trials: int


def coordinate_search(
    axes: Sequence[Axis],
    start: Mapping[str, Any],
    score_of: Callable[[dict[str, Any]], float],
    most_sweeps: int,
    on_sweep: Callable[[Sweep], None] | None = None,
) -> dict[str, Any]:
    """The best settings found.

    The first sweep tries every value of every axis, the others as they are best so far;
    later ones the values near the best, until a sweep gains nothing. Of values with equal
    scores, the nearest to the default is taken, and of two such the first.

    Parameters
    ----------
    axes : sequence of Axis
        In the order in which they are tried.
    start : mapping
        A value of each axis.
    score_of : callable
        To be maximised; may be asked for the same settings more than once.
    most_sweeps : int
        At least 1.
    on_sweep : callable, optional
        Told of each sweep before it begins.
    """
    best = dict(start)
    score = score_of(best)
    for number in range(most_sweeps):
        before = score
        if on_sweep is not None:
            lines = [axis.values if number == 0 else axis.near(best[axis.name]) for axis in axes]
            on_sweep(Sweep(number + 1, sum(map(len, lines))))
        for axis in axes:
            line = axis.values if number == 0 else axis.near(best[axis.name])
            scores = [score_of(best | {axis.name: value}) for value in line]
            score = max(scores)
            tied = [value for value, one in zip(line, scores, strict=True) if one == score]
            best[axis.name] = min(tied, key=axis.steps_from_default)
        if score == before:
            break
    return best
