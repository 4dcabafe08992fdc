"""Networks as files: safetensors for the numbers, a JSON card for what they mean.

Nothing that is loaded can run code: safetensors holds numbers only, and the card is
checked key by key before a network is built.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import safetensors
import safetensors.torch
import torch

from cellseg3d_dist.errors import (
    ConfigError,
    EnvironmentFailedError,
    WeightsError,
)
from cellseg3d_dist.networks.cards import Card, read_card, read_weights, resolve
from cellseg3d_dist.networks.registry import build, divisor, for_inference
from cellseg3d_dist.paths import absolute_path
from cellseg3d_dist.representations import decoding_parameters, representation

if TYPE_CHECKING:
    from cellseg3d_dist.representations.representation import Representation

State = dict[str, torch.Tensor]
_LISTED = 4


@dataclass(frozen=True)
class Model:
    """A network that is ready to predict, and what its input and output mean.

    Attributes
    ----------
    network : Module
        In evaluation mode; (N, in_channels, z, y, x) to (N, n_outputs, z, y, x).
    representation : Representation
        What the output means.
    digest : str
        SHA-256 of the file of weights.
    """

    network: torch.nn.Module
    card: Card
    representation: Representation
    digest: str


def save_model(
    path: str | Path, network: torch.nn.Module, card: Card, *, half: bool = False
) -> Card:
    """Write the part of a network that inference needs, and its card.

    Parameters
    ----------
    path
        Of the files without their suffixes, or with ``.safetensors``.
    half : bool
        Store 16-bit floats: half the size; about three decimal digits.

    Returns
    -------
    Card
        As written, with the file's SHA-256.

    Raises
    ------
    WeightsError
        If a number is not finite, or not within half precision.
    EnvironmentFailedError
        If the files cannot be written.
    """
    path = absolute_path(path)
    path = path.with_suffix("") if path.suffix == ".safetensors" else path
    network = network.network if isinstance(network, AsTrained) else network
    state = {
        name: _stored(name, tensor, half)
        for name, tensor in for_inference(network).state_dict().items()
    }
    content = safetensors.torch.save(state, {"format": "pt"})
    card = card.model_copy(update={"sha256": hashlib.sha256(content).hexdigest()})
    for target, data in ((".safetensors", content), (".json", card.to_json().encode())):
        _write(path.with_name(path.name + target), data)
    return card


def _stored(name: str, tensor: torch.Tensor, half: bool) -> torch.Tensor:
    tensor = tensor.detach().cpu()
    if tensor.is_floating_point():
        tensor = tensor.to(torch.float16 if half else torch.float32)
        if not torch.isfinite(tensor).all():
            limit = " within half precision" if half else ""
            raise WeightsError(f"weights {name} are not finite{limit}, so nothing was written.")
    return tensor.contiguous()


def _write(path: Path, content: bytes) -> None:
    """Old or new, never a part: whoever reads it may come at any time."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise EnvironmentFailedError(f"{path} cannot be written: {error.strerror}.") from error


def load_model(name: str | Path, device: str | torch.device = "cpu") -> Model:
    """The model of a name.

    Parameters
    ----------
    name
        As :func:`~.cards.resolve` takes.

    Raises
    ------
    WeightsError
        If there is no such model, its file is damaged or is not the one that its card
        tells of, or it does not fit the card's architecture; one line.
    """
    found = resolve(name)
    card = read_card(found.card)
    content, digest = read_weights(found, card)
    state = _parsed(found.weights, content)
    network, meaning = made(card, state, str(found.card), str(found.weights))
    return Model(network.eval().to(device), card, meaning, digest)


