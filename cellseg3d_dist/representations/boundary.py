"""Background, edge and nucleus: three classes of which the edge keeps nuclei apart.

Seeds are where the nucleus is sure; they grow where nucleus and edge together are likely.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from cellseg3d_dist.errors import ConfigError
from cellseg3d_dist.representations.checks import check_fractions, check_switches, check_voxels
from cellseg3d_dist.representations.losses import LOSSES, loss_options
from cellseg3d_dist.representations.representation import Size
from cellseg3d_dist.representations.seeded import Masks, above, decode_seeded
from cellseg3d_dist.representations.slices import smoothed_outlines, without_small_areas
from cellseg3d_dist.representations.touching import EDGES, as_indices, edges

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class BoundaryParameters:
    """What decides the decoding of nuclei and edges.

    Attributes
    ----------
    seed_nucleus : float
        Seeds are where the nucleus is above this.
    foreground : float
        Nuclei grow where nucleus and edge together are above this; nucleus alone where
        edges lie outside of nuclei.
    min_seed_voxels, min_voxels : int
        Seeds and nuclei with fewer voxels are dropped.
    watershed : {0, 1}
        Nuclei grow by distance, or by a watershed on the nucleus class.

    Raises
    ------
    ConfigError
        If a threshold is not within 0..1, a size is below 1, or a switch not 0 or 1.
    """

    seed_nucleus: float = 0.5
    foreground: float = 0.5
    min_seed_voxels: int = 4
    min_voxels: int = 16
    watershed: int = 0

    def __post_init__(self) -> None:
        check_fractions("boundary", seed_nucleus=self.seed_nucleus, foreground=self.foreground)
        check_switches("boundary", watershed=self.watershed)
        check_voxels("boundary", min_seed_voxels=self.min_seed_voxels, min_voxels=self.min_voxels)


@dataclass(frozen=True)
class Boundary:
    """Background, edge and nucleus as a softmax.

    Attributes
    ----------
    edge : {"inner", "outer", "touching"}
        A nucleus' outermost voxels; the voxels just outside of it (dilation less mask);
        or neither. What touches another nucleus is edge under each of them.
    loss_name : str
        A key of :data:`.losses.LOSSES`.
    weights : tuple of float or None
        Weights of background, edge and nucleus in that loss.
    min_slice_area : int
        Areas of a label that have fewer pixels in one z slice are dropped before edges are
        found; 0 keeps all.
    smoothing : int
        Radius in pixels of a disc over which each label's outline is smoothed, slice by
        slice, before edges are found; 0 is none.
    gamma, alpha, beta : float or None
        Options of the focal and Tversky losses; None is their default.

    Raises
    ------
    ConfigError
        If an option cannot be used.
    """

    name: ClassVar[str] = "boundary"
    channels: ClassVar[tuple[str, ...]] = ("background", "edge", "nucleus")
    n_outputs: ClassVar[int] = 3
    parameters: ClassVar[BoundaryParameters] = BoundaryParameters()

    edge: str = "inner"
    loss_name: str = "cross_entropy"
    weights: tuple[float, ...] | None = (1.0, 3.0, 2.0)
    gamma: float | None = None
    alpha: float | None = None
    beta: float | None = None
    min_slice_area: int = 0
    smoothing: int = 0

    def __post_init__(self) -> None:
        for name in ("min_slice_area", "smoothing"):
            if getattr(self, name) != 0:
                check_voxels("boundary", **{name: getattr(self, name)})
        if self.edge not in EDGES:
            raise ConfigError(
                f"boundary: edge {self.edge!r} is unknown. Use one of {', '.join(EDGES)}."
            )
        self._loss_options()

    def _loss_options(self) -> dict[str, float]:
        return loss_options(
            "boundary", self.loss_name, 3, self.weights,
            gamma=self.gamma, alpha=self.alpha, beta=self.beta,
        )  # fmt: skip

    @property
    def encode_halo(self) -> int:
        """A voxel for edges, the disc, and the length of an area that is too small."""
        return 1 + self.smoothing + self.min_slice_area

    def encode(self, labels: npt.NDArray[Any], voxel_size: Size) -> npt.NDArray[np.float32]:
        """Background, edge and nucleus, each 0 or 1, float32 (3, z, y, x)."""
        indices, _ = as_indices(labels)
        if self.min_slice_area:
            indices = without_small_areas(indices, self.min_slice_area)
        if self.smoothing:
            indices = smoothed_outlines(indices, self.smoothing)
        edge = edges(indices, voxel_size, self.edge)
        nucleus = (indices > 0) & ~edge
        return np.stack((~(edge | nucleus), edge, nucleus)).astype(np.float32)

    def loss(
        self, output: torch.Tensor, target: torch.Tensor, valid: torch.Tensor | None
    ) -> torch.Tensor:
        """The chosen loss."""
        return LOSSES[self.loss_name](output, target, valid, self.weights, **self._loss_options())

    def activate(self, output: torch.Tensor) -> torch.Tensor:
        """Probabilities of the three classes."""
        return output.softmax(1)

    def masks(self, prediction: npt.NDArray[np.uint8], parameters: BoundaryParameters) -> Masks:
        """Seeds and foreground of stored channels (3, z, y, x), voxel by voxel."""
        _, edge, nucleus = prediction
        # an outer edge is the background around a nucleus
        inside = nucleus if self.edge == "outer" else np.add(edge, nucleus, dtype=np.uint16)
        foreground = above(inside, parameters.foreground)
        return foreground & above(nucleus, parameters.seed_nucleus), foreground

    def landscape(
        self, prediction: npt.NDArray[np.uint8], parameters: BoundaryParameters
    ) -> npt.NDArray[np.uint8] | None:
        """The nucleus class, where a watershed is wanted."""
        return prediction[2] if parameters.watershed else None

    def decode(
        self, prediction: npt.NDArray[np.uint8], voxel_size: Size, parameters: BoundaryParameters
    ) -> npt.NDArray[np.uint32]:
        """Labels 1..n of stored channels (3, z, y, x) of a whole volume."""
        seeds, foreground = self.masks(prediction, parameters)
        return decode_seeded(
            seeds,
            foreground,
            parameters.min_seed_voxels,
            parameters.min_voxels,
            self.landscape(prediction, parameters),
        )
