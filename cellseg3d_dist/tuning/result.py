"""What a search found: the best settings, what else was tried, and a config file of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

import cellseg3d_dist
from cellseg3d_dist.errors import EnvironmentFailedError, OutputError
from cellseg3d_dist.paths import absolute_path
from cellseg3d_dist.tuning.curve import draw
from cellseg3d_dist.tuning.scoring import Score, Scores
from cellseg3d_dist.tuning.search import Axis

#: Settings that the table shows.
SHOWN = 10


@dataclass(frozen=True)
class Trial:
    """Settings that were tried, by name, and what they are worth."""

    settings: Mapping[str, Any]
    scores: Scores


@dataclass(frozen=True)
class TuneResult:
    """What a search found.

    Attributes
    ----------
    best, default : Trial
        The best settings, and those that the search was given to start at.
    trials : tuple of Trial
        All that were tried, the best first; of equals, what was tried first.
    config : dict
        The best as keys of ``segment``'s configuration.
    score : str
        What was maximised: ``mean_f1``, ``f1`` or ``dice``.
    criterion : str
        Overlap that F1 is of: ``iou``, ``iot`` or ``iop``.
    axes : tuple of Axis
        What was searched.
    dice_curve : tuple of (float, float)
        Of a network's foreground: Dice above each threshold, nothing smoothed.
    n_images, n_cells : int
        Of the labels.
    """

    best: Trial
    default: Trial
    trials: tuple[Trial, ...]
    config: dict[str, Any]
    score: Score
    criterion: str
    axes: tuple[Axis, ...]
    dice_curve: tuple[tuple[float, float], ...]
    n_images: int
    n_cells: int

    @property
    def gain(self) -> float:
        """Of the score, over the settings that the search was given."""
        return self.best.scores.of(self.score) - self.default.scores.of(self.score)

    @property
    def dice_threshold(self) -> float | None:
        """The threshold of the highest Dice, the lowest of equals; None where nothing has one."""
        return best_threshold(self.dice_curve)

    def to_yaml(self) -> str:
        """A file for ``segment --config``, with the scores as comments."""
        images = "1 image" if self.n_images == 1 else f"{self.n_images} images"
        said = [
            f"found by cellseg3d-dist {cellseg3d_dist.__version__} tune: the highest "
            f"{self.score} of {len(self.trials)} settings",
            f"on {images} with {self.n_cells} labelled cells; overlap: {self.criterion}",
            *self._comparison(),
        ]
        written: str = yaml.safe_dump(self.config, sort_keys=False)
        return "".join(f"# {line}\n" for line in said) + written

    def _comparison(self) -> Iterator[str]:
        before, after = asdict(self.default.scores), asdict(self.best.scores)
        yield f"{'':<8} {'tuned':>8} {'before':>8}"
        for name, value in after.items():
            digits = "d" if isinstance(value, int) else ".4f"
            yield f"{name:<8} {value:>8{digits}} {before[name]:>8{digits}}"

    def lines(self) -> Iterator[str]:
        """The best settings tried as a table, and the gain."""
        names = [axis.name for axis in self.axes]
        rows = [("", "mean_f1", "f1", "dice", "cells", *names)]
        shown = [(str(i + 1), trial) for i, trial in enumerate(self.trials[:SHOWN])]
        for place, trial in [*shown, ("before", self.default)]:
            scores = trial.scores
            rows.append(
                (
                    place, f"{scores.mean_f1:.4f}", f"{scores.f1:.4f}", f"{scores.dice:.4f}",
                    str(scores.cells), *(_short(trial.settings[name]) for name in names),
                )
            )  # fmt: skip
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            yield "  ".join(f"{cell:>{n}}" for cell, n in zip(row, widths, strict=True))
        if self.dice_threshold is not None:
            dice = dict(self.dice_curve)[self.dice_threshold]
            yield f"foreground alone: Dice {dice:.4f} above {self.dice_threshold:g}"
        after, before = self.best.scores.of(self.score), self.default.scores.of(self.score)
        tried = f"{len(self.trials)} settings tried"
        yield f"{self.score} {after:.4f}, {self.gain:+.4f} over {before:.4f}; {tried}"

    def picture(self) -> bytes:
        """PNG: the highest score seen at each value of each setting."""
        panels = []
        for axis in self.axes:
            best: dict[Any, float] = {}
            for trial in self.trials:
                value = trial.settings[axis.name]
                best[value] = max(best.get(value, 0.0), trial.scores.of(self.score))
            points = [(_short(v), best[v]) for v in axis.values if v in best]
            found = _short(self.best.settings[axis.name])
            panels.append((axis.name, points, found, _short(axis.default)))
        return draw(panels, self.score)

    def write(self, path: Path, picture: Path | None = None) -> None:
        """Write the config file and, if asked for, the picture.

        Raises
        ------
        EnvironmentFailedError
            If they cannot be written.
        """
        write_whole(path, self.to_yaml().encode())
        if picture is not None:
            write_whole(picture, self.picture())


def new_files(out: str | Path, overwrite: bool) -> tuple[Path, Path]:
    """Where a config file and its picture go.

    Raises
    ------
    OutputError
        If the folder is not there, or a file is and may not be replaced.
    """
    config = absolute_path(out)
    picture = config.with_suffix(".png")
    if config.suffix not in (".yaml", ".yml"):
        raise OutputError(f"{config} must end in .yaml; its picture takes the same name with .png.")
    if not config.parent.is_dir():
        raise OutputError(f"{config}: there is no folder {config.parent}. Create it first.")
    for path in (config, picture):
        if path.is_dir() or (path.exists() and not overwrite):
            raise OutputError(f"{path} exists. Give another name, or --overwrite.")
    return config, picture


def best_threshold(curve: tuple[tuple[float, float], ...]) -> float | None:
    """Where a curve of (threshold, score) is highest, the lowest of equals."""
    return max(curve, key=lambda point: (point[1], -point[0]))[0] if curve else None


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is there as a whole or not at all.

    Raises
    ------
    EnvironmentFailedError
        If it cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise EnvironmentFailedError(f"{path} cannot be written: {error.strerror}.") from error


def _short(value: Any) -> str:
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
