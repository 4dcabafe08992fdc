"""Networks of MONAI with the options of CellSeg3D; MONAI is imported when one is built."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn

from cellseg3d_dist.errors import ConfigError, EnvironmentFailedError
from cellseg3d_dist.grid import Triple
from cellseg3d_dist.networks.blocks import Fraction, InputCheck, NetworkOptions, Truth, Width, key

_FRACTION = "a fraction from 0 to below 1"
_TRUTH = "true or false"

# (z, y, x) of the eight voxels that a patch merging takes from each 2x2x2 cell, in the order
# of SwinUNETR before MONAI 1.5: two of them twice, two never
LEGACY_OFFSETS = (
    (0, 0, 0),
    (1, 0, 0),
    (0, 1, 0),
    (0, 0, 1),
    (1, 0, 1),
    (0, 1, 0),
    (0, 0, 1),
    (1, 1, 1),
)


class SegResNetOptions(NetworkOptions):
    """Options of MONAI's SegResNet."""

    init_filters: Annotated[Width, Field(multiple_of=8)] = key("a multiple of 8 channels", 8)
    dropout: Fraction = key(_FRACTION, 0.3)

    @property
    def divisor(self) -> Triple:
        """Three halvings."""
        return (8, 8, 8)

    def network(self, in_channels: int, out_channels: int) -> nn.Module:
        """MONAI's SegResNet with GroupNorm of 8 groups."""
        from monai.networks.nets.segresnet import SegResNet

        network: nn.Module = SegResNet(
            spatial_dims=3,
            init_filters=self.init_filters,
            in_channels=in_channels,
            out_channels=out_channels,
            dropout_prob=self.dropout,
        )
        network.register_forward_pre_hook(InputCheck("segresnet", in_channels, self.divisor))
        return network


class SwinUNETROptions(NetworkOptions):
    """Options of MONAI's SwinUNETR.

    ``legacy_merging`` computes what MONAI before 1.5 did, for weights trained with it.
    """

    feature_size: Annotated[Width, Field(multiple_of=12)] = key("a multiple of 12 channels", 48)
    dropout: Fraction = key(_FRACTION, 0.5)
    attention_dropout: Fraction = key(_FRACTION, 0.5)
    checkpointing: Truth = key(_TRUTH, True)
    residual_stages: Truth = key(_TRUTH, True)
    legacy_merging: Truth = key(_TRUTH, False)

    @property
    def divisor(self) -> Triple:
        """Five halvings."""
        return (32, 32, 32)

    def network(self, in_channels: int, out_channels: int) -> nn.Module:
        """MONAI's SwinUNETR; with ``residual_stages`` its second version.

        Raises
        ------
        EnvironmentFailedError
            If einops is not installed, which MONAI would notice in the first forward pass only.
        """
        if find_spec("einops") is None:
            raise EnvironmentFailedError(
                "architecture swinunetr needs the package einops, which is not installed here. "
                "Run pip install einops, or choose another architecture."
            )
        from monai.networks.nets.swin_unetr import SwinUNETR

        # MONAI calls it, though its annotation asks for a module
        merging: Any = LegacyPatchMerging if self.legacy_merging else "merging"
        network: nn.Module = SwinUNETR(
            in_channels=in_channels,
            out_channels=out_channels,
            feature_size=self.feature_size,
            drop_rate=self.dropout,
            attn_drop_rate=self.attention_dropout,
            use_checkpoint=self.checkpointing,
            use_v2=self.residual_stages,
            downsample=merging,
        )
        # instance normalisation has no variance at a single voxel
        check = InputCheck("swinunetr", in_channels, self.divisor, least=2)
        network.register_forward_pre_hook(check)
        return network


class VNetOptions(NetworkOptions):
    """Options of MONAI's VNet."""

    dropout: Fraction = key(_FRACTION, 0.5)
    bias: Truth = key(_TRUTH, True)

    @property
    def divisor(self) -> Triple:
        """Four halvings."""
        return (16, 16, 16)

    def network(self, in_channels: int, out_channels: int) -> nn.Module:
        """MONAI's VNet.

        Raises
        ------
        ConfigError
            If ``in_channels`` does not divide 16, the channels of its first level.
        """
        from monai.networks.nets.vnet import VNet

        if 16 % in_channels:
            raise ConfigError(f"architecture vnet: in_channels {in_channels} must divide 16.")
        network: nn.Module = VNet(
            spatial_dims=3,
            in_channels=in_channels,
            out_channels=out_channels,
            dropout_prob_down=self.dropout,
            dropout_prob_up=(self.dropout, self.dropout),
            bias=self.bias,
        )
        network.register_forward_pre_hook(InputCheck("vnet", in_channels, self.divisor))
        return network


class LegacyPatchMerging(nn.Module):
    """Halve the size: eight voxels of each 2x2x2 cell side by side, normalised and mixed.

    Parameters and their names are those of MONAI's patch merging; only the voxels differ,
    see :data:`LEGACY_OFFSETS`. The signature is what ``SwinUNETR(downsample=...)`` calls.

    Parameters
    ----------
    dim : int
        Channels C of the input.
    norm_layer : type
        Normalisation over the last axis.
    spatial_dims : int
        3.
    """

    def __init__(
        self, dim: int, norm_layer: type[nn.LayerNorm] = nn.LayerNorm, spatial_dims: int = 3
    ) -> None:
        super().__init__()
        if spatial_dims != 3:
            raise ValueError(f"legacy patch merging is for 3 dimensions, not {spatial_dims}")
        self.reduction = nn.Linear(8 * dim, 2 * dim, bias=False)
        self.norm = norm_layer(8 * dim)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(N, z/2, y/2, x/2, 2C) of (N, z, y, x, C); odd sizes are padded with zeros."""
        z, y, x = (size % 2 for size in tokens.shape[1:4])
        tokens = nn.functional.pad(tokens, (0, 0, 0, x, 0, y, 0, z))
        taken = [tokens[:, i::2, j::2, k::2] for i, j, k in LEGACY_OFFSETS]
        merged: torch.Tensor = self.reduction(self.norm(torch.cat(taken, dim=-1)))
        return merged


def segresnet_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """What a SegResNet needs of the state of a SegResNetVAE: all but the ``vae`` keys."""
    return {name: value for name, value in state.items() if not name.startswith("vae")}
