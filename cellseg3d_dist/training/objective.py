"""What is trained, and how its loss, its scores and its pictures come about.

The loop (:mod:`~cellseg3d_dist.training.loop`) knows steps, optimisers and files; an
objective knows networks and images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy.typing as npt
import torch

#: Tensors of a step: ``image`` (N, 1, z, y, x), and where there are labels ``target``
#: (N, T, z, y, x) and ``valid`` (N, 1, z, y, x), 1 where the target is known, or None.
Batch = Mapping[str, torch.Tensor | None]
#: The network in training, wrapped for mixed precision and several processes; gives what the
#: network gives, in float32.
Forward = Callable[[torch.Tensor], Any]


@dataclass(frozen=True)
class Panel:
    """One volume of a picture of what the network does.

    Attributes
    ----------
    volume : (z, y, x)
    labels : bool
        Drawn with a colour per label.
    """

    title: str
    volume: npt.NDArray[Any]
    labels: bool = False


class Objective(Protocol):
    """A network and what it is to learn."""

    @property
    def network(self) -> torch.nn.Module:
        """What is trained."""
        ...

    def batch(self, index: int) -> Batch:
        """The batch of that number, on the CPU: a pure function of the seed and ``index``.

        Called from a thread of its own, so it must not touch the state of torch.
        """
        ...

    def loss(
        self, forward: Forward, batch: Batch, step: int
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss of a batch on the device, and its parts to be logged (none: empty)."""
        ...

    def validate(self, network: torch.nn.Module) -> dict[str, float]:
        """Scores of the validation volumes; ``score`` is to be as large as possible.

        Empty where there are no validation volumes. ``network`` is in evaluation mode, with
        averaged weights where these are kept.
        """
        ...

    def picture(self, network: torch.nn.Module) -> Sequence[Panel]:
        """Inputs and outputs of one volume."""
        ...

    def save(
        self, path: str, network: torch.nn.Module, scores: Mapping[str, float], training: Any
    ) -> None:
        """Write weights and card to ``path`` + ``.safetensors`` and ``.json``.

        ``training`` goes into the card: data, method, steps, seed, command.
        """
        ...
