"""The protocol of a representation: what a network predicts so that instances can be decoded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

Size = tuple[float, float, float]


class Representation(Protocol):
    """Targets, loss, what is stored of a prediction, and labels from it.

    Attributes
    ----------
    name : str
        Its name in cards and options.
    channels : tuple of str
        What is stored of a prediction, 8 bits each.
    n_outputs : int
        Channels of the network's output.
    encode_halo : int
        Voxels beyond a patch that :meth:`encode` needs to be right inside it.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def channels(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def n_outputs(self) -> int: ...  # noqa: D102
    @property
    def encode_halo(self) -> int: ...  # noqa: D102

    @property
    def parameters(self) -> Any:
        """Default parameters of :meth:`decode`, a frozen dataclass."""
        ...

    def encode(self, labels: npt.NDArray[Any], voxel_size: Size) -> npt.NDArray[np.float32]:
        """Targets (n_targets, z, y, x) of a label image (z, y, x)."""
        ...

    def loss(
        self, output: torch.Tensor, target: torch.Tensor, valid: torch.Tensor | None
    ) -> torch.Tensor:
        """Scalar loss of outputs (N, n_outputs, z, y, x) where ``valid`` (N, 1, z, y, x) is 1."""
        ...

    def activate(self, output: torch.Tensor) -> torch.Tensor:
        """Predicted channels (N, C, z, y, x) in [0, 1] of the network's output.

        The first ``len(channels)`` are stored; a representation with more makes sparse
        candidates of the others.
        """
        ...

    def decode(
        self, prediction: npt.NDArray[np.uint8], voxel_size: Size, parameters: Any
    ) -> npt.NDArray[np.uint32]:
        """Labels 1..n (z, y, x) of stored channels (C, z, y, x) of a whole volume."""
        ...
