"""Foreground, contour and signed distance: U3D-BCD (Lin et al. 2021, NucMM).

The network has three outputs: B, whether a voxel is in a cell; C, whether it is on a
cell's contour; D, how deep it lies in its cell. Seeds are where B and D are high and C is
low; they grow where B is high and D above 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from cellseg3d_dist.errors import ConfigError
from cellseg3d_dist.instances.filters import Sigma
from cellseg3d_dist.representations.checks import (
    check_fractions,
    check_switches,
    check_voxels,
    check_weights,
)
from cellseg3d_dist.representations.losses import (
    annotated,
    balanced_cross_entropy,
    cross_entropy,
    dice,
    mean_squared_error,
)
from cellseg3d_dist.representations.representation import Size
from cellseg3d_dist.representations.seeded import (
    Masks,
    above,
    below,
    decode_seeded,
    decode_spots,
)
from cellseg3d_dist.representations.touching import (
    EDGES,
    as_indices,
    edges,
    largest_of_each,
    squared_distances,
)

if TYPE_CHECKING:
    import torch

#: Distances are divided by these, in voxels of the finest axis, under ``distance="paper"``.
DEPTH, REACH = 8.0, 50.0
#: Stored channel whose maxima may seed cells: D.
SPOTS = 2
#: Voxels of halo: half a large nucleus, and where tanh(distance / 8) is nearly 1.
HALOS = {"instance": 12, "paper": 16}


@dataclass(frozen=True)
class BcdParameters:
    """What decides the decoding of B, C and D.

    Attributes
    ----------
    seed_foreground, seed_contour, seed_distance : float
        Seeds are where B and D are above and C is below these.
    spot_sigma : float
        If above 0, seeds are instead the local maxima of D smoothed with a Gaussian of this
        sigma in micrometres, as in Voronoi-Otsu labelling.
    foreground, foreground_distance : float
        Cells grow where B and D are above these. Distances are fractions of D's 0..1, the
        inside of cells; below 0, D does not limit them. It should not where D is the
        ``instance`` variant: it falls to -1 at once outside, so blurred by a network it
        passes 0 well inside a cell.
    min_seed_voxels, min_voxels : int
        Seeds and cells with fewer voxels are dropped. (The paper's data: 32 and 128.)
    watershed : {0, 1}
        Cells grow by distance, or by a watershed on D as in the paper.

    Raises
    ------
    ConfigError
        If a threshold is not within 0..1, a size is below 1, or a switch not 0 or 1.
    """

    seed_foreground: float = 0.9
    seed_contour: float = 0.8
    seed_distance: float = 0.5
    foreground: float = 0.85
    foreground_distance: float = 0.0
    min_seed_voxels: int = 4
    min_voxels: int = 16
    spot_sigma: float = 0.0
    watershed: int = 0

    def __post_init__(self) -> None:
        check_weights("bcd", spot_sigma=self.spot_sigma)
        check_fractions(
            "bcd",
            seed_foreground=self.seed_foreground,
            seed_contour=self.seed_contour,
            seed_distance=self.seed_distance,
            foreground=self.foreground,
            foreground_distance=max(0.0, self.foreground_distance),
        )
        check_switches("bcd", watershed=self.watershed)
        check_voxels("bcd", min_seed_voxels=self.min_seed_voxels, min_voxels=self.min_voxels)


@dataclass(frozen=True)
class Bcd:
    """Foreground, contour and signed distance.

    Attributes
    ----------
    distance : {"instance", "paper"}
        Inside a cell D is the distance to its border by the largest in that cell, and -1
        outside; or tanh(distance / 8) inside and -distance / 50 outside, never below -1,
        in voxels of the finest axis.
    contour : {"inner", "touching"}
        A cell's outermost voxels, or only those that touch another cell.
    balanced : bool
        Whether B and C count as much as the background in their cross entropy.
    dice_weight, distance_weight : float
        Of the Dice losses of B and C, and of the squared error of D.

    Raises
    ------
    ConfigError
        If an option is unknown or a weight is negative.
    """

    name: ClassVar[str] = "bcd"
    channels: ClassVar[tuple[str, ...]] = ("foreground", "contour", "distance")
    n_outputs: ClassVar[int] = 3
    spot_channel: ClassVar[int] = SPOTS
    parameters: ClassVar[BcdParameters] = BcdParameters()

    distance: str = "instance"
    contour: str = "inner"
    balanced: bool = True
    dice_weight: float = 0.5
    distance_weight: float = 5.0

    def __post_init__(self) -> None:
        if self.distance not in HALOS:
            raise ConfigError(f"bcd: distance {self.distance!r} is unknown. Use instance or paper.")
        if self.contour not in EDGES or self.contour == "outer":
            raise ConfigError(f"bcd: contour {self.contour!r} is unknown. Use inner or touching.")
        if not isinstance(self.balanced, bool):
            raise ConfigError(f"bcd: balanced {self.balanced!r} must be true or false.")
        check_weights("bcd", dice_weight=self.dice_weight, distance_weight=self.distance_weight)

    @property
    def encode_halo(self) -> int:
        """Voxels beyond a patch that :meth:`encode` needs."""
        return HALOS[self.distance]

    def encode(self, labels: npt.NDArray[Any], voxel_size: Size) -> npt.NDArray[np.float32]:
        """B (0, 1), C (0, 1) and D (-1..1) of a label image, float32 (3, z, y, x)."""
        indices, n = as_indices(labels)
        target = np.empty((3, *labels.shape), np.float32)
        target[0] = indices > 0
        target[1] = edges(indices, voxel_size, self.contour)
        if self.distance == "instance":
            target[2] = _depth_in_cell(indices, n, voxel_size)
        else:
            target[2] = _signed_distance(indices, voxel_size)
        return target

    def loss(
        self, output: torch.Tensor, target: torch.Tensor, valid: torch.Tensor | None
    ) -> torch.Tensor:
        """Cross entropy and Dice of B and C, squared error of D."""
        output = annotated(output, valid)
        entropy = balanced_cross_entropy if self.balanced else cross_entropy
        total = self.distance_weight * mean_squared_error(
            output[:, 2:].tanh(), target[:, 2:], valid
        )
        for channel in (slice(0, 1), slice(1, 2)):
            logits, wanted = output[:, channel], target[:, channel]
            total = total + entropy(logits, wanted, valid)
            total = total + self.dice_weight * dice(logits, wanted, valid)
        return total

    def activate(self, output: torch.Tensor) -> torch.Tensor:
        """B, C and (D + 1) / 2, each in [0, 1]."""
        import torch

        return torch.cat((output[:, :2].sigmoid(), (output[:, 2:].tanh() + 1) / 2), 1)

    def masks(self, prediction: npt.NDArray[np.uint8], parameters: BcdParameters) -> Masks:
        """Seeds and foreground of stored channels (3, z, y, x), voxel by voxel."""
        cell, contour, depth = prediction
        # D is stored as (D + 1) / 2
        foreground = above(cell, parameters.foreground)
        if parameters.foreground_distance >= 0:
            foreground &= above(depth, (parameters.foreground_distance + 1) / 2)
        seeds = foreground & above(cell, parameters.seed_foreground)
        seeds &= below(contour, parameters.seed_contour)
        seeds &= above(depth, (parameters.seed_distance + 1) / 2)
        return seeds, foreground

    def spot_sigma(self, parameters: BcdParameters, voxel_size: Size) -> Sigma:
        """Smoothing of D in voxels before its maxima are taken; zeros: seeds by thresholds."""
        z, y, x = (parameters.spot_sigma / size for size in voxel_size)
        return (z, y, x)

    def landscape(
        self, prediction: npt.NDArray[np.uint8], parameters: BcdParameters
    ) -> npt.NDArray[np.uint8] | None:
        """D, where a watershed is wanted."""
        return prediction[SPOTS] if parameters.watershed else None

    def decode(
        self, prediction: npt.NDArray[np.uint8], voxel_size: Size, parameters: BcdParameters
    ) -> npt.NDArray[np.uint32]:
        """Labels 1..n of stored channels (3, z, y, x) of a whole volume."""
        seeds, foreground = self.masks(prediction, parameters)
        landscape = self.landscape(prediction, parameters)
        if parameters.spot_sigma:
            sigma = self.spot_sigma(parameters, voxel_size)
            return decode_spots(
                prediction[SPOTS], foreground, sigma, parameters.min_voxels, landscape
            )
        return decode_seeded(
            seeds, foreground, parameters.min_seed_voxels, parameters.min_voxels, landscape
        )


def _depth_in_cell(
    labels: npt.NDArray[np.int32], n: int, voxel_size: Size
) -> npt.NDArray[np.float32]:
    """Distance to the cell's border by the largest in the cell; -1 in the background."""
    distance = np.sqrt(squared_distances(labels, voxel_size))
    largest = largest_of_each(distance, labels, n)
    # a label that fills the array has no border in sight
    distance[np.isinf(distance)] = 1
    largest[np.isinf(largest) | (largest == 0)] = 1
    return np.where(labels > 0, distance / largest[labels], np.float32(-1))


def _signed_distance(labels: npt.NDArray[np.int32], voxel_size: Size) -> npt.NDArray[np.float32]:
    """tanh(distance / 8) in cells, -distance / 50 outside, at least -1."""
    distance = np.sqrt(squared_distances(labels, voxel_size, background=True))
    outside = np.maximum(-distance / np.float32(REACH), np.float32(-1))
    return np.where(labels > 0, np.tanh(distance / np.float32(DEPTH)), outside)
