"""Losses against MONAI's, and what the mask of annotated voxels leaves out."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.losses import (
    DiceCELoss,
    DiceLoss,
    FocalLoss,
    GeneralizedDiceLoss,
    TverskyLoss,
)

from cellseg3d_dist.errors import ConfigError
from cellseg3d_dist.representations.losses import (
    LOSSES,
    balanced_cross_entropy,
    loss_options,
    mean_squared_error,
    one_hot,
)

torch.set_num_threads(1)
SHAPE = (2, 6, 7, 8)


def case(n_classes, seed=0, shape=SHAPE, dtype=torch.float32):
    """Logits and targets of one sigmoid channel, or of a softmax."""
    rng = torch.Generator().manual_seed(seed)
    n, *space = shape
    logits = 2 * torch.randn(n, n_classes, *space, generator=rng, dtype=dtype)
    classes = torch.randint(max(n_classes, 2), (n, *space), generator=rng)
    target = torch.nn.functional.one_hot(classes, max(n_classes, 2)).movedim(-1, 1).to(dtype)
    return logits, target[:, 1:] if n_classes == 1 else target


def activation(n_classes):
    return {"sigmoid": True} if n_classes == 1 else {"softmax": True}


@pytest.mark.parametrize("n_classes", [1, 2, 3])
@pytest.mark.parametrize(
    ("name", "monai", "options"),
    [
        ("dice", lambda **a: DiceLoss(batch=True, **a), {}),
        ("iou", lambda **a: DiceLoss(batch=True, jaccard=True, **a), {}),
        ("tversky", lambda **a: TverskyLoss(batch=True, alpha=0.3, beta=0.7, **a), {}),
        (
            "tversky",
            lambda **a: TverskyLoss(batch=True, alpha=0.6, beta=0.1, **a),
            {"alpha": 0.6, "beta": 0.1},
        ),
        ("dice_ce", lambda **a: DiceCELoss(batch=True, **a), {}),
    ],
)
def test_overlap_losses_are_monais(name, monai, options, n_classes):
    logits, target = case(n_classes)
    expected = monai(smooth_nr=1e-5, smooth_dr=1e-5, **activation(n_classes))(logits, target)
    torch.testing.assert_close(LOSSES[name](logits, target, **options), expected)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_generalized_dice_is_monais(n_classes):
    logits, target = case(n_classes)
    target[:, 0] = 0  # a class that does not occur
    expected = GeneralizedDiceLoss(batch=True, softmax=True, smooth_nr=0, smooth_dr=0)
    value = LOSSES["generalized_dice"](logits, target)
    torch.testing.assert_close(value, expected(logits, target), rtol=1e-4, atol=1e-6)


def test_generalized_dice_of_one_channel_has_the_background_as_its_second_class():
    logits, target = case(1)
    both = torch.cat((torch.zeros_like(logits), logits), 1)
    torch.testing.assert_close(
        LOSSES["generalized_dice"](logits, target),
        LOSSES["generalized_dice"](both, one_hot(target)),
    )


@pytest.mark.parametrize("weights", [None, (1.0, 3.0, 2.0)])
def test_cross_entropy_is_torchs(weights):
    logits, target = case(3)
    expected = torch.nn.functional.cross_entropy(
        logits, target.argmax(1), None if weights is None else torch.tensor(weights)
    )
    torch.testing.assert_close(LOSSES["cross_entropy"](logits, target, None, weights), expected)


def test_cross_entropy_of_one_channel_is_the_binary_one():
    logits, target = case(1)
    logits[0, 0, 0, 0, 0] = 200  # where log(sigmoid) has to stay finite
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, target)
    torch.testing.assert_close(LOSSES["cross_entropy"](logits, target), expected)


@pytest.mark.parametrize("gamma", [0.0, 2.0, 5.0])
@pytest.mark.parametrize("n_classes", [1, 3])
def test_focal_is_monais(n_classes, gamma):
    logits, target = case(n_classes)
    # MONAI's mean is over classes too
    expected = n_classes * FocalLoss(gamma=gamma, use_softmax=n_classes > 1)(logits, target)
    torch.testing.assert_close(LOSSES["focal"](logits, target, gamma=gamma), expected)


@pytest.mark.parametrize("name", ["dice", "iou", "tversky"])
def test_weights_of_overlap_losses_weigh_the_mean_over_classes(name):
    logits, target = case(3)
    single = [LOSSES[name](logits, target, None, w) for w in torch.eye(3).tolist()]
    expected = (single[0] + 2 * single[1] + 1.5 * single[2]) / 4.5
    torch.testing.assert_close(LOSSES[name](logits, target, None, (1.0, 2.0, 1.5)), expected)


def test_balanced_cross_entropy_weighs_a_rare_foreground_as_the_background():
    logits, target = torch.zeros(1, 1, 10, 10, 10), torch.zeros(1, 1, 10, 10, 10)
    target[..., 0] = 1  # a tenth
    entropy = torch.log(torch.tensor(2.0))
    torch.testing.assert_close(balanced_cross_entropy(logits, target), 0.9 * 2 * entropy)
    logits, target = case(1)
    share = target.mean()
    weight = torch.where(target > 0, (1 - share) / share, 1.0)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, target, weight)
    torch.testing.assert_close(balanced_cross_entropy(logits, target), expected)


#: Every loss with its number of channels.
VOXEL_LOSSES = [
    *(pytest.param(LOSSES[name], n, id=f"{name}-{n}") for name in LOSSES for n in (1, 3)),
    pytest.param(balanced_cross_entropy, 1, id="balanced"),
    pytest.param(mean_squared_error, 1, id="squares"),
]


@pytest.mark.parametrize(("loss", "n_classes"), VOXEL_LOSSES)
def test_gradients_are_those_of_differences(loss, n_classes):
    logits, target = case(n_classes, shape=(1, 2, 2, 3), dtype=torch.float64)
    valid = torch.ones(1, 1, 2, 2, 3)
    valid[..., 0, 0] = 0
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, target, valid), (logits,))


@pytest.mark.parametrize(("loss", "n_classes"), VOXEL_LOSSES)
def test_what_is_not_annotated_counts_for_nothing(loss, n_classes):
    logits, target = case(n_classes)
    valid = torch.zeros(2, 1, *SHAPE[1:])
    valid[:, :, 1:4, :, 2:] = 1
    inside = (slice(None), slice(None), slice(1, 4), slice(None), slice(2, None))
    expected = loss(logits[inside], target[inside])
    for value in (7.0, float("inf"), float("nan")):
        changed = torch.where(valid > 0, logits, value).requires_grad_()
        found = loss(changed, torch.where(valid > 0, target, value), valid)
        found.backward()
        torch.testing.assert_close(found, expected)
        assert (changed.grad[(valid == 0).expand_as(changed)] == 0).all()
        assert (changed.grad[inside] != 0).any()


@pytest.mark.parametrize(("loss", "n_classes"), VOXEL_LOSSES)
def test_all_annotated_is_no_mask(loss, n_classes):
    logits, target = case(n_classes)
    valid = torch.ones(2, 1, *SHAPE[1:])
    torch.testing.assert_close(loss(logits, target, valid), loss(logits, target))


@pytest.mark.parametrize(("loss", "n_classes"), VOXEL_LOSSES)
def test_nothing_annotated_is_a_loss_of_0(loss, n_classes):
    logits, target = case(n_classes)
    logits.requires_grad_()
    value = loss(logits, target, torch.zeros(2, 1, *SHAPE[1:]))
    value.backward()
    assert value.item() == 0
    assert (logits.grad == 0).all()


@pytest.mark.parametrize(("loss", "n_classes"), VOXEL_LOSSES)
def test_no_foreground_is_finite_and_half_precision_is_computed_in_single(loss, n_classes):
    logits, target = case(n_classes)
    target[:, 1 if n_classes > 1 else 0] = 0
    half = (10 * logits).to(torch.bfloat16).requires_grad_()
    value = loss(half, target)
    value.backward()
    assert value.dtype == torch.float32
    assert torch.isfinite(value)
    assert torch.isfinite(half.grad).all()


@pytest.mark.parametrize(("loss", "n_classes"), VOXEL_LOSSES)
@pytest.mark.parametrize("scale", [1e3, 1e30])
def test_sure_predictions_are_finite(loss, n_classes, scale):
    logits, target = case(n_classes)
    sure = (scale * logits).requires_grad_()
    value = loss(sure, target)
    value.backward()
    if loss is not mean_squared_error:
        assert torch.isfinite(value)
        assert torch.isfinite(sure.grad).all()


@given(st.sampled_from(sorted(set(LOSSES) - {"cross_entropy", "focal"})), st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_a_perfect_prediction_is_the_least(name, seed):
    _, target = case(3, seed)
    perfect = 40 * target - 20
    assert 0 <= LOSSES[name](perfect, target).item() + 1e-6 < 1e-3


@pytest.mark.parametrize(
    ("name", "weights", "options", "message"),
    [
        ("dise", None, {}, r"boundary: loss 'dise' is unknown. Use one of dice, "),
        ("dice", None, {"gamma": 2.0}, "boundary: loss dice has no gamma"),
        ("focal", None, {"gamma": -1.0}, "boundary: gamma -1.0 must be a number of at least 0"),
        ("focal", None, {"gamma": "2"}, "boundary: gamma '2' must be"),
        ("dice", (1.0, 2.0), {}, r"boundary: weights \(1.0, 2.0\) must be 3 numbers"),
        ("dice", 2.0, {}, "boundary: weights 2.0 must be 3 numbers"),
        ("dice", (1.0, 0.0, 1.0), {}, "must be numbers above 0"),
        ("dice", (1.0, float("nan"), 1.0), {}, "must be numbers above 0"),
    ],
)
def test_wrong_losses_are_refused(name, weights, options, message):
    with pytest.raises(ConfigError, match=message):
        loss_options("boundary", name, 3, weights, **options)


def test_weights_for_other_classes_are_refused():
    with pytest.raises(ConfigError, match="2 class weights for 3 classes"):
        LOSSES["dice"](*case(3), None, (1.0, 2.0))


def test_options_left_out_are_the_losses_own():
    assert loss_options("boundary", "focal", 3, None, gamma=5.0, alpha=None) == {"gamma": 5.0}
