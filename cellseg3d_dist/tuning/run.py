"""The search: open labelled images, predict once, try settings, keep the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from cellseg3d_dist.config import SegmentConfig, make_config
from cellseg3d_dist.engine.checks import check_options
from cellseg3d_dist.engine.method import Method, resolve_method
from cellseg3d_dist.engine.progress import NoProgress, Progress
from cellseg3d_dist.errors import ConfigError
from cellseg3d_dist.metrics.scores import CRITERIA, Criterion
from cellseg3d_dist.networks.cards import bundled, known
from cellseg3d_dist.tuning.grids import FRACTIONS, decoder_axes, threshold_axes
from cellseg3d_dist.tuning.labelling import Judged, Labeller, Thresholded, labellers
from cellseg3d_dist.tuning.result import Trial, TuneResult, best_threshold
from cellseg3d_dist.tuning.samples import Sample, open_samples
from cellseg3d_dist.tuning.scoring import SCORES, Score, scores_of
from cellseg3d_dist.tuning.search import Axis, Sweep, coordinate_search

#: Keys of ``segment``'s configuration that a search takes.
OPTIONS = (
    "model", "instances", "threshold", "decoder", "spot_sigma", "outline_sigma", "connectivity",
    "min_volume", "voxel_size", "channel", "time", "level", "region", "device", "batch", "threads",
    "flips",
)  # fmt: skip
#: Sweeps over all settings, at most.
MOST_SWEEPS = 6


def tune(
    images: Any,
    labels: Any,
    *,
    score: Score = "mean_f1",
    criterion: Criterion = "iou",
    sweeps: int = MOST_SWEEPS,
    progress: Progress | None = None,
    **options: Any,
) -> TuneResult:
    """Search the settings that find labelled cells best.

    Searched are threshold, sigmas and the smallest cell of ``voronoi-otsu`` and
    ``components``, or the parameters of the network's decoder. A network predicts each
    image once; only what comes after is tried again. Images are kept in memory.

    Parameters
    ----------
    images, labels : path, URL, pattern, folder, array, or a list of these
        Files are paired by name, arrays by position.
    score : {"mean_f1", "f1", "dice"}
        What is maximised, over all cells of all images together: mean of F1 at overlaps of
        0.1 to 0.9, F1 at 0.5, or the Dice of the foreground.
    criterion : {"iou", "iot", "iop"}
        The overlap: over the union, over the true or over the predicted instance.
    sweeps : int
        Over all settings, at most; the search ends when one gains nothing.
    progress : Progress, optional
        Silent by default.
    **options
        Keys of :class:`cellseg3d_dist.config.SegmentConfig`: the model, what to read, and
        where the search starts.

    Raises
    ------
    ConfigError
        If images and labels do not fit each other, hold no cell or are too large, or an
        option cannot be used.
    WeightsError
        If the model cannot be used.

    Examples
    --------
    >>> result = tune("crop.tif", "crop_labels.tif", voxel_size=(2, 1, 1))  # doctest: +SKIP
    >>> result.write(Path("tuned.yaml"))  # doctest: +SKIP
    """
    progress = progress or NoProgress()
    _check(score, criterion, sweeps, options)
    given = {key: value for key, value in options.items() if value is not None}
    method = resolve_method(make_config({"image": "<memory>"} | given).located(known()))
    samples = open_samples(method.config, images, labels)
    for sample in samples:
        check_options(method.config, sample.image)
    found: Sequence[Labeller] = labellers(method, samples, progress)
    judged = [Judged(one, s.labels) for one, s in zip(found, samples, strict=True)]
    curve: tuple[tuple[float, float], ...] = ()
    if method.decodes:
        axes = decoder_axes(method)
    else:
        thresholded = cast(list[Thresholded], found)
        axes = threshold_axes(method, samples, thresholded)
        if method.network is not None:
            curve = dice_curve([one.source for one in thresholded], [s.labels for s in samples])
    trials = _Trials(judged, score, criterion, progress, sum(s.n_voxels for s in samples))
    default = {axis.name: axis.default for axis in axes}
    best = _searched(axes, default, curve, trials, sweeps)
    return TuneResult(
        best=trials.get(best),
        default=trials.get(default),
        trials=tuple(sorted(trials.all(), key=lambda trial: -trial.scores.of(score))),
        config=_as_config(method, best),
        score=score,
        criterion=criterion,
        axes=tuple(axes),
        dice_curve=curve,
        n_images=len(samples),
        n_cells=sum(_n_cells(sample) for sample in samples),
    )


def _check(score: str, criterion: str, sweeps: int, options: dict[str, Any]) -> None:
    for name, value, names in (("score", score, SCORES), ("criterion", criterion, CRITERIA)):
        if value not in names:
            raise ConfigError(f"{name} {value!r} is unknown. Use one of {', '.join(names)}.")
    if sweeps < 1:
        raise ConfigError(f"sweeps {sweeps} must be at least 1.")
    for key in options:
        if key not in OPTIONS:
            raise ConfigError(f"tune has no option {key!r}; known are {', '.join(OPTIONS)}.")


class _Trials:
    """Scores of settings, each worked out once."""

    def __init__(
        self,
        judged: Sequence[Judged],
        score: Score,
        criterion: Criterion,
        progress: Progress,
        n_voxels: int,
    ) -> None:
        self._judged, self._score, self._criterion = judged, score, criterion
        self._progress, self._n_voxels = progress, n_voxels
        self._found: dict[tuple[Any, ...], Trial] = {}
        self._sweeping = False

    def get(self, settings: dict[str, Any]) -> Trial:
        key = tuple(settings.items())
        if key not in self._found:
            tables = [one.table(settings) for one in self._judged]
            self._found[key] = Trial(dict(settings), scores_of(tables, self._criterion))
        return self._found[key]

    def value(self, settings: dict[str, Any]) -> float:
        return self.get(settings).scores.of(self._score)

    def score_of(self, settings: dict[str, Any]) -> float:
        known = len(self._found)
        score = self.value(settings)
        self._progress.advance(self._n_voxels if len(self._found) > known else 0)
        return score

    def begin(self, sweep: Sweep) -> None:
        self.end()
        self._progress.start(f"sweep {sweep.number}", sweep.n_trials, 0)
        self._sweeping = True

    def end(self) -> None:
        if self._sweeping:
            self._progress.finish()
            self._sweeping = False

    def all(self) -> list[Trial]:
        return list(self._found.values())


def _searched(
    axes: Sequence[Axis],
    default: dict[str, Any],
    curve: tuple[tuple[float, float], ...],
    trials: _Trials,
    sweeps: int,
) -> dict[str, Any]:
    """The best settings, from the default or from the threshold of the highest Dice."""
    start = default
    by_dice = best_threshold(curve)
    (threshold, *_) = axes
    if by_dice is not None and by_dice in threshold.values:
        other = default | {threshold.name: by_dice}
        # of equals the first
        start = max((default, other), key=trials.value)
    best = coordinate_search(axes, start, trials.score_of, sweeps, trials.begin)
    trials.end()
    return best


def dice_curve(
    foregrounds: Sequence[npt.NDArray[np.uint8]], labels: Sequence[npt.NDArray[Any]]
) -> tuple[tuple[float, float], ...]:
    """Dice of voxels above each threshold from 0 to 1 in steps of 0.05.

    Parameters
    ----------
    foregrounds : sequence of ndarray, uint8
        255 is 1.
    labels : sequence of ndarray
        Of the same shapes; cells are above 0.
    """
    # voxels of each stored value: all, and those in cells
    counts = np.zeros((2, 256), np.int64)
    for foreground, truth in zip(foregrounds, labels, strict=True):
        counts[0] += np.bincount(foreground.ravel(), minlength=256)
        counts[1] += np.bincount(foreground[truth > 0], minlength=256)
    values = np.arange(256)
    curve = []
    for threshold in FRACTIONS:
        n_found, n_right = (int(row[values > threshold * 255].sum()) for row in counts)
        total = n_found + int(counts[1].sum())
        curve.append((threshold, 2 * n_right / total if total else 0.0))
    return tuple(curve)


def _as_config(method: Method, best: dict[str, Any]) -> dict[str, Any]:
    """The best settings as keys of a config file, with what else decides."""
    config: SegmentConfig = method.config
    found: dict[str, Any] = {"model": _model(method), "instances": config.instances}
    if config.instances == "components":
        found["connectivity"] = config.connectivity
    if config.flips:
        found["flips"] = True
    if method.decodes:
        fixed = {k: v for k, v in asdict(method.parameters).items() if isinstance(v, int | float)}
        return found | {"decoder": fixed | best}
    return found | {key: value for key, value in best.items() if value is not None}


def _model(method: Method) -> str:
    """A name that means the same in any working folder."""
    model = method.config.model
    if method.network is None or model in bundled() or model.startswith("hub:"):
        return model
    return method.network.weights


def _n_cells(sample: Sample) -> int:
    return int(np.count_nonzero(np.unique(sample.labels)))
