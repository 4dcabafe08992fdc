"""Training without labels: the loss, the class of the cells, its threshold, and learning."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cellseg3d_dist.errors import ConfigError
from cellseg3d_dist.networks.cards import Card
from cellseg3d_dist.networks.registry import build
from cellseg3d_dist.networks.weights import load_model
from cellseg3d_dist.training.self_supervised import (
    FLIPS_AND_TURNS,
    THRESHOLDS,
    SelfSupervised,
    WNetLoss,
    best_threshold,
    choose_channel,
    make_wnet_loss,
    overlaps,
)
from cellseg3d_dist.training.softncuts import centroid_ncuts, pairwise_ncuts, smoothed
from cellseg3d_dist.training.validation import ValidationVolume

torch.set_num_threads(1)
OPTIONS = {"widths": [4, 4, 8, 8], "dropout": 0.0}


def balls(seed, side=16, noise=0.05):
    """A dim, noisy image with bright balls, and their labels."""
    rng = np.random.default_rng(seed)
    grid = np.mgrid[:side, :side, :side]
    labels = np.zeros((side,) * 3, np.uint16)
    for number, centre in enumerate(((4, 4, 4), (11, 11, 5), (5, 11, 12)), 1):
        shift = rng.integers(-1, 2, 3)
        distance = sum((g - c - s) ** 2 for g, c, s in zip(grid, centre, shift, strict=True))
        labels[distance < 9] = number
    image = 0.8 * (labels > 0) + 0.1 + noise * rng.standard_normal(labels.shape)
    return np.clip(image, 0, 1).astype(np.float32), labels


@dataclass(frozen=True)
class Drawn:
    image: np.ndarray


@dataclass(frozen=True)
class Balls:
    """Patches of :func:`balls`."""

    seed: int = 0

    def batch(self, step):
        return Drawn(np.stack([balls((self.seed, step, item))[0][None] for item in range(2)]))


def objective(**options):
    torch.manual_seed(0)
    network = build("wnet3d", 1, 2, **OPTIONS)
    card = Card(
        name="small", architecture="wnet3d", architecture_options=OPTIONS,
        representation="foreground", representation_options={"classes": 2},
        voxel_size=(2.0, 1.0, 1.0), patch=(16, 16, 16), halo=(4, 4, 4),
        decoder={"spot_sigma": 1.0, "outline_sigma": 0.0},
    )  # fmt: skip
    given = {"network": network, "sampler": Balls(), "card": card, "n_probes": 2}
    return SelfSupervised(**{**given, **options})


def test_loss_is_the_weighted_sum_of_both():
    terms = WNetLoss(w_ncut=0.5, w_rec=0.2, sigma_i=30, smoothing=0, radius=2.5, physical=True)
    made = objective(terms=terms)
    image = made.batch(0)["image"]
    classes, rebuilt = made.network(image)
    value, parts = made.loss(made.network, {"image": image}, 0)
    cut = pairwise_ncuts(classes, 100 * image, sigma_i=30, radius=2.5, spacing=(2, 1, 1))
    error = ((100 * rebuilt - 100 * image) ** 2).mean()
    torch.testing.assert_close(parts["ncut"], cut)
    torch.testing.assert_close(parts["reconstruction"], error)
    torch.testing.assert_close(value, 0.5 * cut + 0.2 * error)


def test_loss_by_centroids_and_cross_entropy():
    made = objective(terms=WNetLoss(form="centroid", reconstruction="bce", smoothing=1.5))
    image = made.batch(0)["image"]
    classes, rebuilt = made.network(image)
    _, parts = made.loss(made.network, {"image": image}, 0)
    seen = 100 * smoothed(image, 1.5)
    torch.testing.assert_close(parts["ncut"], centroid_ncuts(classes, seen, sigma_i=100.0))
    expected = -(image * rebuilt.sigmoid().log() + (1 - image) * (-rebuilt).sigmoid().log()).mean()
    torch.testing.assert_close(parts["reconstruction"], expected, rtol=1e-4, atol=1e-5)


def test_smoothing_keeps_what_is_constant():
    image = torch.full((2, 1, 5, 4, 3), 0.3)
    torch.testing.assert_close(smoothed(image, 1.3), image)
    assert smoothed(image, 0) is image


def test_one_backward_pass_reaches_every_parameter():
    made = objective()
    value, _ = made.loss(made.network, made.batch(0), 0)
    value.backward()
    for parameter in made.network.parameters():
        assert parameter.grad is not None
        assert torch.isfinite(parameter.grad).all()


def test_images_beyond_one_count_as_one():
    terms = WNetLoss(smoothing=0)
    torch.manual_seed(0)
    image, rebuilt = 1.5 * torch.rand(1, 1, 6, 6, 6), torch.rand(1, 1, 6, 6, 6)
    classes = torch.rand(1, 2, 6, 6, 6).softmax(1)
    high, _ = terms.parts(image, classes, rebuilt, (1, 1, 1))
    cut, _ = terms.parts(image.clamp(max=1), classes, rebuilt, (1, 1, 1))
    torch.testing.assert_close(high, cut)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma_i": 0}, "sigma_i"),
        ({"form": "pairs"}, "pairwise or centroid"),
        ({"w_rec": math.nan}, "w_rec"),
        ({"sigmai": 1}, "sigma_i"),
    ],
)
def test_wrong_options_are_named_in_one_line(options, message):
    with pytest.raises(ConfigError, match=message) as caught:
        make_wnet_loss(options)
    assert "\n" not in str(caught.value)


def test_options_as_a_user_gives_them():
    assert make_wnet_loss({"w_rec": 0.5, "form": "centroid"}).w_rec == 0.5


def test_augmentation_leaves_intensities_alone():
    kept = {name for name, value in vars(FLIPS_AND_TURNS).items() if value == 0.0}
    assert {"gain", "gamma", "shift", "noise", "blur", "rotation", "elastic"} <= kept
    assert FLIPS_AND_TURNS.flip == 0.5


@pytest.mark.parametrize("channel", [0, 1])
def test_the_brighter_class_is_the_cells(channel):
    image, labels = balls(1)
    cells = (labels > 0).ravel() * 0.8 + 0.1
    classes = np.stack([1 - cells, cells] if channel else [cells, 1 - cells])
    assert choose_channel(classes, image.ravel()) == channel
    # with a mask even if cells are dark
    assert choose_channel(classes, -image.ravel(), (labels > 0).ravel()) == channel


def test_a_class_that_is_constant_is_not_the_cells():
    image, labels = balls(1)
    classes = np.stack([np.full(image.size, 0.5), (labels > 0).ravel() * 0.2])
    assert choose_channel(classes, image.ravel()) == 1
    assert choose_channel(np.full((2, 9), 0.5), np.zeros(9)) == 0


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_best_threshold_is_that_of_a_search(seed):
    rng = np.random.default_rng(seed)
    stored = rng.integers(0, 256, (2, 3, 4, 5), dtype=np.uint8)
    mask = rng.random(stored.shape) < 0.4
    known = rng.random(stored.shape) < 0.8
    counts = sum(overlaps(s, m & k, k) for s, m, k in zip(stored, mask, known, strict=True))
    threshold, dice = best_threshold(counts)
    truth = mask & known
    found = {}
    for t in THRESHOLDS:
        above = (stored > t * 255) & known
        found[round(t, 2)] = 2 * (above & truth).sum() / max(above.sum() + truth.sum(), 1)
    assert dice == pytest.approx(max(found.values()))
    assert found[threshold] == pytest.approx(dice)


def test_the_middle_of_equal_thresholds_is_taken():
    stored = np.array([[[0, 0, 255, 255]]], np.uint8)
    threshold, dice = best_threshold(overlaps(stored, stored > 0, np.True_))
    assert (threshold, dice) == (0.45, 1.0)


def test_validation_without_labels_is_the_loss_of_other_patches():
    made = objective(held_out=Balls(seed=1))
    made.network.eval()
    found = made.validate(made.network)
    images = [torch.from_numpy(Balls(seed=1).batch(k).image) for k in range(2)]
    expected = [made.loss(made.network, {"image": i}, 0)[0].item() for i in images]
    assert found["score"] == pytest.approx(-np.mean(expected), rel=1e-5)
    assert found["score"] == -found["validation_loss"]
    assert objective().validate(made.network) == {}


def trained(steps=60):
    """An objective whose network saw some batches."""
    made = objective(terms=WNetLoss(smoothing=0))
    optimiser = torch.optim.Adam(made.network.parameters(), lr=5e-3)
    for step in range(steps):
        value, _ = made.loss(made.network, made.batch(step), step)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
    made.network.eval()
    return made


def test_bright_balls_are_found_and_the_card_tells_how(tmp_path):
    made = trained()
    image, labels = balls(99)
    volume = ValidationVolume("balls", image, labels, (2.0, 1.0, 1.0), (0.0, 1.0))
    made.volumes = [volume]
    scores = made.validate(made.network)
    assert scores["dice"] > 0.8
    assert scores["score"] == scores["dice"]
    assert [panel.title for panel in made.picture(made.network)][-1] == "labels_true"

    made.save(str(tmp_path / "small"), made.network, scores, {"steps": 60})
    model = load_model(tmp_path / "small.safetensors")
    assert model.card.threshold == scores["threshold"]
    channel = model.card.foreground_channel
    assert channel == model.representation.foreground_channel
    with torch.inference_mode():
        foreground = model.representation.activate(
            model.network(torch.from_numpy(image)[None, None])
        )
    above = foreground[0, 0].numpy() > scores["threshold"]
    assert 2 * (above & (labels > 0)).sum() / (above.sum() + (labels > 0).sum()) > 0.75


def test_without_validation_the_threshold_is_a_half(tmp_path):
    made = objective()
    made.network.eval()
    titles = [panel.title for panel in made.picture(made.network)]
    assert titles == ["input", "class 0", "class 1", "reconstruction"]
    made.save(str(tmp_path / "raw"), made.network, {}, {})
    assert load_model(tmp_path / "raw.safetensors").card.threshold == 0.5


def test_voxels_that_nobody_annotated_do_not_count():
    made = trained(steps=30)
    image, labels = balls(99)
    labels[:8] = 65535
    size, constants = (2.0, 1.0, 1.0), (0.0, 1.0)
    made.ignore = 65535
    made.volumes = [ValidationVolume("balls", image, labels, size, constants)]
    first = made.validate(made.network)
    assert first["cells_true"] == len(np.unique(labels[labels != 65535])) - 1
    assert 0 <= first["dice"] <= 1
