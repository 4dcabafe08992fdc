"""Soft normalised cuts: classes that keep alike, neighbouring voxels together, without labels.

Voxels are the nodes of a graph, the weight of an edge is large between near voxels of alike
intensity, and a soft partition ``p`` into K classes is scored by what it cuts (0, nothing
of weight, to K, everything). Two forms:

- :func:`pairwise_ncuts`, the normalised cut [1]_ [2]_ over all pairs within a radius;
- :func:`centroid_ncuts`, cheaper, which replaces the intensity of a voxel's neighbours by
  the mean of the class, as some published implementations do.

The pairs of one offset are two shifted views of the image, so an offset costs a few passes
over it, and only half of the symmetric offsets are visited::

    image  . a . .     offset (0, 1, 2): every pair (a, b) inside the image,
           . . . b     none across its border

.. [1] Shi, Malik: Normalized cuts and image segmentation, PAMI 22 (2000).
.. [2] Xia, Kulis: W-Net, a deep model for fully unsupervised image segmentation (2017).
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor
from torch.autograd.function import once_differentiable

from cellseg3d_dist.errors import ConfigError

Spacing = tuple[float, float, float]
Offset = tuple[int, int, int]
ISOTROPIC: Spacing = (1.0, 1.0, 1.0)


def half_offsets(radius: float, spacing: Spacing = ISOTROPIC) -> list[tuple[Offset, float]]:
    """Offsets of length under ``radius``, one of each opposite pair, with squared lengths.

    Parameters
    ----------
    radius : float
        Exclusive limit of the length, in the unit of ``spacing``.
    spacing : tuple of float
        Distance of neighbouring voxels along z, y and x.

    Returns
    -------
    list of ((z, y, x), squared length)
        The zero offset is left out.
    """
    zs, ys, xs = (range(-int(radius // step), int(radius // step) + 1) for step in spacing)
    found: list[tuple[Offset, float]] = []
    for offset in itertools.product(zs, ys, xs):
        length2 = math.fsum((o * step) ** 2 for o, step in zip(offset, spacing, strict=True))
        if offset > (0, 0, 0) and length2 < radius**2:
            found.append((offset, length2))
    return found


def _ends(offset: Offset) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Indices of the two ends of all pairs at an offset, over (..., z, y, x)."""
    first = tuple(slice(max(-o, 0), -o if o > 0 else None) for o in offset)
    second = tuple(slice(max(o, 0), o if o < 0 else None) for o in offset)
    return (..., *first), (..., *second)


