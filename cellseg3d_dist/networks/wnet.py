"""WNet3D: two U-Nets in a row, to learn a segmentation without labels.

The encoder assigns voxels to classes, the decoder rebuilds the image from them. Names and
shapes of the parameters are those of the published CellSeg3D checkpoints.
"""

from __future__ import annotations

import torch
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

Widths = tuple[Width, Width, Width, Width]
_GROUPS = 4
_DIVISOR = (8, 8, 8)


class WNetOptions(NetworkOptions):
    """Options of :class:`WNet3D`; its output channels are the encoder's classes."""

    widths: Widths = key("four numbers of channels from 1 to 4096", (64, 128, 256, 512))
    dropout: Fraction = key("a fraction from 0 to below 1", 0.65)

    @property
    def divisor(self) -> Triple:
        """Three halvings."""
        return _DIVISOR

    def network(self, in_channels: int, out_channels: int) -> WNet3D:
        """A new :class:`WNet3D`."""
        return WNet3D(in_channels, out_channels, self.widths, self.dropout)


class WNet3D(nn.Module):
    """Encoder to classes and decoder back to the image.

    Parameters
    ----------
    in_channels : int
        Channels of the image and of its reconstruction.
    classes : int
        Channels of the encoder's output.
    widths : tuple of int
        Channels at each of four levels, in both halves.
    dropout : float
        Fraction of activations dropped in training.

    Attributes
    ----------
    encoder, decoder : WNetHalf
        ``encoder(x)`` gives the logits of the classes and is all that inference needs.

    Notes
    -----
    After Achard et al., CellSeg3D (2024); W-Net of Xia and Kulis (2017) in 3D.
    """

    def __init__(
        self,
        in_channels: int = 1,
        classes: int = 2,
        widths: Widths = (64, 128, 256, 512),
        dropout: float = 0.65,
    ) -> None:
        super().__init__()
        self.encoder = WNetHalf(in_channels, classes, widths, dropout)
        self.decoder = WNetHalf(classes, in_channels, widths, dropout)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Classes and reconstruction of an image.

        Parameters
        ----------
        image : Tensor
            float (N, in_channels, z, y, x), sizes multiples of 8.

        Returns
        -------
        classes : Tensor
            (N, classes, z, y, x), softmax over the channels.
        reconstruction : Tensor
            (N, in_channels, z, y, x), without activation.
        """
        classes = torch.softmax(self.encoder(image), dim=1)
        return classes, self.decoder(classes)


class WNetHalf(nn.Module):
    """One of the two U-Nets: concatenated skips, max-pooling, transposed convolutions."""

    def __init__(self, in_channels: int, out_channels: int, widths: Widths, dropout: float) -> None:
        super().__init__()
        w0, w1, w2, w3 = widths
        self.in_b = _OuterBlock(in_channels, w0, dropout)
        self.conv1 = _Block(w0, w1, dropout)
        self.conv2 = _Block(w1, w2, dropout)
        self.bot = _Block(w2, w3, dropout)
        self.deconv2 = _Block(2 * w2, w2, dropout)
        self.deconv3 = _Block(2 * w1, w1, dropout)
        self.out_b = _OuterBlock(2 * w0, w0, dropout)
        self.out_b.module.append(nn.Conv3d(w0, out_channels, 1))
        self.conv_trans2 = nn.ConvTranspose3d(w3, w2, 2, stride=2)
        self.conv_trans3 = nn.ConvTranspose3d(w2, w1, 2, stride=2)
        self.conv_trans_out = nn.ConvTranspose3d(w1, w0, 2, stride=2)
        self.pool = nn.MaxPool3d(2)
        self.register_forward_pre_hook(InputCheck("wnet3d", in_channels, _DIVISOR))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits (N, out_channels, z, y, x) of (N, in_channels, z, y, x)."""
        fine = self.in_b(image)
        middle = self.conv1(self.pool(fine))
        coarse = self.conv2(self.pool(middle))
        up = self.conv_trans2(self.bot(self.pool(coarse)))
        up = self.conv_trans3(self.deconv2(torch.cat([coarse, up], dim=1)))
        up = self.conv_trans_out(self.deconv3(torch.cat([middle, up], dim=1)))
        logits: torch.Tensor = self.out_b(torch.cat([fine, up], dim=1))
        return logits


class _Block(nn.Module):
    """Twice a 3^3 and a 1^3 convolution, ReLU, dropout and GroupNorm."""

    def __init__(self, channels_in: int, channels_out: int, dropout: float) -> None:
        super().__init__()
        self.module = nn.Sequential(
            same_convolution(channels_in, channels_in),
            nn.Conv3d(channels_in, channels_out, 1),
            *_after(channels_out, dropout),
            same_convolution(channels_out, channels_out),
            nn.Conv3d(channels_out, channels_out, 1),
            *_after(channels_out, dropout),
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.module(features)
        return result


class _OuterBlock(nn.Module):
    """Twice a 3^3 convolution, ReLU, dropout and GroupNorm."""

    def __init__(self, channels_in: int, channels_out: int, dropout: float) -> None:
        super().__init__()
        self.module = nn.Sequential(
            same_convolution(channels_in, channels_out),
            *_after(channels_out, dropout),
            same_convolution(channels_out, channels_out),
            *_after(channels_out, dropout),
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.module(features)
        return result


def _after(channels: int, dropout: float) -> list[nn.Module]:
    return [nn.ReLU(inplace=True), nn.Dropout(dropout), group_norm(channels, _GROUPS)]