class AsTrained(torch.nn.Module):
    """A network given its input as it was in its training.

    Parameters
    ----------
    network : Module
    scale : float
        What the value 1 of a normalised image was.
    reverse : bool
        Whether the axes were (x, y, z).
    """

    def __init__(self, network: torch.nn.Module, scale: float, reverse: bool) -> None:
        super().__init__()
        self.network, self.scale, self.reverse = network, scale, reverse

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Output (N, C, z, y, x) of a normalised image (N, 1, z, y, x)."""
        image = image * self.scale
        if not self.reverse:
            output: torch.Tensor = self.network(image)
            return output
        output = self.network(image.transpose(2, 4).contiguous())
        return output.transpose(2, 4)


def made(
    card: Card, state: State, where: str, weights: str
) -> tuple[torch.nn.Module, Representation]:
    """Network and representation of a card, with these parameters.

    Parameters
    ----------
    where, weights
        Names of card and weights for messages.

    Raises
    ------
    WeightsError
        As :func:`load_model`.
    """
    try:
        meaning = representation(card.representation, **card.representation_options)
        decoding_parameters(meaning, card.decoder)
        step = divisor(card.architecture, card.architecture_options)
        if card.in_channels != 1:
            raise ConfigError(f"in_channels {card.in_channels} must be 1: images are given singly.")
        if any(size % d for size, d in zip(card.patch, step, strict=True)):
            raise ConfigError(f"patch {card.patch} must be multiples of {step} voxels.")
        network = _empty(card, meaning.n_outputs)
    except ConfigError as error:
        raise WeightsError(f"card {where}: {error}") from None
    # options that fit no network raise what they will
    except (TypeError, ValueError) as error:
        detail = " ".join(str(error).split())[:200]
        raise WeightsError(f"card {where}: options that cannot be used: {detail}.") from None
    fill(network, state, weights, card.architecture)
    if card.input_scale != 1 or card.axes != "zyx":
        network = AsTrained(network, card.input_scale, card.axes == "xyz")
    return network, meaning


def _empty(card: Card, n_outputs: int) -> torch.nn.Module:
    """The card's network without numbers, so that no memory is used before shapes are checked."""
    options = (card.architecture, card.in_channels, n_outputs)
    try:
        with torch.device("meta"):
            network = for_inference(build(*options, **card.architecture_options))
        stored = network.state_dict()
        if all(name in stored for name, _ in network.named_buffers()):
            return network
    # SwinUNETR computes with tensors while it is built
    except RuntimeError:
        pass
    return for_inference(build(*options, **card.architecture_options))


def fill(network: torch.nn.Module, state: State, where: str, architecture: str) -> None:
    """Give a network its numbers.

    Raises
    ------
    WeightsError
        If names or shapes are not those of the architecture, listing some, or a number is
        not finite.
    """
    needed = network.state_dict()
    faults = [
        *_listed("missing", [name for name in needed if name not in state]),
        *_listed("unexpected", [name for name in state if name not in needed]),
        *_listed(
            "of another shape",
            [
                f"{name} {_shape(state[name])}, not {_shape(needed[name])}"
                for name in needed
                if name in state and state[name].shape != needed[name].shape
            ],
        ),
    ]
    if faults:
        raise WeightsError(
            f"weights {where} are not of the architecture {architecture} with the options given: "
            f"{'; '.join(faults)}."
        )
    for name, tensor in state.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise WeightsError(f"weights {where}: {name} has values that are not finite (NaN).")
    network.load_state_dict(
        {name: state[name].to(needed[name].dtype) for name in needed}, assign=True
    )


def _listed(what: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return [f"{len(names)} {what} ({', '.join(names[:_LISTED])}{more})"]


def _shape(tensor: torch.Tensor) -> str:
    return "x".join(str(size) for size in tensor.shape) or "scalar"


def _parsed(path: Path, content: bytes) -> State:
    try:
        tensors: State = safetensors.torch.load(content)
    except (safetensors.SafetensorError, ValueError, KeyError, json.JSONDecodeError) as error:
        detail = " ".join(str(error).split())[:120]
        raise WeightsError(
            f"weights {path} are truncated or damaged, or no safetensors: {detail}."
        ) from None
    half = (torch.float16, torch.bfloat16)
    return {
        name: tensor.float() if tensor.dtype in half else tensor for name, tensor in tensors.items()
    }
