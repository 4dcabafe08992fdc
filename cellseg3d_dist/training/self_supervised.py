"""Training without labels: WNet3D, classes that cut little and still tell the image.

::

    image ──encoder──► classes (softmax) ──decoder──► reconstruction
              │           │                              │
              └─SoftNCuts─┴── alike neighbours together  └── close to the image

The sum of both losses goes back in one pass. The network sees the image as everywhere,
normalised to about 0..1; only the losses see it as 0..100, so that their weights are those of
published WNets. Which class is the cells is decided once, and stored in the card.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as nnf
from pydantic import BaseModel, ConfigDict, Field

from cellseg3d_dist.config import validated
from cellseg3d_dist.networks.cards import Card
from cellseg3d_dist.networks.normalisation import normalise
from cellseg3d_dist.networks.registry import for_inference
from cellseg3d_dist.networks.weights import Model, save_model
from cellseg3d_dist.representations.foreground import Foreground, ForegroundParameters
from cellseg3d_dist.training.augmentation import Augmentation
from cellseg3d_dist.training.objective import Batch, Forward, Panel
from cellseg3d_dist.training.softncuts import FORMS, ISOTROPIC, Spacing, smoothed
from cellseg3d_dist.training.validation import (
    ValidationVolume,
    predicted,
    scores_of,
    table_of,
)

#: The losses see images of 0..100.
SCALE = 100.0
#: Where thresholds are sought: 0 to 1 in steps of 0.05.
THRESHOLDS = np.linspace(0, 1, 21)
#: Flips and quarter turns only: anything else would change what intensities say.
FLIPS_AND_TURNS = Augmentation(**{**vars(Augmentation.none()), "flip": 0.5, "quarter_turns": 1.0})
_A_POSITIVE = "a number above 0"


def _key(expected: str, default: Any, **limits: Any) -> Any:
    """A key with what its value must be, as error messages say it."""
    return Field(default, description=expected, **limits)


class WNetLoss(BaseModel):
    """What decides the loss, see :mod:`.softncuts`.

    Attributes
    ----------
    form : {'pairwise', 'centroid'}
        Of the cut.
    w_ncut, w_rec : float
        Weights of the cut and of the reconstruction.
    reconstruction : {'mse', 'bce'}
        Mean squared error on 0..100, or binary cross-entropy of the sigmoid on 0..1.
    sigma_i, sigma_x, radius : float
        Of the cut; intensities on 0..100, distances in voxels of the finest axis.
    smoothing : float
        Standard deviation, in voxels, of a Gaussian over the image whose intensities the cut
        compares: noise of a camera makes neighbours differ more than cell and background do.
    physical : bool
        Distances in the cut follow the voxel size; else every axis counts voxels.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    form: Literal["pairwise", "centroid"] = _key("pairwise or centroid", "pairwise")
    w_ncut: float = _key("a number of at least 0", 0.5, ge=0)
    w_rec: float = _key("a number of at least 0", 0.02, ge=0)
    reconstruction: Literal["mse", "bce"] = _key("mse or bce", "mse")
    sigma_i: float = _key(_A_POSITIVE, 100.0, gt=0)
    sigma_x: float = _key(_A_POSITIVE, 4.0, gt=0)
    radius: float = _key("a number above 0, at most 10", 2.0, gt=0, le=10)
    smoothing: float = _key("a number of voxels from 0 to 10", 0.8, ge=0, le=10)
    physical: bool = _key("true or false", False)

    def parts(
        self, image: torch.Tensor, classes: torch.Tensor, rebuilt: torch.Tensor, spacing: Spacing
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss, and ``ncut`` and ``reconstruction`` before they are weighted.

        Parameters
        ----------
        image : Tensor (N, 1, z, y, x)
            Normalised to about 0..1; what is beyond counts as 0 or 1.
        classes : Tensor (N, K, z, y, x)
            Probabilities.
        rebuilt : Tensor (N, 1, z, y, x)
            The reconstruction: of the image for ``mse``, its logit for ``bce``.
        spacing : (float, float, float)
            Of neighbouring voxels in ``radius``' unit.
        """
        unit = image.clamp(0, 1)
        compared = SCALE * smoothed(unit, self.smoothing)
        cut = FORMS[self.form](
            classes, compared, sigma_i=self.sigma_i, sigma_x=self.sigma_x,
            radius=self.radius, spacing=spacing if self.physical else ISOTROPIC,
        )  # fmt: skip
        if self.reconstruction == "mse":
            # the decoder's output is in the image's unit: a hundred times larger numbers
            # would have to be learned first
            error = SCALE**2 * nnf.mse_loss(rebuilt, unit)
        else:
            error = nnf.binary_cross_entropy_with_logits(rebuilt, unit)
        parts = {"ncut": cut.detach(), "reconstruction": error.detach()}
        return self.w_ncut * cut + self.w_rec * error, parts


def make_wnet_loss(given: Mapping[str, Any]) -> WNetLoss:
    """The loss of these options.

    Raises
    ------
    ConfigError
        One line with every option that is unknown or cannot be.
    """
    return validated(WNetLoss, given, "objective_options")


class Images(Protocol):
    """Where patches come from: :class:`.patches.PatchSampler` without a representation."""

    def batch(self, step: int) -> Any:
        """Something with ``image``, float32 (N, 1, z, y, x)."""
        ...


@dataclass
class SelfSupervised:
    """WNet3D on patches of images.

    Attributes
    ----------
    network : WNet3D
        Gives classes and reconstruction.
    sampler : Images
        Of training patches.
    card : Card
        Of the weights that will be saved; without scores.
    held_out : Images or None
        Patches of other images, for the loss where there are no labels.
    volumes : sequence of ValidationVolume
        With labels; may be empty.
    score : str
        What validation maximises where there are labels, one of
        :data:`~.validation.SCORES`; else it is the negative loss.
    """

    network: torch.nn.Module
    sampler: Images
    card: Card
    terms: WNetLoss = field(default_factory=WNetLoss)
    held_out: Images | None = None
    volumes: Sequence[ValidationVolume] = ()
    score: str = "dice"
    ignore: int | None = None
    n_probes: int = 8
    _shown: list[Panel] = field(default_factory=list)

    @property
    def spacing(self) -> Spacing:
        """Distances of voxels in voxels of the finest axis."""
        z, y, x = (size / min(self.card.voxel_size) for size in self.card.voxel_size)
        return (z, y, x)

    def batch(self, index: int) -> Batch:
        """Images alone."""
        return {"image": torch.from_numpy(self.sampler.batch(index).image)}

    def loss(
        self, forward: Forward, batch: Batch, step: int
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Both losses, weighted."""
        image = batch["image"]
        if image is None:
            raise ValueError("a batch without images")
        classes, rebuilt = forward(image)
        return self.terms.parts(image, classes.float(), rebuilt.float(), self.spacing)

    def validate(self, network: torch.nn.Module) -> dict[str, float]:
        """Scores of labelled volumes at the best threshold, else the loss of other patches."""
        if self.volumes:
            return self._scores(network)
        if self.held_out is None:
            return {}
        sums = np.zeros(3)
        with torch.inference_mode():
            for index in range(self.n_probes):
                image = torch.from_numpy(self.held_out.batch(index).image).to(_device(network))
                classes, rebuilt = network(image)
                total, parts = self.terms.parts(image, classes, rebuilt, self.spacing)
                sums += (float(total), float(parts["ncut"]), float(parts["reconstruction"]))
        total_loss, cut, error = (float(value) for value in sums / self.n_probes)
        return {
            "validation_loss": total_loss,
            "validation_ncut": cut,
            "validation_reconstruction": error,
            "score": -total_loss,
        }

    def _scores(self, network: torch.nn.Module) -> dict[str, float]:
        model = self._model(network)
        channels, counts = [], np.zeros((3, len(THRESHOLDS)), np.int64)
        for volume in self.volumes:
            stored, _ = predicted(model, volume, _device(network), _HIGHEST)
            channels.append(stored)
            known = volume.labels != self.ignore if self.ignore is not None else np.True_
            counts += overlaps(stored[0], (volume.labels > 0) & known, known)
        threshold, dice = best_threshold(counts)
        parameters = ForegroundParameters(**{**self.card.decoder, "threshold": threshold})
        tables = []
        for number, (volume, stored) in enumerate(zip(self.volumes, channels, strict=True)):
            labels = model.representation.decode(stored, volume.voxel_size, parameters)
            tables.append(table_of(volume.labels, labels, self.ignore))
            if number == 0:
                self._shown = [
                    Panel("input", normalise(volume.image, *volume.constants)),
                    Panel("foreground", stored[0]),
                    Panel("labels_pred", labels, labels=True),
                    Panel("labels_true", volume.labels, labels=True),
                ]
        # dice is of the foreground before it is decoded: what the threshold was chosen by
        found = {**scores_of(tables, self.score), "dice": dice, "threshold": threshold}
        return {**found, "score": found[self.score]}

    def foreground_channel(self, network: torch.nn.Module) -> int:
        """The class that is brighter on training patches, see :func:`choose_channel`."""
        images, classes = [], []
        with torch.inference_mode():
            for index in range(self.n_probes):
                image = torch.from_numpy(self.sampler.batch(index).image)
                found = for_inference(network)(image.to(_device(network))).softmax(1)
                images.append(image[:, 0].flatten().numpy())
                classes.append(found.transpose(0, 1).flatten(1).float().cpu().numpy())
        return choose_channel(np.concatenate(classes, axis=1), np.concatenate(images))

    def _model(self, network: torch.nn.Module) -> Model:
        channel = self.foreground_channel(network)
        meaning = Foreground(classes=2, foreground_channel=channel)
        return Model(for_inference(network), self.card, meaning, "")

    def picture(self, network: torch.nn.Module) -> Sequence[Panel]:
        """The first labelled volume as it was validated; else the first training patch."""
        if self._shown:
            return self._shown
        image = self.batch(0)["image"]
        if image is None:
            return []
        with torch.inference_mode():
            classes, rebuilt = network(image[:1].to(_device(network)))
        if self.terms.reconstruction == "bce":
            rebuilt = rebuilt.sigmoid()
        named = [(f"class {k}", part) for k, part in enumerate(classes[0])]
        return [
            Panel(title, part.float().cpu().numpy())
            for title, part in [("input", image[0, 0]), *named, ("reconstruction", rebuilt[0, 0])]
        ]

    def save(
        self, path: str, network: torch.nn.Module, scores: Mapping[str, float], training: Any
    ) -> None:
        """Write the encoder and its card, with the foreground channel and threshold."""
        channel = self.foreground_channel(network)
        shown = {key: round(value, 6) for key, value in scores.items() if key != "score"}
        threshold = float(scores.get("threshold", 0.5))
        options = {"classes": 2, "foreground_channel": channel}
        save_model(path, network, self.card.model_copy(update={
            "representation": "foreground", "representation_options": options,
            "foreground_channel": channel, "threshold": threshold,
            "decoder": {**self.card.decoder, "threshold": threshold},
            "training": training, "scores": shown,
        }))  # fmt: skip


#: Decodes to nothing, fast: for when the foreground alone is wanted.
_HIGHEST = ForegroundParameters(threshold=1.0, spot_sigma=0.0, outline_sigma=0.0)


def choose_channel(
    classes: npt.NDArray[np.floating[Any]],
    image: npt.NDArray[np.floating[Any]],
    mask: npt.NDArray[np.bool_] | None = None,
) -> int:
    """Which class is the cells: the one that goes with brightness, or with a mask.

    Parameters
    ----------
    classes : ndarray (K, n)
        Probabilities of n voxels.
    image : ndarray (n,)
        Their intensities.
    mask : ndarray of bool (n,), optional
        Voxels in a cell; the class of the best Dice at a half is chosen then.

    Returns
    -------
    int
        A class that is the same everywhere is chosen last; 0 where all are.
    """
    if mask is not None:
        above = classes > 0.5
        shared = 2 * (above & mask).sum(1) / np.maximum(above.sum(1) + mask.sum(), 1)
        return int(np.argmax(shared))
    centred = image - image.mean(dtype=np.float64)
    found = []
    for part in classes:
        spread = part - part.mean(dtype=np.float64)
        norm = math.sqrt(float((spread**2).sum()) * float((centred**2).sum()))
        found.append(float((spread * centred).sum()) / norm if norm > 0 else -2.0)
    return int(np.argmax(found))


def overlaps(
    stored: npt.NDArray[np.uint8], mask: npt.NDArray[np.bool_], known: npt.NDArray[np.bool_] | Any
) -> npt.NDArray[np.int64]:
    """Voxels of the prediction above each threshold, of these in the mask, and of the mask.

    Returns
    -------
    ndarray, int64 (3, 21)
        Sums over volumes are those of all voxels; see :func:`best_threshold`.
    """
    known = np.broadcast_to(known, stored.shape)
    everywhere = np.bincount(stored[known], minlength=256)
    inside = np.bincount(stored[mask], minlength=256)
    above = [np.arange(256) > threshold * 255 for threshold in THRESHOLDS]
    both = [int(inside[part].sum()) for part in above]
    either = [int(everywhere[part].sum()) for part in above]
    return np.array([either, both, [int(inside.sum())] * len(THRESHOLDS)], np.int64)


def best_threshold(counts: npt.NDArray[np.int64]) -> tuple[float, float]:
    """The threshold of the largest Dice, and that Dice; the middle one of equals.

    Parameters
    ----------
    counts : ndarray, int64 (3, 21)
        Of :func:`overlaps`.
    """
    above, both, mask = counts
    dice = 2 * both / np.maximum(above + mask, 1)
    best = np.flatnonzero(dice == dice.max())
    chosen = int(best[(len(best) - 1) // 2])
    return float(round(THRESHOLDS[chosen], 2)), float(dice[chosen])


def _device(network: torch.nn.Module) -> str:
    return str(next(network.parameters()).device)
