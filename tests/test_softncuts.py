"""Soft normalised cuts against sums over all pairs of voxels."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.ndimage as ndi
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cellseg3d_dist.errors import ConfigError
from cellseg3d_dist.training.softncuts import centroid_ncuts, half_offsets, pairwise_ncuts

torch.set_num_threads(1)


def drawn(shape, seed, n_images=1, n_classes=2, dtype=torch.float64):
    """Probabilities and an image of 0..5."""
    made = torch.Generator().manual_seed(seed)
    logits = torch.randn(n_images, n_classes, *shape, generator=made, dtype=dtype)
    image = 5 * torch.rand(n_images, 1, *shape, generator=made, dtype=dtype)
    return logits.softmax(1), image


def over_all_pairs(p, image, sigma_i, sigma_x, radius, spacing, valid=None):
    """The definition, in numpy, pair by pair in matrices."""
    shape = p.shape[2:]
    places = np.array(list(np.ndindex(*shape))) * np.array(spacing)
    squared = ((places[:, None] - places[None]) ** 2).sum(-1)
    near = np.where(squared < radius**2, np.exp(-squared / sigma_x), 0)
    total = 0.0
    for n in range(len(p)):
        intensity = image[n, 0].ravel()
        weight = near * np.exp(-((intensity[:, None] - intensity[None]) ** 2) / sigma_i)
        if valid is not None:
            known = valid[n, 0].ravel()
            weight = weight * known[:, None] * known[None]
        loss = float(p.shape[1])
        for k in range(p.shape[1]):
            share = p[n, k].ravel()
            loss -= (share @ weight @ share) / (share @ weight.sum(1))
        total += loss
    return total / len(p)


sizes = st.integers(1, 5)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(sizes, sizes, sizes),
    n_images=st.integers(1, 2),
    n_classes=st.integers(2, 3),
    sigmas=st.tuples(st.floats(0.3, 50), st.floats(0.3, 9)),
    radius=st.floats(0.5, 3.5),
    spacing=st.sampled_from([(1.0, 1.0, 1.0), (2.2, 1.0, 1.0), (1.0, 1.5, 1.2)]),
    masked=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_pairwise_is_the_sum_over_all_pairs(
    shape, n_images, n_classes, sigmas, radius, spacing, masked, seed
):
    p, image = drawn(shape, seed, n_images, n_classes)
    valid = None
    if masked:
        valid = (torch.rand(image.shape, generator=torch.Generator().manual_seed(seed)) < 0.7) * 1.0
        valid[:, :, 0, 0, 0] = 1
    expected = over_all_pairs(
        p.numpy(), image.numpy(), *sigmas, radius, spacing, None if valid is None else valid.numpy()
    )
    found = pairwise_ncuts(
        p, image, sigma_i=sigmas[0], sigma_x=sigmas[1], radius=radius, spacing=spacing, valid=valid
    )
    assert float(found) == pytest.approx(expected, rel=1e-10)
    # in single precision too
    single = pairwise_ncuts(
        p.float(), image.float(), sigma_i=sigmas[0], sigma_x=sigmas[1], radius=radius,
        spacing=spacing, valid=valid,
    )  # fmt: skip
    assert float(single) == pytest.approx(expected, abs=1e-5)


def test_pairwise_with_the_defaults():
    p, image = drawn((6, 5, 7), 3)
    expected = over_all_pairs(p.numpy(), image.numpy(), 1.0, 4.0, 2.0, (1, 1, 1))
    assert float(pairwise_ncuts(p, image)) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("loss", [pairwise_ncuts, centroid_ncuts])
def test_gradient_is_that_of_differences(loss, masked):
    p, image = drawn((3, 4, 3), 0, n_images=2, n_classes=3)
    valid = (torch.arange(36).reshape(1, 1, 3, 4, 3) % 4 > 0).double().expand(image.shape)
    p.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda p: loss(p, image, sigma_i=20.0, valid=valid if masked else None), (p,)
    )


def test_gradient_is_scaled_by_what_comes_after():
    p, image = drawn((3, 4, 5), 1)
    p.requires_grad_()
    (once,) = torch.autograd.grad(pairwise_ncuts(p, image), p)
    (thrice,) = torch.autograd.grad(3 * pairwise_ncuts(p, image), p)
    torch.testing.assert_close(thrice, 3 * once)


def test_offsets_are_half_of_a_ball():
    found = [offset for offset, _ in half_offsets(3.0)]
    every = [o for o in itertools.product(range(-3, 4), repeat=3) if 0 < sum(d * d for d in o) < 9]
    assert sorted(found + [tuple(-d for d in o) for o in found]) == sorted(every)
    assert len(half_offsets(2.0)) == 13


def test_offsets_follow_the_spacing():
    # sections further apart than the radius are not joined
    assert {offset[0] for offset, _ in half_offsets(2.0, (2.2, 1, 1))} == {0}
    assert {offset[0] for offset, _ in half_offsets(2.3, (2.2, 1, 1))} == {0, 1}


def test_nothing_is_joined_across_a_border():
    """Half of an image has the loss of that half alone if the rest does not count."""
    p, image = drawn((4, 4, 8), 5)
    valid = torch.zeros_like(image)
    valid[..., :4] = 1
    alone = pairwise_ncuts(p[..., :4], image[..., :4])
    torch.testing.assert_close(pairwise_ncuts(p, image, valid=valid), alone)


def test_cutting_where_intensities_differ_is_best():
    image = torch.zeros(1, 1, 8, 8, 8)
    image[..., 3:] = 50
    p = torch.zeros(1, 2, 8, 8, 8)
    losses = []
    for cut in range(1, 8):
        p[:, 0] = 1
        p[:, 0, ..., cut:] = 0
        p[:, 1] = 1 - p[:, 0]
        losses.append(float(pairwise_ncuts(p, image)))
    assert int(np.argmin(losses)) == 2
    assert losses[2] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("loss", [pairwise_ncuts, centroid_ncuts])
@pytest.mark.parametrize("empty", ["class", "valid"])
def test_what_is_empty_is_finite(loss, empty):
    p, image = drawn((4, 4, 4), 2, dtype=torch.float32)
    valid = torch.ones_like(image)
    if empty == "class":
        p = torch.stack([torch.ones(1, 4, 4, 4), torch.zeros(1, 4, 4, 4)], 1)
    else:
        valid.zero_()
    p = p.clone().requires_grad_()
    value = loss(p, image, valid=valid)
    value.backward()
    assert math.isfinite(value.item())
    assert torch.isfinite(p.grad).all()


@pytest.mark.parametrize("radius", [2.0, 4.0])
def test_memory_does_not_grow_with_the_radius(radius):
    """Backward keeps one tensor like the probabilities, however many offsets there are."""
    p, image = drawn((12, 12, 12), 0, dtype=torch.float32)
    p.requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.append(t.numel()) or t, lambda t: t
    ):
        pairwise_ncuts(p, image, radius=radius)
    assert sum(kept) == p.numel()


def test_the_image_is_left_alone():
    p, image = drawn((4, 4, 4), 0)
    before = (p.clone(), image.clone())
    p.requires_grad_()
    pairwise_ncuts(p, image, valid=torch.ones_like(image)).backward()
    assert torch.equal(p.detach(), before[0])
    assert torch.equal(image, before[1])


@pytest.mark.parametrize("radius", [1.0, 2.0])
def test_centroid_form_is_its_formula(radius):
    sigma_i, sigma_x = 6.0, 4.0
    p, image = drawn((5, 6, 7), 4, n_images=2, n_classes=3)
    reach = int(radius)
    grid = np.mgrid[-reach : reach + 1, -reach : reach + 1, -reach : reach + 1]
    kernel = np.exp(-(grid**2).sum(0) / (2 * sigma_x**2))
    total = 0.0
    for n in range(2):
        intensity = image[n, 0].numpy()
        for k in range(3):
            share = p[n, k].numpy()
            mean = (intensity * share).mean() / (share.mean() + 1e-5)
            weight = np.exp(-(((intensity - mean) ** 2) ** 2) / sigma_i**2)
            kept = (share * ndi.convolve(share * weight, kernel, mode="constant")).sum()
            joined = (share * ndi.convolve(weight, kernel, mode="constant")).sum()
            total += abs(kept / (joined + 1e-6)) / 2
    found = centroid_ncuts(p, image, sigma_i=sigma_i, sigma_x=sigma_x, radius=radius)
    assert float(found) == pytest.approx(3 - total, rel=1e-10)


def test_centroid_form_needs_one_spacing():
    p, image = drawn((4, 4, 4), 0)
    with pytest.raises(ConfigError, match=r"spacing \(2, 1, 1\)"):
        centroid_ncuts(p, image, spacing=(2, 1, 1))


def test_wrong_arguments_are_named():
    p, image = drawn((4, 4, 4), 0)
    with pytest.raises(ConfigError, match=r"image of shape \(1, 1, 4, 4, 3\)"):
        pairwise_ncuts(p, image[..., :3])
    with pytest.raises(ConfigError, match="valid of shape"):
        pairwise_ncuts(p, image, valid=torch.ones(4, 4, 4))
    for name in ("sigma_i", "sigma_x", "radius"):
        with pytest.raises(ConfigError, match=f"{name} 0 is not positive"):
            pairwise_ncuts(p, image, **{name: 0})
