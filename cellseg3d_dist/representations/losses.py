"""Losses of voxel classes that leave out voxels nobody annotated.

Every loss takes logits (N, C, z, y, x), targets in [0, 1] of the same shape and ``valid``
(N, 1, z, y, x) of 0 and 1, or None where all is annotated. One channel is the sigmoid of a
foreground, several are a softmax. Sums run over the whole batch, so that a patch without a
cell does not decide a class on its own. Where nothing is valid a loss is 0, and so is its
gradient. torch is imported when a loss is computed: whoever only decodes needs none.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from cellseg3d_dist.errors import ConfigError
from cellseg3d_dist.representations.checks import check_weights, is_number

if TYPE_CHECKING:
    import torch

#: Keeps the overlap of an empty class with an empty prediction at 1.
SMOOTH = 1e-5
#: Bounds of the share of foreground that class balancing makes up for.
SHARES = (0.05, 0.95)

Weights = Sequence[float] | None


def annotated(tensor: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
    """The tensor, at least float32, with 0, and no gradient, where nothing is annotated.

    A selection and not a product: what stands there may be infinite or NaN.
    """
    import torch

    tensor = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
    return tensor if valid is None else torch.where(valid > 0, tensor, tensor.new_zeros(()))


def probabilities(logits: torch.Tensor) -> torch.Tensor:
    """Sigmoid of one channel, softmax of several."""
    return logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(1)


def one_hot(foreground: torch.Tensor) -> torch.Tensor:
    """Targets (N, 2, z, y, x) of background and foreground from (N, 1, z, y, x)."""
    import torch

    return torch.cat((1 - foreground, foreground), 1)


def _log_probabilities(
    logits: torch.Tensor, target: torch.Tensor, valid: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log probabilities and targets of two or more classes; targets are 0 where not valid."""
    import torch

    logits = annotated(logits, valid)
    if logits.shape[1] == 1:
        # the softmax of (0, a) is (1 - sigmoid(a), sigmoid(a))
        logits = torch.cat((torch.zeros_like(logits), logits), 1)
        target = one_hot(target)
    return logits.log_softmax(1), annotated(target, valid)


def _per_class(logits: torch.Tensor, weights: Weights) -> torch.Tensor:
    """Class weights (C,), 1 where there are none."""
    n = logits.shape[1]
    if weights is not None and len(weights) != n:
        raise ConfigError(f"{len(weights)} class weights for {n} classes; give one for each.")
    return logits.new_tensor([1.0] * n if weights is None else list(weights))


