"""3D U-Net: double convolutions, max-pooling, transposed convolutions, concatenated skips."""

from __future__ import annotations

import itertools
from typing import Annotated

import torch
from pydantic import Field
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


class UNetOptions(NetworkOptions):
    """Options of :class:`UNet3D`."""

    widths: Annotated[tuple[Width, ...], Field(min_length=2, max_length=8)] = key(
        "two to eight numbers of channels from 1 to 4096", (64, 128, 256)
    )
    dropout: Fraction = key("a fraction from 0 to below 1", 0.0)

    @property
    def divisor(self) -> Triple:
        """One halving between two levels."""
        step = 2 ** (len(self.widths) - 1)
        return (step, step, step)

    def network(self, in_channels: int, out_channels: int) -> UNet3D:
        """A new :class:`UNet3D`."""
        return UNet3D(in_channels, out_channels, self)


class UNet3D(nn.Module):
    """U-Net of Çiçek et al. (2016) with GroupNorm, which does not depend on the batch.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels of the image and of the logits.
    options : UNetOptions
        ``widths`` are the channels of each level, the finest first.
    """

    def __init__(self, in_channels: int, out_channels: int, options: UNetOptions) -> None:
        super().__init__()
        widths, dropout = options.widths, options.dropout
        steps = list(itertools.pairwise(widths))
        self.first = _double(in_channels, widths[0], dropout)
        self.down = nn.ModuleList(_double(fine, coarse, dropout) for fine, coarse in steps)
        self.up = nn.ModuleList(
            nn.ConvTranspose3d(coarse, fine, 2, stride=2) for fine, coarse in reversed(steps)
        )
        self.join = nn.ModuleList(_double(2 * fine, fine, dropout) for fine, _ in reversed(steps))
        self.last = nn.Conv3d(widths[0], out_channels, 1)
        self.pool = nn.MaxPool3d(2)
        self.register_forward_pre_hook(InputCheck("unet", in_channels, options.divisor))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits (N, out_channels, z, y, x) of (N, in_channels, z, y, x)."""
        features = self.first(image)
        skips = []
        for block in self.down:
            skips.append(features)
            features = block(self.pool(features))
        for up, join in zip(self.up, self.join, strict=True):
            features = join(torch.cat([skips.pop(), up(features)], dim=1))
        logits: torch.Tensor = self.last(features)
        return logits


def _double(channels_in: int, channels_out: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        same_convolution(channels_in, channels_out, bias=False),
        group_norm(channels_out, _GROUPS),
        nn.ReLU(inplace=True),
        nn.Dropout3d(dropout),
        same_convolution(channels_out, channels_out, bias=False),
        group_norm(channels_out, _GROUPS),
        nn.ReLU(inplace=True),
    )
