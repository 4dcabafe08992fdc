"""Building blocks that the network architectures share, and the base of their options."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from cellseg3d_dist.errors import BadInputError
from cellseg3d_dist.grid import Triple

Width = Annotated[int, Field(strict=True, ge=1, le=4096)]
Fraction = Annotated[float, Field(strict=True, ge=0, lt=1)]
Truth = Annotated[bool, Field(strict=True)]


class NetworkOptions(BaseModel):
    """Options of one architecture: plain values that survive JSON, checked once.

    Every field's description says what its value must be, for error messages.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    def divisor(self) -> Triple:
        """Input sizes (z, y, x) must be multiples of these."""
        raise NotImplementedError

    def network(self, in_channels: int, out_channels: int) -> nn.Module:
        """A new network of these options, with random parameters, in training mode."""
        raise NotImplementedError


def key(expected: str, default: Any, **limits: Any) -> Any:
    """A field of :class:`NetworkOptions` with what its value must be."""
    return Field(default, description=expected, **limits)


def group_norm(channels: int, groups: int) -> nn.GroupNorm:
    """GroupNorm with as many of ``groups`` as divide both it and ``channels``."""
    return nn.GroupNorm(math.gcd(channels, groups), channels)


def same_convolution(
    channels_in: int, channels_out: int, kernel: Triple = (3, 3, 3), *, bias: bool = True
) -> nn.Conv3d:
    """A convolution with an odd kernel, zero-padded to the size of its input."""
    z, y, x = (size // 2 for size in kernel)
    return nn.Conv3d(channels_in, channels_out, kernel, padding=(z, y, x), bias=bias)


class InputCheck:
    """Refuses inputs whose shape a network would crash on or silently compute wrongly.

    A forward pre-hook, so that it adds no parameters and works for networks of other
    libraries too.

    Parameters
    ----------
    name : str
        The architecture, for messages.
    in_channels : int
        Channels of the input.
    divisor : tuple of int
        Input sizes (z, y, x) must be multiples of these.
    least : int
        Smallest number of voxels at the coarsest level.
    """

    def __init__(self, name: str, in_channels: int, divisor: Triple, least: int = 1) -> None:
        self.name, self.in_channels, self.divisor, self.least = name, in_channels, divisor, least

    def __call__(self, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        """Check the first positional argument of ``forward``.

        Raises
        ------
        BadInputError
            Naming the shape and what is needed.
        """
        shape = tuple(inputs[0].shape)
        if len(shape) != 5 or shape[1] != self.in_channels:
            raise BadInputError(
                f"Network {self.name} got an input of shape {shape}; it takes "
                f"(batch, {self.in_channels}, z, y, x)."
            )
        sizes = shape[2:]
        coarse = [size // d for size, d in zip(sizes, self.divisor, strict=True)]
        if any(size % d for size, d in zip(sizes, self.divisor, strict=True)) or 0 in coarse:
            raise BadInputError(
                f"Network {self.name} got {_times(sizes)} voxels (z, y, x); sizes must be "
                f"multiples of {_times(self.divisor)}. Pad the input or choose another patch."
            )
        if math.prod(coarse) < self.least:
            raise BadInputError(
                f"Network {self.name} got {_times(sizes)} voxels (z, y, x), which leaves "
                f"{math.prod(coarse)} at its coarsest level; it needs {self.least}. "
                "Choose a larger patch."
            )


def _times(sizes: Sequence[int]) -> str:
    return "x".join(str(size) for size in sizes)
