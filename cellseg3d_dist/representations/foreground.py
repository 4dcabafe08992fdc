"""Foreground: how likely a voxel is in a cell. Cells are told apart by Voronoi-Otsu."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from cellseg3d_dist.errors import ConfigError
from cellseg3d_dist.instances.voronoi import VoronoiSpec, voronoi_otsu
from cellseg3d_dist.representations.checks import check_fractions, check_lengths
from cellseg3d_dist.representations.losses import LOSSES, loss_options, one_hot
from cellseg3d_dist.representations.representation import Size

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ForegroundParameters:
    """What decides Voronoi-Otsu on a foreground.

    Attributes
    ----------
    threshold : float
        Cells are where the smoothed foreground is above this fraction.
    spot_sigma, outline_sigma : float
        Smoothing before seeds and before the threshold, in micrometres; 0 is none.

    Raises
    ------
    ConfigError
        If the threshold is not within 0..1 or a sigma is negative.
    """

    threshold: float = 0.5
    spot_sigma: float = 3.2
    outline_sigma: float = 2.0

    def __post_init__(self) -> None:
        check_fractions("foreground", threshold=self.threshold)
        check_lengths("foreground", spot_sigma=self.spot_sigma, outline_sigma=self.outline_sigma)

    def spec(self, voxel_size: Size) -> VoronoiSpec:
        """The same in voxels, for a foreground stored as 0..255."""
        return VoronoiSpec(
            _in_voxels(self.spot_sigma, voxel_size),
            _in_voxels(self.outline_sigma, voxel_size),
            self.threshold * 255,
        )


@dataclass(frozen=True)
class Foreground:
    """Probability of being in a cell.

    Attributes
    ----------
    classes : {1, 2}
        Outputs of the network: one for a sigmoid, two for a softmax.
    foreground_channel : int
        Which of two outputs is the foreground.
    loss_name : str
        A key of :data:`.losses.LOSSES`.
    weights : tuple of float or None
        Weights of background and foreground in that loss.
    gamma, alpha, beta : float or None
        Options of the focal and Tversky losses; None is their default.

    Raises
    ------
    ConfigError
        If an option cannot be used.
    """

    name: ClassVar[str] = "foreground"
    channels: ClassVar[tuple[str, ...]] = ("foreground",)
    encode_halo: ClassVar[int] = 0
    parameters: ClassVar[ForegroundParameters] = ForegroundParameters()

    classes: int = 1
    foreground_channel: int | None = None
    loss_name: str = "dice_ce"
    weights: tuple[float, ...] | None = None
    gamma: float | None = None
    alpha: float | None = None
    beta: float | None = None

    def __post_init__(self) -> None:
        if self.classes not in (1, 2):
            raise ConfigError(
                f"foreground: classes {self.classes!r} must be 1 (sigmoid) or 2 (softmax)."
            )
        if self.foreground_channel not in (None, *range(self.classes)):
            raise ConfigError(
                f"foreground: foreground_channel {self.foreground_channel!r} must be one of the "
                f"{self.classes} outputs, counted from 0."
            )
        self._loss_options()

    @property
    def n_outputs(self) -> int:
        """Channels of the network's output."""
        return self.classes

    def _loss_options(self) -> dict[str, float]:
        return loss_options(
            "foreground", self.loss_name, 2, self.weights,
            gamma=self.gamma, alpha=self.alpha, beta=self.beta,
        )  # fmt: skip

    def encode(self, labels: npt.NDArray[Any], voxel_size: Size) -> npt.NDArray[np.float32]:
        """1 in a label and 0 elsewhere, float32 (1, z, y, x)."""
        return (labels > 0).astype(np.float32)[None]

    def _ordered(self, output: torch.Tensor) -> torch.Tensor:
        """The network's output with the foreground last."""
        return output.flip(1) if self.classes == 2 and self.foreground_channel == 0 else output

    def loss(
        self, output: torch.Tensor, target: torch.Tensor, valid: torch.Tensor | None
    ) -> torch.Tensor:
        """The chosen loss."""
        wanted = one_hot(target) if self.classes == 2 else target
        return LOSSES[self.loss_name](
            self._ordered(output), wanted, valid, self.weights, **self._loss_options()
        )

    def activate(self, output: torch.Tensor) -> torch.Tensor:
        """Probability of the foreground (N, 1, z, y, x)."""
        if self.classes == 1:
            return output.sigmoid()
        return self._ordered(output).softmax(1)[:, 1:]

    def decode(
        self, prediction: npt.NDArray[np.uint8], voxel_size: Size, parameters: ForegroundParameters
    ) -> npt.NDArray[np.uint32]:
        """Labels 1..n by Voronoi-Otsu of the stored channel (1, z, y, x) of a whole volume."""
        return voronoi_otsu(prediction[0], parameters.spec(voxel_size))


def _in_voxels(length: float, voxel_size: Size) -> Size:
    z, y, x = (length / size for size in voxel_size)
    return (z, y, x)
