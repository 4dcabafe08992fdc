"""The network architectures by name: build one, or ask which input sizes it takes."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from torch import nn

from cellseg3d_dist.errors import ConfigError
from cellseg3d_dist.grid import Triple
from cellseg3d_dist.networks.blocks import NetworkOptions
from cellseg3d_dist.networks.monai_networks import (
    SegResNetOptions,
    SwinUNETROptions,
    VNetOptions,
)
from cellseg3d_dist.networks.residual_unet import ResidualUNetOptions
from cellseg3d_dist.networks.unet import UNetOptions
from cellseg3d_dist.networks.wnet import WNet3D, WNetOptions


@dataclass(frozen=True)
class Architecture:
    """A kind of network.

    Attributes
    ----------
    options : type of NetworkOptions
        Its options with their defaults; they know the divisor and build the network.
    summary : str
        One line for lists.
    channels_last : bool
        Whether the CPU computes it faster with the channels of a voxel beside each other,
        as measured; it decides the last bits of a prediction.
    """

    options: type[NetworkOptions]
    summary: str
    channels_last: bool = False


ARCHITECTURES: dict[str, Architecture] = {
    "wnet3d": Architecture(WNetOptions, "WNet3D of CellSeg3D, trained without labels"),
    "unet": Architecture(UNetOptions, "3D U-Net with concatenated skips", channels_last=True),
    "residual_unet": Architecture(
        ResidualUNetOptions, "residual 3D U-Net of NucMM", channels_last=True
    ),
    "segresnet": Architecture(SegResNetOptions, "SegResNet of MONAI"),
    "swinunetr": Architecture(SwinUNETROptions, "SwinUNETR of MONAI"),
    "vnet": Architecture(VNetOptions, "V-Net of MONAI"),
}


def architecture_options(architecture: str, options: Mapping[str, Any]) -> NetworkOptions:
    """Checked options with the defaults filled in; ``model_dump(mode="json")`` is plain again.

    Raises
    ------
    ConfigError
        One line: an unknown architecture or option with the nearest known one, or what a
        value must be.
    """
    if architecture not in ARCHITECTURES:
        raise ConfigError(
            f"unknown architecture {architecture[:80]!r} ({_near(architecture, ARCHITECTURES)})."
        )
    kind = ARCHITECTURES[architecture].options
    try:
        return kind.model_validate(dict(options))
    except ValidationError as error:
        raise ConfigError(
            f"architecture {architecture}: {'; '.join(_lines(error, kind, options))}."
        ) from None


def build(
    architecture: str, in_channels: int = 1, out_channels: int = 2, **options: Any
) -> nn.Module:
    """A new network with random parameters, in training mode.

    Parameters
    ----------
    architecture : str
        A key of :data:`ARCHITECTURES`.
    in_channels, out_channels : int
        Channels of the image and of the network's output (for ``wnet3d``: of its encoder's).
    **options
        Of the architecture, see its options class; lists are taken for tuples.

    Returns
    -------
    Module
        Takes float (N, in_channels, z, y, x) with sizes that are multiples of
        :func:`divisor` and gives (N, out_channels, z, y, x) without activation;
        :class:`~cellseg3d_dist.networks.wnet.WNet3D` gives two tensors, see there.

    Raises
    ------
    ConfigError
        As :func:`architecture_options`, and for numbers of channels below 1.
    """
    checked = architecture_options(architecture, options)
    for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
        if channels < 1:
            raise ConfigError(f"architecture {architecture}: {name} {channels} must be at least 1.")
    return checked.network(in_channels, out_channels)


def divisor(architecture: str, options: Mapping[str, Any]) -> Triple:
    """Input sizes (z, y, x) must be multiples of these; the smallest that hold.

    Raises
    ------
    ConfigError
        As :func:`architecture_options`.
    """
    return architecture_options(architecture, options).divisor


def for_inference(network: nn.Module) -> nn.Module:
    """The part of a network that inference needs: the encoder of a WNet3D, else all of it."""
    return network.encoder if isinstance(network, WNet3D) else network


def _near(name: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"


def _lines(
    error: ValidationError, kind: type[NetworkOptions], given: Mapping[str, Any]
) -> list[str]:
    lines: dict[str, str] = {}
    for item in error.errors():
        # a rule between options names the one to change as its message's last word
        name = str(item["loc"][0]) if item["loc"] else item["msg"].split()[-1]
        if item["type"] == "extra_forbidden":
            lines[name] = f"unknown option {name[:80]!r} ({_near(name, kind.model_fields)})"
        else:
            shown = repr(given[name])
            shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
            lines[name] = f"option {name} {shown} must be {kind.model_fields[name].description}"
    return list(lines.values())
