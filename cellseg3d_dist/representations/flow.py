"""Foreground and flow: each voxel of a cell points to the cell's centre.

As in Cellpose (Stringer et al. 2021), but of three dimensions throughout: the flow has
three components, spreads by diffusion in the volume, and voxels are followed through it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from cellseg3d_dist.grid import Region
from cellseg3d_dist.representations.checks import check_voxels, check_weights
from cellseg3d_dist.representations.following import FlowParameters, follow
from cellseg3d_dist.representations.losses import annotated, dice_ce, mean_squared_error
from cellseg3d_dist.representations.representation import Size
from cellseg3d_dist.representations.sinks import arrivals, assign, number, sinks

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Flow:
    """Foreground, and the flow along z, y and x in units of the finest axis.

    Outputs are a logit of the foreground and three numbers whose hyperbolic tangents are
    the flow; stored are the foreground and (flow + 1) / 2.

    Attributes
    ----------
    flow_weight : float
        What the mean squared error of the flow counts against the foreground's loss. The
        flow's components are about 0.6 in size; Cellpose scales them by 5 and halves the
        error, which is a weight of 12.5 on the mean over all voxels.
    encode_halo : int
        Voxels beyond a patch that targets are made from. An object has its true flow if
        it ends within them, so it should be a cell's diameter.

    Raises
    ------
    ConfigError
        If the weight is negative or the halo below 1.
    """

    name: ClassVar[str] = "flow"
    channels: ClassVar[tuple[str, ...]] = ("foreground", "flow_z", "flow_y", "flow_x")
    n_outputs: ClassVar[int] = 4
    parameters: ClassVar[FlowParameters] = FlowParameters()

    flow_weight: float = 5.0
    encode_halo: int = 12

    def __post_init__(self) -> None:
        check_weights("flow", flow_weight=self.flow_weight)
        check_voxels("flow", encode_halo=self.encode_halo)

    def encode(self, labels: npt.NDArray[Any], voxel_size: Size) -> npt.NDArray[np.float32]:
        """Foreground 0 or 1 and unit flow, 0 outside: float32 (4, z, y, x).

        Parameters
        ----------
        labels : ndarray, integers, (z, y, x)
            Objects are the values above 0.
        voxel_size : (float, float, float)
            Size of a voxel along (z, y, x), in any unit.
        """
        # scikit-image is not for those who only decode
        from cellseg3d_dist.representations.diffusion import flows

        foreground = (labels > 0).astype(np.float32)
        return np.concatenate([foreground[None], flows(labels, voxel_size)])

    def loss(
        self, output: torch.Tensor, target: torch.Tensor, valid: torch.Tensor | None
    ) -> torch.Tensor:
        """Dice and cross entropy of the foreground, squared error of the flow inside it."""
        inside = (annotated(target[:, :1], valid) > 0).float()
        # where nothing is compared, what tanh makes of an infinite output has no gradient
        flow = annotated(output[:, 1:], inside).tanh()
        error = mean_squared_error(flow, target[:, 1:], inside)
        return dice_ce(output[:, :1], target[:, :1], valid) + self.flow_weight * error

    def activate(self, output: torch.Tensor) -> torch.Tensor:
        """Foreground and (flow + 1) / 2, both in [0, 1]."""
        import torch

        return torch.cat([output[:, :1].sigmoid(), (output[:, 1:].tanh() + 1) / 2], 1)

    def decode(
        self, prediction: npt.NDArray[np.uint8], voxel_size: Size, parameters: FlowParameters
    ) -> npt.NDArray[np.uint32]:
        """Labels 1..n (z, y, x) of stored channels (4, z, y, x) of a whole volume."""
        _, nz, ny, nx = prediction.shape
        shape = (nz, ny, nx)
        whole = Region.whole(shape)
        followed = follow(prediction, whole, whole, shape, voxel_size, parameters)
        found = sinks(arrivals(followed.ends), shape, parameters)
        labels = np.zeros(shape, np.uint32)
        names = assign(followed.ends, found)
        labels.ravel()[followed.voxels] = number(names, found, parameters)
        return labels
