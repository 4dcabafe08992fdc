"""What a patch costs a network, found without computing it: arithmetic and memory."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from math import prod

import torch
from torch.utils.flop_counter import FlopCounterMode

from cellseg3d_dist.grid import Triple
from cellseg3d_dist.networks.registry import divisor
from cellseg3d_dist.networks.weights import Model

#: Tensors of the size of the largest one that are alive together: a convolution's input,
#: output, both once more in the layout that it computes in, and an activation.
ALIVE = 5


@dataclass(frozen=True)
class Cost:
    """Of one patch.

    Attributes
    ----------
    flops : int
        Floating-point operations, a multiplication and an addition being two.
    activation_bytes : int
        Estimate of the memory that the patch needs at the fullest moment.
    weight_bytes : int
    """

    flops: int
    activation_bytes: int
    weight_bytes: int


def cost_of(model: Model) -> Cost:
    """Cost of one patch of a model."""
    known = _KNOWN.get(model.digest)
    if known is None:
        known = _KNOWN[model.digest] = _cost(model)
    return known


#: By the digest of the weights: a plan asks for many block shapes.
_KNOWN: dict[str, Cost] = {}


def _cost(model: Model) -> Cost:
    card = model.card
    try:
        return measure(copy.deepcopy(model.network).to("meta"), card.in_channels, card.patch)
    # SwinUNETR computes with tensors of its own; a small patch tells what a large one takes
    except (RuntimeError, NotImplementedError):
        z, y, x = divisor(card.architecture, card.architecture_options)
        small = measure(model.network, card.in_channels, (z, y, x))
        ratio = prod(card.patch) // (z * y * x)
        return Cost(small.flops * ratio, small.activation_bytes * ratio, small.weight_bytes)


def measure(network: torch.nn.Module, in_channels: int, patch: Triple) -> Cost:
    """Cost of one patch of a network; on the meta device nothing is computed."""
    outputs: list[int] = []
    hooks = [
        module.register_forward_hook(lambda _m, _i, out: outputs.append(_bytes(out)))
        for module in network.modules()
        if not any(module.children())
    ]
    parameters = list(network.parameters())
    counter = FlopCounterMode(display=False)
    with torch.inference_mode(), counter:
        network(torch.zeros((1, in_channels, *patch), device=parameters[0].device))
    for hook in hooks:
        hook.remove()
    weights = sum(p.numel() * p.element_size() for p in parameters)
    largest = max(outputs, default=0)
    return Cost(counter.get_total_flops(), ALIVE * largest + sum(outputs) // 8, weights)


def _bytes(out: object) -> int:
    if isinstance(out, torch.Tensor):
        return out.numel() * out.element_size()
    if isinstance(out, tuple | list):
        return sum(_bytes(part) for part in out)
    return 0