def _weighted_sums(
    probabilities: Tensor, image: Tensor, valid: Tensor | None,
    sigma_i: float, sigma_x: float, offsets: list[tuple[Offset, float]],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """``sum_j w_ij p_jk`` (N, K, z, y, x) and ``sum_j w_ij`` (N, 1, z, y, x)."""
    # a voxel is its own neighbour, with weight 1
    degree = torch.ones_like(image) if valid is None else valid.clone()
    sums = probabilities * degree
    for offset, length2 in offsets:
        a, b = _ends(offset)
        weight = (image[a] - image[b]).square_().mul_(-1.0 / sigma_i).sub_(length2 / sigma_x)
        weight.exp_()
        if valid is not None:
            weight.mul_(valid[a]).mul_(valid[b])
        degree[a].add_(weight)
        degree[b].add_(weight)
        sums[a].addcmul_(weight, probabilities[b])
        sums[b].addcmul_(weight, probabilities[a])
    return sums, degree


class _PairwiseNCuts(torch.autograd.Function):
    """The loss with its gradient by hand: the weights are symmetric, so that the gradient of
    ``sum_ij p_i w_ij p_j`` is twice the sums the value needs, and no offset is kept.
    """  # noqa: D205

    @staticmethod
    def forward(
        ctx: Any, probabilities: Tensor, image: Tensor, valid: Tensor | None,
        sigma_i: float, sigma_x: float, offsets: list[tuple[Offset, float]],
    ) -> Tensor:  # fmt: skip
        sums, degree = _weighted_sums(probabilities, image, valid, sigma_i, sigma_x, offsets)
        space = (2, 3, 4)
        # degree is 0 where valid is 0, and so is every term of both sums
        kept = (probabilities * sums).sum(space, keepdim=True)
        total = (probabilities * degree).sum(space, keepdim=True)
        total = total.clamp_min(torch.finfo(total.dtype).tiny)
        ratio = kept / total
        n_images, n_classes = probabilities.shape[:2]
        if ctx.needs_input_grad[0]:
            gradient = sums.mul_(2.0).sub_(ratio * degree).div_(total).div_(-n_images)
            ctx.save_for_backward(gradient)
        return n_classes - ratio.sum() / n_images

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream, None, None, None, None, None


def pairwise_ncuts(
    probabilities: Tensor, image: Tensor, *,
    sigma_i: float = 1.0, sigma_x: float = 4.0, radius: float = 2.0,
    spacing: Spacing = ISOTROPIC, valid: Tensor | None = None,
) -> Tensor:  # fmt: skip
    r"""Soft normalised cut of a partition, over all pairs of voxels within a radius.

    .. math::

        L = K - \sum_k \frac{\sum_i p_{ik} \sum_j w_{ij} p_{jk}}{\sum_i p_{ik} \sum_j w_{ij}},
        \quad w_{ij} = e^{-|I_i - I_j|^2 / \sigma_I} e^{-|X_i - X_j|^2 / \sigma_X}
        \text{ for } |X_i - X_j| < r

    The sigmas divide squared differences as they are (no square, no factor 2), as in the
    equation of Shi and Malik: ``sigma_i`` is a squared intensity, ``sigma_x`` a squared
    distance. A voxel counts as its own neighbour; pairs with a voxel outside of the image or
    of ``valid`` do not exist. Every image of a batch is a graph of its own; their mean.

    Parameters
    ----------
    probabilities : Tensor (N, K, z, y, x)
        Soft partition, 0..1, that sums to 1 over K. Gradients (of first order) flow here only.
    image : Tensor (N, 1, z, y, x)
        Intensities, of the same dtype; by convention mapped to 0..100.
    sigma_i, sigma_x : float
        See above.
    radius : float
        Exclusive limit of the distance of two voxels, in the unit of ``spacing``.
    spacing : tuple of float
        Distance of neighbouring voxels along z, y and x, for anisotropic images.
    valid : Tensor (N, 1, z, y, x), optional
        1 where a voxel takes part, 0 where not.

    Returns
    -------
    Tensor
        Scalar in [0, K].

    Raises
    ------
    ConfigError
        For shapes that do not belong together, sigmas or a radius that are not positive.
    """
    _check(probabilities, image, valid, sigma_i, sigma_x, radius)
    offsets = half_offsets(radius, spacing)
    if valid is not None:
        valid = valid.to(image.dtype)
    loss: Tensor = _PairwiseNCuts.apply(  # type: ignore[no-untyped-call]
        probabilities, image.detach(), valid, sigma_i, sigma_x, offsets
    )
    return loss


def centroid_ncuts(
    probabilities: Tensor, image: Tensor, *,
    sigma_i: float = 1.0, sigma_x: float = 4.0, radius: float = 2.0,
    spacing: Spacing = ISOTROPIC, valid: Tensor | None = None,
) -> Tensor:  # fmt: skip
    r"""Soft cut with the intensity of a voxel compared to the mean of the class.

    .. math::

        L = K - \sum_k \left| \frac{\sum p_k\, G(p_k w_k)}{\sum p_k\, G(w_k) + 10^{-6}} \right|,
        \quad w_k = e^{-(I - \mu_k)^4 / \sigma_I^2},
        \quad \mu_k = \frac{\overline{I p_k}}{\overline{p_k} + 10^{-5}}

    with :math:`G` the convolution with :math:`e^{-d^2 / 2 \sigma_X^2}` over the cube of
    ``2 floor(radius) + 1`` voxels, zero beyond the border. Parameters as for
    :func:`pairwise_ncuts`, but here the sigmas are squared, and ``spacing`` must be of a
    volume with the same distance along all axes.
    """
    _check(probabilities, image, valid, sigma_i, sigma_x, radius)
    if len(set(spacing)) > 1:
        raise ConfigError(
            f"centroid_ncuts takes isotropic volumes, not spacing {spacing}: use the pairwise form"
        )
    inside = probabilities if valid is None else probabilities * valid.to(image.dtype)
    space = (2, 3, 4)
    mean = (image * inside).mean(space, keepdim=True) / (inside.mean(space, keepdim=True) + 1e-5)
    weight = torch.exp(-((image - mean) ** 4) / sigma_i**2)
    if valid is not None:
        weight = weight * valid.to(image.dtype)
    reach = int(radius / spacing[0])
    kept = (inside * _blurred(inside * weight, sigma_x / spacing[0], reach)).sum(space)
    total = (inside * _blurred(weight, sigma_x / spacing[0], reach)).sum(space)
    ratio = (kept / (total + 1e-6)).abs()
    return probabilities.shape[1] - ratio.sum(1).mean()


def smoothed(image: Tensor, sigma: float) -> Tensor:
    """Gaussian mean of an image (N, C, z, y, x) over the voxels that exist; 0 voxels is none."""
    if sigma == 0:
        return image
    reach = math.ceil(3 * sigma)
    weight = _blurred(torch.ones_like(image[:1, :1]), sigma, reach)
    return _blurred(image, sigma, reach) / weight


def _blurred(values: Tensor, sigma: float, reach: int) -> Tensor:
    """Correlation of every channel with a Gaussian of height 1, cut to a cube; zeros outside."""
    taps = [math.exp(-(d**2) / (2 * sigma**2)) for d in range(-reach, reach + 1)]
    kernel = torch.tensor(taps, dtype=values.dtype, device=values.device)
    shape = values.shape
    blurred = values.reshape(-1, 1, *shape[2:])
    for axis in range(3):
        size = [1, 1, 1]
        size[axis] = len(taps)
        padding = [n // 2 for n in size]
        blurred = nnf.conv3d(blurred, kernel.reshape(1, 1, *size), padding=padding)
    return blurred.reshape(shape)


def _check(
    probabilities: Tensor, image: Tensor, valid: Tensor | None,
    sigma_i: float, sigma_x: float, radius: float,
) -> None:  # fmt: skip
    one_channel = (probabilities.shape[0], 1, *probabilities.shape[2:])
    for name, tensor in (("image", image), ("valid", valid)):
        if tensor is not None and tuple(tensor.shape) != one_channel:
            raise ConfigError(
                f"SoftNCuts: {name} of shape {tuple(tensor.shape)} does not fit probabilities of "
                f"shape {tuple(probabilities.shape)}: use {one_channel}"
            )
    for name, value in (("sigma_i", sigma_i), ("sigma_x", sigma_x), ("radius", radius)):
        if not (math.isfinite(value) and value > 0):
            raise ConfigError(f"SoftNCuts: {name} {value} is not positive: use a number over 0")


FORMS = {"pairwise": pairwise_ncuts, "centroid": centroid_ncuts}
