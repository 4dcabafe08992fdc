"""Training with labels: a network learns to predict a representation of the cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from cellseg3d_dist.networks.cards import Card
from cellseg3d_dist.networks.normalisation import normalise
from cellseg3d_dist.networks.weights import Model, save_model
from cellseg3d_dist.representations import Representation
from cellseg3d_dist.training.objective import Batch, Forward, Panel
from cellseg3d_dist.training.patches import PatchSampler
from cellseg3d_dist.training.validation import (
    ValidationVolume,
    predicted,
    scores_of,
    table_of,
)


@dataclass
class Supervised:
    """A network, a representation, and labelled patches.

    Attributes
    ----------
    card : Card
        Of the weights that will be saved; without scores.
    volumes : sequence of ValidationVolume
        May be empty.
    score : str
        What validation maximises: mean_f1, f1 or dice.
    ignore : int or None
        Value of labels where nothing is known.
    """

    network: torch.nn.Module
    representation: Representation
    sampler: PatchSampler
    card: Card
    volumes: Sequence[ValidationVolume] = ()
    score: str = "mean_f1"
    ignore: int | None = None
    parameters: Any = None
    _shown: list[Panel] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Take the representation's own parameters where none are given."""
        if self.parameters is None:
            self.parameters = self.representation.parameters

    def batch(self, index: int) -> Batch:
        """Images, targets and where these are known."""
        made = self.sampler.batch(index)
        return {
            "image": torch.from_numpy(made.image),
            "target": None if made.target is None else torch.from_numpy(made.target),
            "valid": None if made.valid is None else torch.from_numpy(made.valid),
        }

    def loss(
        self, forward: Forward, batch: Batch, step: int
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The representation's loss."""
        image, target = batch["image"], batch["target"]
        if image is None or target is None:
            raise ValueError("a batch without labels")
        return self.representation.loss(forward(image), target, batch["valid"]), {}

    def validate(self, network: torch.nn.Module) -> dict[str, float]:
        """Scores of all validation volumes, predicted whole."""
        if not self.volumes:
            return {}
        model = Model(network, self.card, self.representation, digest="")
        tables = []
        for number, volume in enumerate(self.volumes):
            channels, labels = predicted(model, volume, _device(network), self.parameters)
            tables.append(table_of(volume.labels, labels, self.ignore))
            if number == 0:
                self._shown = self._panels(volume, channels, labels)
        return scores_of(tables, self.score)

    def picture(self, network: torch.nn.Module) -> Sequence[Panel]:
        """The first validation volume as it was validated; else the first training patch."""
        if self._shown:
            return self._shown
        batch = self.batch(0)
        image, target = batch["image"], batch["target"]
        if image is None or target is None:
            return []
        with torch.inference_mode():
            output = network(image[:1].to(_device(network)))
            channels = self.representation.activate(output)[0].float().cpu().numpy()
        targets = [Panel(f"target {n}", part.numpy()) for n, part in enumerate(target[0])]
        named = zip(self.representation.channels, channels, strict=True)
        outputs = [Panel(f"output {name}", part) for name, part in named]
        return [Panel(f"input {n}", part.numpy()) for n, part in enumerate(image[0])] + (
            targets + outputs
        )

    def _panels(self, volume: ValidationVolume, channels: Any, labels: Any) -> list[Panel]:
        """Input, targets, outputs and labels; few channels of representations with many."""
        most = 6
        known = np.where(volume.labels == self.ignore, 0, volume.labels)
        targets = self.representation.encode(known, volume.voxel_size)[:most]
        named = list(zip(self.representation.channels, channels, strict=True))[:most]
        return [
            Panel("input", normalise(volume.image, *volume.constants)),
            Panel("labels_true", known, labels=True),
            Panel("labels_pred", labels, labels=True),
            *(Panel(f"target {n}", part) for n, part in enumerate(targets)),
            *(Panel(f"output {name}", part / np.float32(255)) for name, part in named),
        ]

    def save(
        self, path: str, network: torch.nn.Module, scores: Mapping[str, float], training: Any
    ) -> None:
        """Write weights and card."""
        shown = {key: round(value, 6) for key, value in scores.items() if key != "score"}
        card = self.card.model_copy(update={"training": training, "scores": shown})
        save_model(path, network, card)


def _device(network: torch.nn.Module) -> str:
    return str(next(network.parameters()).device)
