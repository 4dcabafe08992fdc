"""Which values are compared: common thresholds and images, and the groups that are tested."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Literal, cast, get_args

from cellseg3d_dist.comparison.prediction import Prediction
from cellseg3d_dist.errors import BadInputError, ConfigError
from cellseg3d_dist.metrics.scores import CRITERIA
from cellseg3d_dist.metrics.statistics import LEAST
from cellseg3d_dist.report.text import plural

#: What a value of a method is: the mean F1 of an image; the F1 of the whole at a threshold; the
#: F1 of each image at each threshold.
By = Literal["image", "threshold", "both"]


@dataclass(frozen=True)
class Basis:
    """What predictions are compared by.

    Attributes
    ----------
    predictions : tuple of Prediction
    criterion : str
        Overlap of the matching: ``iou``, ``iot`` or ``iop``.
    thresholds : tuple of float
        That all predictions have, ascending.
    images : tuple of str
        Images that all predictions have and that hold true cells; empty where scores are of one
        image each.
    by : 'image', 'threshold' or 'both'
        What a value of the tests is.
    notes : tuple of str
        What was left out, and what differs.
    """

    predictions: tuple[Prediction, ...]
    criterion: str
    thresholds: tuple[float, ...]
    images: tuple[str, ...]
    by: By
    notes: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Of the predictions."""
        return tuple(prediction.name for prediction in self.predictions)

    def curves(self, prediction: Prediction) -> list[list[float]]:
        """F1 of each image (rows) at each threshold."""
        images = (prediction.image(name) for name in self.images)
        return [image.f1(self.criterion, self.thresholds) for image in images]

    def groups(self) -> dict[str, list[float]]:
        """Values of each prediction that are tested."""
        return {prediction.name: self._values(prediction) for prediction in self.predictions}

    def _values(self, prediction: Prediction) -> list[float]:
        if self.by == "threshold":
            return prediction.whole.f1(self.criterion, self.thresholds)
        curves = self.curves(prediction)
        if self.by == "image":
            return [sum(curve) / len(curve) for curve in curves]
        return [value for curve in curves for value in curve]


def choose_basis(
    predictions: Sequence[Prediction], by: str | None = None, criterion: str = "iou"
) -> Basis:
    """What these predictions can be compared by.

    Parameters
    ----------
    predictions : sequence of Prediction
    by : 'image', 'threshold' or 'both', optional
        By default images, where there are three that all predictions have, else thresholds.
    criterion : 'iou', 'iot' or 'iop'

    Raises
    ------
    ConfigError
        If one of them is unknown.
    BadInputError
        If no threshold, or no image where images were asked for, is scored for all.
    """
    if criterion not in CRITERIA:
        raise ConfigError(f"criterion {criterion!r} must be one of {', '.join(CRITERIA)}.")
    if by is not None and by not in get_args(By):
        raise ConfigError(f"by {by!r} must be one of {', '.join(get_args(By))}.")
    thresholds = _common_thresholds(predictions, criterion)
    shared = _common_images(predictions)
    images = tuple(name for name in shared if _holds_cells(predictions, name))
    if by in ("image", "both") and not images:
        raise BadInputError(_no_images(predictions, shared, by))
    chosen = by or ("image" if len(images) >= LEAST else "threshold")
    notes = (
        *_threshold_notes(predictions, criterion, thresholds),
        *_image_notes(predictions, shared, images),
        *_truth_notes(predictions),
    )
    return Basis(tuple(predictions), criterion, thresholds, images, cast(By, chosen), notes)


def _common_thresholds(predictions: Sequence[Prediction], criterion: str) -> tuple[float, ...]:
    scored = [_thresholds(prediction, criterion) for prediction in predictions]
    for prediction, found in zip(predictions, scored, strict=True):
        if not found:
            has = sorted({key[0] for key in prediction.whole.values if key[1] is not None})
            only = f", only by {', '.join(has)}" if has else ""
            raise BadInputError(
                f"{prediction.name!r} ({prediction.source}) has no F1 by {criterion}{only}. "
                f"Give another criterion, or score it again with evaluate."
            )
    common = reduce(lambda a, b: a & b, map(set, scored))
    if not common:
        listed = "; ".join(
            f"{p.name!r} {', '.join(f'{t:g}' for t in found)}"
            for p, found in zip(predictions, scored, strict=True)
        )
        raise BadInputError(
            f"No {criterion} threshold is scored for all predictions: {listed}. "
            f"Score them again with the same thresholds."
        )
    return tuple(sorted(common))


def _thresholds(prediction: Prediction, criterion: str) -> set[float]:
    """What the whole and all images have."""
    parts = (prediction.whole, *prediction.images)
    return reduce(lambda a, b: a & b, (set(part.thresholds(criterion)) for part in parts))


def _common_images(predictions: Sequence[Prediction]) -> tuple[str, ...]:
    names = [{image.name for image in prediction.images} for prediction in predictions]
    common = reduce(lambda a, b: a & b, names)
    return tuple(image.name for image in predictions[0].images if image.name in common)


def _holds_cells(predictions: Sequence[Prediction], name: str) -> bool:
    return all(prediction.image(name).n_true != 0 for prediction in predictions)


def _no_images(predictions: Sequence[Prediction], shared: Sequence[str], by: str) -> str:
    without = [prediction.name for prediction in predictions if not prediction.images]
    if without:
        why = f"{without[0]!r} is scored as a whole, without single images"
    elif shared:
        why = "no image holds true cells"
    else:
        why = "no image is scored for all predictions"
    return f"There is nothing to compare by {by}: {why}. Compare by threshold."


def _threshold_notes(
    predictions: Sequence[Prediction], criterion: str, common: Sequence[float]
) -> Iterator[str]:
    every = {t for p in predictions for t in p.whole.thresholds(criterion)}
    dropped = sorted(every - set(common))
    if dropped:
        listed = ", ".join(f"{t:g}" for t in dropped)
        yield f"Thresholds that not all predictions have are left out: {listed}."


def _image_notes(
    predictions: Sequence[Prediction], shared: Sequence[str], images: Sequence[str]
) -> Iterator[str]:
    every = {image.name for prediction in predictions for image in prediction.images}
    if every and not shared:
        yield (
            "No image is scored for all predictions, so all values are of predictions as a whole: "
            "no intervals, no boxes."
        )
    elif len(every) > len(shared):
        yield (
            f"{plural(len(every) - len(shared), 'image')} not scored for all predictions count in "
            f"the scores as a whole only, not in means, intervals and boxes."
        )
    if len(shared) > len(images):
        yield (
            f"{plural(len(shared) - len(images), 'image')} without true cells, where F1 says "
            f"nothing, count in the scores as a whole only."
        )


def _truth_notes(predictions: Sequence[Prediction]) -> Iterator[str]:
    counts = {p.whole.n_true for p in predictions if p.whole.n_true is not None}
    if len(counts) > 1:
        listed = ", ".join(f"{p.name}: {p.whole.n_true:,}" for p in predictions if p.whole.n_true)
        yield (
            f"The predictions were scored against different truth, by its number of cells "
            f"({listed}): what differs need not be the methods."
        )
