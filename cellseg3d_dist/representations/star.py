"""Star-convex objects: object probability and distances along rays (StarDist 3D).

Each voxel of an object says how deep it lies in it and how far its border is in each of a
set of directions, enough to draw the whole object; the best voxels are kept (Weigert et
al., WACV 2020). Distances are in *units*, the finest axis' voxel at training. What is
stored between a network and its labels are the sparse :class:`.suppression.Candidates`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from cellseg3d_dist.errors import BadInputError, ConfigError
from cellseg3d_dist.grid import Region, Triple
from cellseg3d_dist.instances.sizes import sizes_of
from cellseg3d_dist.representations.checks import (
    check_fractions,
    check_voxels,
    check_weights,
    is_number,
)
from cellseg3d_dist.representations.polyhedra import Stencil, paint, stencil
from cellseg3d_dist.representations.rays import Rays, faces_of, fibonacci_rays, ray_lengths
from cellseg3d_dist.representations.representation import Size
from cellseg3d_dist.representations.suppression import KEPT, candidates, suppress
from cellseg3d_dist.representations.touching import (
    as_indices,
    largest_of_each,
    squared_distances,
)

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class StarParameters:
    """What decides the decoding of a star prediction.

    Attributes
    ----------
    threshold : float
        Least object probability of a candidate.
    overlap : float
        A candidate is suppressed if a better kept one shares more than this part of the
        smaller of the two.
    min_voxels : int
        Labels with fewer voxels are dropped.

    Raises
    ------
    ConfigError
        If a fraction is not within 0..1 or the size is below 1.
    """

    threshold: float = 0.5
    overlap: float = 0.3
    min_voxels: int = 1

    def __post_init__(self) -> None:
        check_fractions("star", threshold=self.threshold, overlap=self.overlap)
        check_voxels("star", min_voxels=self.min_voxels)


@dataclass(frozen=True)
class Star:
    """Object probability and distances along rays.

    Attributes
    ----------
    n_rays : int
        Directions, evenly spread.
    voxel_size : (float, float, float)
        Size (z, y, x) of the voxels trained on; the finest is the unit of distances.
    max_distance : float
        Longest distance in units, and so half the greatest extent of an object. It bounds
        the halo: choose it not much above the largest object's radius.
    rays : tuple of (float, float, float)
        The directions as unit vectors; those of ``n_rays`` if empty.
    distance_weight : float
        Of the distances' error, in units, against the probability's cross entropy.

    Raises
    ------
    ConfigError
        If a size or distance is not positive, a weight negative, or the rays do not
        surround their centre or are not ``n_rays``.
    """

    name: ClassVar[str] = "star"
    parameters: ClassVar[StarParameters] = StarParameters()

    n_rays: int = 32
    voxel_size: Size = (1.0, 1.0, 1.0)
    max_distance: float = 16.0
    rays: Rays = ()
    distance_weight: float = 0.2

    def __post_init__(self) -> None:
        sizes = self.voxel_size
        if not (
            isinstance(sizes, tuple | list)
            and len(sizes) == 3
            and all(is_number(size) and size > 0 for size in sizes)
        ):
            raise ConfigError(f"star: voxel_size {sizes!r} must be three sizes above 0.")
        if not (is_number(self.max_distance) and self.max_distance > 0):
            raise ConfigError(f"star: max_distance {self.max_distance!r} must be above 0.")
        check_weights("star", distance_weight=self.distance_weight)
        even = fibonacci_rays(self.n_rays)
        try:
            # lists come from JSON
            given = tuple((float(z), float(y), float(x)) for z, y, x in self.rays)
        except (TypeError, ValueError) as error:
            raise ConfigError("star: each of the rays must be three numbers.") from error
        if len(given) not in (0, self.n_rays):
            raise ConfigError(f"star: {len(given)} rays given, n_rays is {self.n_rays}.")
        object.__setattr__(self, "rays", given or even)
        faces_of(self.rays)

    @property
    def n_outputs(self) -> int:
        """One probability and a distance for each ray."""
        return 1 + self.n_rays

    @property
    def channels(self) -> tuple[str, ...]:
        """The probability and a distance for each ray, as a fraction of the longest."""
        return ("probability", *(f"distance_{i}" for i in range(self.n_rays)))

    @property
    def encode_halo(self) -> int:
        """From a voxel to the object's deepest one, and from there to its border."""
        return math.ceil(2 * self.max_distance)

    def spacing(self, voxel_size: Size) -> Size:
        """Size (z, y, x) of a voxel in units of the finest at training."""
        unit = min(self.voxel_size)
        z, y, x = (float(size) / unit for size in voxel_size)
        return (z, y, x)

    def stencil(self, voxel_size: Size) -> Stencil:
        """The geometry of objects on voxels of this size."""
        return stencil(self.rays, self.spacing(voxel_size), float(self.max_distance))

    def encode(self, labels: npt.NDArray[Any], voxel_size: Size) -> npt.NDArray[np.float32]:
        """Object probability and distances (1 + n_rays, z, y, x) of a label image.

        The probability is the depth of a voxel by the depth of its object's deepest one. Beyond
        the array there is no object. Distances in the background are 0.
        """
        indices, n = as_indices(labels)
        # beyond the array is background, for depths and rays alike
        padded = np.pad(indices, 1)
        depths = np.sqrt(squared_distances(padded, voxel_size))
        deepest = largest_of_each(depths, padded, n)
        deepest[deepest == 0] = 1
        target = np.zeros((self.n_outputs, *labels.shape), np.float32)
        target[0] = (depths / deepest[padded])[1:-1, 1:-1, 1:-1]
        ray_lengths(
            padded, self.rays, self.spacing(voxel_size), float(self.max_distance), target[1:]
        )
        return target

    def loss(
        self, output: torch.Tensor, target: torch.Tensor, valid: torch.Tensor | None
    ) -> torch.Tensor:
        """Cross entropy of the probability and its weighted mean error of the distances."""
        import torch

        from cellseg3d_dist.representations.losses import annotated, cross_entropy

        entropy = cross_entropy(output[:, :1], target[:, :1], valid)
        weight = annotated(target[:, :1], valid)
        error = annotated(output[:, 1:] - target[:, 1:], valid).abs().mean(1, keepdim=True)
        total = weight.sum()
        # without a cell the error is 0 and so is its gradient
        mean = (weight * error).sum() / torch.where(total > 0, total, torch.ones_like(total))
        return entropy + self.distance_weight * mean

    def activate(self, output: torch.Tensor) -> torch.Tensor:
        """Probability, and distances by the longest, each in [0, 1]."""
        import torch

        distances = (output[:, 1:] / self.max_distance).clamp(0, 1)
        return torch.cat((output[:, :1].sigmoid(), distances), 1)

    def decode(
        self, prediction: npt.NDArray[np.uint8], voxel_size: Size, parameters: StarParameters
    ) -> npt.NDArray[np.uint32]:
        """Labels 1..n (z, y, x), in the order of names, of stored channels of a whole volume.

        Raises
        ------
        BadInputError
            If the prediction has not ``n_outputs`` channels.
        """
        if prediction.shape[0] != self.n_outputs:
            raise BadInputError(
                f"star: prediction has {prediction.shape[0]} channels, {self.n_outputs} expected "
                f"for {self.n_rays} rays; decode with the options it was trained with."
            )
        nz, ny, nx = prediction.shape[1:]
        shape: Triple = (nz, ny, nx)
        whole = Region.whole(shape)
        geometry = self.stencil(voxel_size)
        found = candidates(prediction, whole, whole, shape, parameters.threshold)
        kept = found.take(suppress(found, geometry, parameters.overlap) == KEPT)
        order = kept.order()
        painted = paint(whole, kept.positions[order], kept.distances[order], geometry)
        large = np.zeros(len(kept), np.bool_)
        large[order] = sizes_of(painted, len(kept)) >= parameters.min_voxels
        # kept is in the order of names, what was painted in that of probabilities
        final = np.zeros(len(kept) + 1, np.uint32)
        final[1:] = np.where(large, np.cumsum(large), 0)[order]
        return final[painted]
