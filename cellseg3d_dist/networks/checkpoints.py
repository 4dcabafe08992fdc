"""Published checkpoints (``.pth``) as weights with a card.

A checkpoint is a pickle, which may run any code when it is read, so only tensors and plain
containers are accepted. Which network it belongs to is read off the names and shapes of
its tensors; the tensors themselves are kept as they are.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cellseg3d_dist.errors import OutputError, WeightsError
from cellseg3d_dist.networks.cards import Card, make_card, read_file
from cellseg3d_dist.networks.monai_networks import segresnet_state
from cellseg3d_dist.networks.weights import State, made, save_model
from cellseg3d_dist.paths import absolute_path

#: Micrometres of the mesoSPIM volumes that the published networks were trained on.
PUBLISHED_VOXEL_SIZE = (5.0, 5.26, 5.26)
_NESTED = ("model_state_dict", "state_dict", "model", "network", "net")
_SIDE = 32


@dataclass(frozen=True)
class Layout:
    """What the tensors of a checkpoint say about its network.

    Attributes
    ----------
    state : dict
        The tensors that inference needs, by the names in :func:`~.registry.build`.
    outputs : int or None
        Channels of the network's output, None if not known.
    input_scale : float
        What the brightest voxels were to the network in its training.
    """

    architecture: str
    state: State
    in_channels: int = 1
    outputs: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    input_scale: float = 1.0


def read_checkpoint(path: str | Path) -> State:
    """Tensors of a checkpoint.

    Those of ``model_state_dict`` or ``state_dict`` where it holds more than a network, and
    without the ``module.`` that parallel training puts before names.

    Raises
    ------
    WeightsError
        If it cannot be read, is empty, truncated, damaged or not fetched by git-lfs, or
        holds anything but tensors in plain containers: what could run code is never loaded.
    """
    path = absolute_path(path)
    content = read_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    # a damaged file raises nearly anything
    except Exception as error:
        raise WeightsError(f"checkpoint {path} {_why(error)}") from None
    state = _tensors(loaded)
    if not state:
        raise WeightsError(
            f"checkpoint {path} holds no tensors by name. Save the state_dict of the network."
        )
    while all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return state


def _why(error: Exception) -> str:
    named = re.search(r"(?:GLOBAL|class) [`']?([A-Za-z_][\w.]*)", str(error))
    if named:
        return (
            f"holds more than tensors: {named[1][:80]}. That could run code, so it was not "
            f"loaded. Save the state_dict of the network with torch.save."
        )
    return "is truncated or damaged, or no checkpoint of torch."


def _tensors(loaded: Any) -> State:
    while isinstance(loaded, Mapping):
        nested = next((loaded[key] for key in _NESTED if key in loaded), None)
        if not isinstance(nested, Mapping):
            break
        loaded = nested
    if not isinstance(loaded, Mapping):
        return {}
    kept = {str(name): value.detach() for name, value in loaded.items() if torch.is_tensor(value)}
    return {
        name: value.float() if value.is_floating_point() else value for name, value in kept.items()
    }


def _wnet3d(state: State) -> Layout:
    """The encoder, which is all that inference needs; widths from its blocks."""
    encoder = {
        name.removeprefix("encoder."): value
        for name, value in state.items()
        if not name.startswith("decoder.")
    }
    first = _shape(encoder, "in_b.module.0.weight")
    widths = (
        first[0],
        *(_shape(encoder, f"{b}.module.1.weight")[0] for b in ("conv1", "conv2", "bot")),
    )
    return Layout(
        "wnet3d",
        encoder,
        in_channels=first[1],
        outputs=_shape(encoder, "out_b.module.8.weight")[0],
        options={"widths": widths},
        # CellSeg3D maps every crop to 0..100
        input_scale=100.0,
    )


def _swinunetr(state: State) -> Layout:
    """Merging as in MONAI before 1.5, which the published weights were trained with."""
    first = _shape(state, "swinViT.patch_embed.proj.weight")
    options = {
        "feature_size": first[0],
        "residual_stages": any(name.startswith("swinViT.layers1c.") for name in state),
        "legacy_merging": True,
        "checkpointing": False,
    }
    return Layout("swinunetr", state, first[1], _shape(state, "out.conv.conv.weight")[0], options)


def _segresnet(state: State) -> Layout:
    """Without the variational branch, which only training uses."""
    kept = segresnet_state(state)
    first = _shape(kept, "convInit.conv.weight")
    outputs = _shape(kept, "conv_final.2.conv.weight")[0]
    return Layout("segresnet", kept, first[1], outputs, {"init_filters": first[0]})


def _vnet(state: State) -> Layout:
    first = _shape(state, "in_tr.conv_block.conv.weight")
    bias = "in_tr.conv_block.conv.bias" in state
    return Layout("vnet", state, first[1], _shape(state, "out_tr.conv2.weight")[0], {"bias": bias})


#: A tensor that only this architecture has, and what reads the rest off.
LAYOUTS: dict[str, tuple[str, Callable[[State], Layout]]] = {
    "wnet3d": ("encoder.in_b.module.0.weight", _wnet3d),
    "swinunetr": ("swinViT.patch_embed.proj.weight", _swinunetr),
    "segresnet": ("convInit.conv.weight", _segresnet),
    "vnet": ("in_tr.conv_block.conv.weight", _vnet),
}


def detect(state: State, where: str, architecture: str | None = None) -> Layout:
    """The layout of a checkpoint.

    Parameters
    ----------
    where : str
        Its name, for messages.
    architecture : str, optional
        What it must be. One that has no published layout is taken as it is.

    Raises
    ------
    WeightsError
        If it is no known layout, or not that of ``architecture``, with some of its names.
    """
    for name, (key, read) in LAYOUTS.items():
        if key in state and architecture in (None, name):
            return read(state)
    shown = ", ".join(list(state)[:4])
    if architecture in LAYOUTS:
        raise WeightsError(
            f"checkpoint {where} is not of the architecture {architecture}: it lacks "
            f"{LAYOUTS[architecture][0]}, and has {len(state)} tensors ({shown}, ...)."
        )
    if architecture is None:
        raise WeightsError(
            f"checkpoint {where} is of no known architecture: it has {len(state)} tensors "
            f"({shown}, ...). Known are {', '.join(LAYOUTS)}; others need --architecture."
        )
    return Layout(architecture, state)


def _shape(state: State, name: str) -> tuple[int, ...]:
    tensor = state.get(name)
    if tensor is None or tensor.ndim != 5:
        told = "is missing" if tensor is None else f"has {tensor.ndim} dimensions, not 5"
        raise WeightsError(f"checkpoint: {name} {told}, so the architecture cannot be read off.")
    return tuple(tensor.shape)


def convert_checkpoint(
    source: str | Path,
    target: str | Path,
    *,
    architecture: str | None = None,
    architecture_options: Mapping[str, Any] | None = None,
    representation: str = "foreground",
    foreground_channel: int | None = None,
    half: bool = False,
    overwrite: bool = False,
    **card: Any,
) -> Card:
    """Write ``target.safetensors`` and ``target.json`` of a published checkpoint.

    Parameters
    ----------
    source
        A ``.pth`` file: of WNet3D, SwinUNETR, SegResNet or VNet as CellSeg3D publishes
        them, or of another architecture that is named.
    architecture_options
        Over those that the tensors tell.
    foreground_channel : int, optional
        For networks with two classes; by default the class that goes with brightness on a
        synthetic image.
    **card
        Further keys of the card.

    Returns
    -------
    Card
        As written.

    Raises
    ------
    WeightsError
        If the checkpoint cannot be used; see :func:`read_checkpoint` and :func:`detect`.
    OutputError
        If there is such a file already.
    """
    target = _free(target, overwrite)
    state = read_checkpoint(source)
    layout = detect(state, str(source), architecture)
    values = _card_values(layout, target.name, representation)
    if foreground_channel is not None:
        values |= _foreground(foreground_channel, layout.outputs)
    values["architecture_options"] = {**layout.options, **(architecture_options or {})}
    values["training"] = {"converted_from": Path(source).name}
    values |= {key: value for key, value in card.items() if value is not None}
    where = f"of {target.name}"
    checked = make_card(values, where)
    network, _ = made(checked, layout.state, where, str(source))
    if values["representation_options"].get("classes") == 2 and foreground_channel is None:
        values |= _foreground(brighter_class(network.eval()), 2)
        checked = make_card(values, where)
    return save_model(target, network, checked, half=half)


def _free(target: str | Path, overwrite: bool) -> Path:
    """Path of the files without their suffixes."""
    path = absolute_path(target)
    path = path.with_suffix("") if path.suffix == ".safetensors" else path
    for suffix in (".safetensors", ".json"):
        file = path.with_name(path.name + suffix)
        if file.exists() and not overwrite:
            raise OutputError(f"{file} exists. Choose another name, or give --overwrite.")
    return path


def _card_values(layout: Layout, name: str, representation: str) -> dict[str, Any]:
    values: dict[str, Any] = {
        "name": name,
        "architecture": layout.architecture,
        "representation": representation,
        "representation_options": {},
        "in_channels": layout.in_channels,
        "input_scale": layout.input_scale,
        "voxel_size": PUBLISHED_VOXEL_SIZE,
        # the whole range of the image, but for stray voxels
        "normalisation": {"low": 0.1, "high": 99.9},
        "axes": "xyz" if layout.architecture in LAYOUTS else "zyx",
    }
    if representation != "foreground":
        return values
    if layout.outputs not in (None, 1, 2):
        raise WeightsError(
            f"the network has {layout.outputs} output channels, foreground has 1 or 2. Give "
            f"--representation."
        )
    options = {"classes": layout.outputs or 1}
    return values | {"representation_options": options, "threshold": 0.5}


def _foreground(channel: int, outputs: int | None) -> dict[str, Any]:
    options = {"classes": outputs or 1, "foreground_channel": channel}
    return {"foreground_channel": channel, "representation_options": options}


def brighter_class(network: torch.nn.Module) -> int:
    """Which of two classes is bright blobs on a dark background.

    Raises
    ------
    WeightsError
        If neither is, so that it must be told.
    """
    image = _blobs()
    with torch.inference_mode():
        output = network(torch.from_numpy(image)[None, None]).softmax(1)[0]
    bright = torch.from_numpy(image > 0.5)
    gain = [float(part[bright].mean() - part[~bright].mean()) for part in output]
    if not abs(gain[1] - gain[0]) > 0.02:
        raise WeightsError(
            "which of the two classes is foreground cannot be told from bright spots on a dark "
            "background. Give --foreground-channel."
        )
    return int(gain[1] > gain[0])


def _blobs() -> Any:
    """Noisy spots, float32 in [0, 1]."""
    rng = np.random.default_rng(0)
    grid = np.indices((_SIDE, _SIDE, _SIDE), np.float32)
    image = rng.normal(0.08, 0.02, (_SIDE, _SIDE, _SIDE)).astype(np.float32)
    for centre in rng.uniform(3, _SIDE - 3, (20, 3)).astype(np.float32):
        square = sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True))
        image = np.maximum(image, np.exp(-square / 8))
    return np.clip(image, 0, 1)
