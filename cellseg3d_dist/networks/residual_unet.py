"""Residual 3D U-Net with additive skips, whose first levels may be anisotropic."""

from __future__ import annotations

from typing import Annotated, Self

import torch
from pydantic import Field, model_validator
from torch import nn

from cellseg3d_dist.grid import Triple
from cellseg3d_dist.networks.blocks import (
    Fraction,
    InputCheck,
    NetworkOptions,
    Width,
    group_norm,
    key,
    same_convolution,
)

_GROUPS = 8


class ResidualUNetOptions(NetworkOptions):
    """Options of :class:`ResidualUNet3D`."""

    widths: Annotated[tuple[Width, ...], Field(min_length=2, max_length=8)] = key(
        "two to eight numbers of channels from 1 to 4096", (32, 64, 96, 128, 160)
    )
    anisotropic_levels: Annotated[int, Field(strict=True, ge=0)] = key(
        "a whole number from 0 to the number of widths", 0
    )
    dropout: Fraction = key("a fraction from 0 to below 1", 0.0)

    @model_validator(mode="after")
    def _levels_exist(self) -> Self:
        if self.anisotropic_levels > len(self.widths):
            raise ValueError("anisotropic_levels")
        return self

    @property
    def divisor(self) -> Triple:
        """One halving between two levels, along z only below the anisotropic ones."""
        halvings = len(self.widths) - 1
        plane = 2**halvings
        return (2 ** max(0, halvings - self.anisotropic_levels), plane, plane)

    def network(self, in_channels: int, out_channels: int) -> ResidualUNet3D:
        """A new :class:`ResidualUNet3D`."""
        return ResidualUNet3D(in_channels, out_channels, self)

    def kernel(self, level: int) -> Triple:
        """Kernel of the convolutions at a level."""
        return (1, 3, 3) if level < self.anisotropic_levels else (3, 3, 3)

    def stride(self, level: int) -> Triple:
        """Step from a level to the next coarser one."""
        return (1, 2, 2) if level < self.anisotropic_levels else (2, 2, 2)


class ResidualUNet3D(nn.Module):
    """The U-Net of NucMM: residual blocks, GroupNorm, ELU, skips added.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels of the image and of the output, which has no activation.
    options : ResidualUNetOptions
        ``widths`` are the channels of each level, the finest first; the first
        ``anisotropic_levels`` of them use kernels (1, 3, 3) and pooling (1, 2, 2).

    Notes
    -----
    After Lin et al., NucMM (MICCAI 2021).
    """

    def __init__(self, in_channels: int, out_channels: int, options: ResidualUNetOptions) -> None:
        super().__init__()
        widths, dropout = options.widths, options.dropout
        levels = range(len(widths))
        self.first = same_convolution(in_channels, widths[0], options.kernel(0))
        before = (widths[0], *widths)
        self.down = nn.ModuleList(
            ResidualBlock(before[n], widths[n], options.kernel(n), dropout) for n in levels
        )
        self.pool = nn.ModuleList(nn.MaxPool3d(options.stride(n)) for n in levels[:-1])
        self.up = nn.ModuleList(
            nn.ConvTranspose3d(
                widths[n + 1], widths[n], options.stride(n), stride=options.stride(n)
            )
            for n in reversed(levels[:-1])
        )
        self.join = nn.ModuleList(
            ResidualBlock(widths[n], widths[n], options.kernel(n), dropout)
            for n in reversed(levels[:-1])
        )
        self.last = nn.Conv3d(widths[0], out_channels, 1)
        self.register_forward_pre_hook(InputCheck("residual_unet", in_channels, options.divisor))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Output (N, out_channels, z, y, x) of (N, in_channels, z, y, x)."""
        features = self.down[0](self.first(image))
        skips = []
        for pool, block in zip(self.pool, self.down[1:], strict=True):
            skips.append(features)
            features = block(pool(features))
        for up, join in zip(self.up, self.join, strict=True):
            features = join(up(features) + skips.pop())
        output: torch.Tensor = self.last(features)
        return output


class ResidualBlock(nn.Module):
    """Two convolutions with GroupNorm and ELU, added to their input."""

    def __init__(self, channels_in: int, channels_out: int, kernel: Triple, dropout: float) -> None:
        super().__init__()
        self.body = nn.Sequential(
            same_convolution(channels_in, channels_out, kernel, bias=False),
            group_norm(channels_out, _GROUPS),
            nn.ELU(inplace=True),
            nn.Dropout3d(dropout),
            same_convolution(channels_out, channels_out, kernel, bias=False),
            group_norm(channels_out, _GROUPS),
        )
        self.shortcut = (
            nn.Identity()
            if channels_in == channels_out
            else nn.Conv3d(channels_in, channels_out, 1, bias=False)
        )
        self.activation = nn.ELU(inplace=True)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(N, channels_out, z, y, x) of (N, channels_in, z, y, x)."""
        result: torch.Tensor = self.activation(self.body(features) + self.shortcut(features))
        return result