def _overlaps(
    logits: torch.Tensor, target: torch.Tensor, valid: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Per class: sums of probability x target, of probabilities, of targets."""
    share = annotated(probabilities(annotated(logits, valid)), valid)
    target = annotated(target, valid)
    axes = (0, 2, 3, 4)
    return (share * target).sum(axes), share.sum(axes), target.sum(axes)


def _weighted_mean(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return (values * weights).sum() / weights.sum()


def dice(
    logits: torch.Tensor,
    target: torch.Tensor,
    valid: torch.Tensor | None = None,
    weights: Weights = None,
) -> torch.Tensor:
    """1 - soft Dice, the mean over classes (Milletari et al. 2016, without squares)."""
    both, predicted, true = _overlaps(logits, target, valid)
    values = 1 - (2 * both + SMOOTH) / (predicted + true + SMOOTH)
    return _weighted_mean(values, _per_class(values[None], weights))


def generalized_dice(
    logits: torch.Tensor,
    target: torch.Tensor,
    valid: torch.Tensor | None = None,
    weights: Weights = None,
) -> torch.Tensor:
    """1 - Dice of all classes at once, each by 1 / volume^2 (Sudre et al. 2017).

    A class that does not occur counts as the rarest one that does; for one channel the
    background is the second class.
    """
    import torch

    if logits.shape[1] == 1:
        logits = torch.cat((torch.zeros_like(logits), logits), 1)
        target = one_hot(target)
    both, predicted, true = _overlaps(logits, target, valid)
    inverse = torch.where(true > 0, 1 / true.clamp(min=1) ** 2, torch.zeros_like(true))
    inverse = torch.where(true > 0, inverse, inverse.max()) * _per_class(both[None], weights)
    # relative to the largest, or the smoothing would outweigh a brain's worth of voxels
    inverse = inverse / inverse.max().clamp(min=torch.finfo(inverse.dtype).tiny)
    above, below = (inverse * both).sum(), (inverse * (predicted + true)).sum()
    return 1 - (2 * above + SMOOTH) / (below + SMOOTH)


def tversky(
    logits: torch.Tensor,
    target: torch.Tensor,
    valid: torch.Tensor | None = None,
    weights: Weights = None,
    *,
    alpha: float = 0.3,
    beta: float = 0.7,
) -> torch.Tensor:
    """1 - Tversky index: false positives count alpha, false negatives beta (Salehi et al. 2017)."""
    both, predicted, true = _overlaps(logits, target, valid)
    wrong = alpha * (predicted - both) + beta * (true - both)
    values = 1 - (both + SMOOTH) / (both + wrong + SMOOTH)
    return _weighted_mean(values, _per_class(values[None], weights))


def iou(
    logits: torch.Tensor,
    target: torch.Tensor,
    valid: torch.Tensor | None = None,
    weights: Weights = None,
) -> torch.Tensor:
    """1 - soft intersection over union, the mean over classes."""
    both, predicted, true = _overlaps(logits, target, valid)
    values = 1 - (both + SMOOTH) / (predicted + true - both + SMOOTH)
    return _weighted_mean(values, _per_class(values[None], weights))


def cross_entropy(
    logits: torch.Tensor,
    target: torch.Tensor,
    valid: torch.Tensor | None = None,
    weights: Weights = None,
) -> torch.Tensor:
    """Cross entropy; a class counts by its weight, and the weights' sum divides.

    Weights of one channel are those of background and foreground.
    """
    logs, target = _log_probabilities(logits, target, valid)
    counted = target * _per_class(logs, weights).view(1, -1, 1, 1, 1)
    return -(counted * logs).sum() / _at_least_one_voxel(counted.sum())


def focal(
    logits: torch.Tensor,
    target: torch.Tensor,
    valid: torch.Tensor | None = None,
    weights: Weights = None,
    *,
    gamma: float = 2.0,
) -> torch.Tensor:
    """Cross entropy times (1 - p)^gamma, the mean over voxels (Lin et al. 2017)."""
    logs, target = _log_probabilities(logits, target, valid)
    counted = target * _per_class(logs, weights).view(1, -1, 1, 1, 1)
    # -expm1 keeps 1 - p exact near 1; the clamp keeps its power differentiable at 0
    missing = (-logs.expm1()).clamp(min=1e-12) ** gamma
    return -(counted * missing * logs).sum() / _at_least_one_voxel(target.sum())


def dice_ce(
    logits: torch.Tensor,
    target: torch.Tensor,
    valid: torch.Tensor | None = None,
    weights: Weights = None,
) -> torch.Tensor:
    """Dice plus cross entropy; the weights are the cross entropy's."""
    return dice(logits, target, valid) + cross_entropy(logits, target, valid, weights)


def _at_least_one_voxel(total: torch.Tensor) -> torch.Tensor:
    """The divisor of a mean, 1 where nothing is annotated and the sum above it is 0 too."""
    import torch

    return torch.where(total > 0, total, torch.ones_like(total))


def balanced_cross_entropy(
    logits: torch.Tensor, target: torch.Tensor, valid: torch.Tensor | None = None
) -> torch.Tensor:
    """Binary cross entropy of one channel, foreground weighted by the background's share.

    Foreground counts (1 - f) / f, f its share of the annotated voxels within ``SHARES``;
    the mean is over voxels, so a rare foreground weighs about as much as all background.
    """
    logs, target = _log_probabilities(logits, target, valid)
    n = _at_least_one_voxel(target.sum())
    share = (target[:, 1].sum() / n).clamp(*SHARES)
    by_class = -(target * logs).sum((0, 2, 3, 4))
    return (by_class[0] + by_class[1] * (1 - share) / share) / n


def mean_squared_error(
    values: torch.Tensor, target: torch.Tensor, valid: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean squared difference over the annotated voxels."""
    difference = annotated(values - target, valid)
    if valid is None:
        return (difference**2).mean()
    n = (valid > 0).expand_as(difference).sum().to(difference.dtype)
    return (difference**2).sum() / _at_least_one_voxel(n)


Loss = Callable[..., "torch.Tensor"]

#: Losses of voxel classes by name; signature (logits, target, valid, weights, **options).
LOSSES: Mapping[str, Loss] = MappingProxyType(
    {
        "dice": dice,
        "generalized_dice": generalized_dice,
        "dice_ce": dice_ce,
        "tversky": tversky,
        "cross_entropy": cross_entropy,
        "focal": focal,
        "iou": iou,
    }
)


def loss_options(
    what: str, name: str, n_classes: int, weights: Weights, **given: float | None
) -> dict[str, float]:
    """Options of a loss that were given, refused where it does not have them.

    Parameters
    ----------
    what : str
        Who asks, for the error.
    n_classes : int
        How many class weights there have to be, if any.
    **given
        Keyword options of losses; None is left to the loss's default.

    Raises
    ------
    ConfigError
        If the loss, an option or a weight cannot be used.
    """
    if name not in LOSSES:
        raise ConfigError(f"{what}: loss {name!r} is unknown. Use one of {', '.join(LOSSES)}.")
    if weights is not None:
        if not isinstance(weights, tuple) or len(weights) != n_classes:
            raise ConfigError(
                f"{what}: weights {weights} must be {n_classes} numbers, one for each class."
            )
        if not all(is_number(weight) and weight > 0 for weight in weights):
            raise ConfigError(f"{what}: weights {weights} must be numbers above 0.")
    known = inspect.signature(LOSSES[name]).parameters
    options = {key: value for key, value in given.items() if value is not None}
    for key in options:
        if key not in known:
            raise ConfigError(f"{what}: loss {name} has no {key}; leave it out.")
    check_weights(what, **options)
    return options
