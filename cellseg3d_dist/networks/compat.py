"""Inference window by window as CellSeg3D does it, to compare with; not for large volumes.

There every window is mapped to 0..1 for itself, so a voxel's value depends on what else
its windows hold. Ours differs on purpose in one place: a constant window has no range to be
mapped, which gives NaN there, and 0 here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from cellseg3d_dist.errors import BadInputError
from cellseg3d_dist.networks.predictor import quantised
from cellseg3d_dist.networks.weights import AsTrained, Model

#: Windows of this many voxels a side, sharing this fraction with their neighbours.
WINDOW, OVERLAP = 64, 0.25
_SIGMA_SCALE = 0.01
_LOW, _HIGH = 0.01, 0.99

Source = Literal["layer", "folder"]


def cellseg3d_inference(
    network: torch.nn.Module,
    image: npt.NDArray[Any],
    *,
    architecture: str = "wnet3d",
    source: Source = "layer",
    window: int = WINDOW,
    overlap: float = OVERLAP,
) -> npt.NDArray[np.float32]:
    """All channels of a network's output, mapped to 0..1 in every window.

    Parameters
    ----------
    network : Module
        Of a loaded model, on its device; gives logits.
    image : ndarray, (z, y, x)
        Grey values as stored: windows or the volume decide their range.
    architecture : str
        ``wnet3d`` maps every window of the image to its own range; the supervised networks
        are given grey values cut off at the 1st and 99th percentile.
    source : {"layer", "folder"}
        How the image was opened in CellSeg3D. An open layer is cut off at percentiles of
        the volume, for ``wnet3d`` not at all; an image of a folder at those of each window.
    window : int
        Voxels along each side; a multiple of the network's divisor.
    overlap : float
        Share of a window that it has in common with the next.

    Returns
    -------
    ndarray, float32, (C, z, y, x)
        In [0, 1]; the mean over windows, all but unweighted (``sigma_scale`` 0.01).

    Raises
    ------
    BadInputError
        If the image does not have three axes, is empty or has values that are not finite.
    """
    from monai.inferers.utils import sliding_window_inference

    volume = _checked(image)
    supervised = architecture != "wnet3d"
    if source == "layer" and supervised:
        low, high = np.quantile(volume, (_LOW, _HIGH))
        volume = np.clip(volume, low, high)
    with torch.inference_mode():
        result = sliding_window_inference(
            torch.from_numpy(volume.astype(np.float32, copy=False))[None, None],
            roi_size=(window, window, window),
            sw_batch_size=1,
            predictor=_Window(network, supervised, source == "folder"),
            overlap=overlap,
            mode="gaussian",
            sigma_scale=_SIGMA_SCALE,
            sw_device=next(network.parameters()).device,
            device=torch.device("cpu"),
        )
    output: npt.NDArray[np.float32] = torch.as_tensor(result)[0].float().numpy()
    return output


def cellseg3d_channels(model: Model, image: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """The foreground of a model by :func:`cellseg3d_inference`, as it is stored.

    Returns
    -------
    ndarray, uint8, (1, z, y, x)
    """
    output = cellseg3d_inference(model.network, image, architecture=model.card.architecture)
    channel = model.card.foreground_channel
    stored: npt.NDArray[np.uint8] = quantised(output[-1 if channel is None else channel][None])
    return stored


@dataclass(frozen=True)
class _Window:
    """The network in one window: its input prepared, its output mapped to 0..1."""

    network: torch.nn.Module
    supervised: bool
    cut_off: bool

    def __call__(self, patch: torch.Tensor) -> torch.Tensor:
        """Output (1, C, z, y, x) of grey values (1, 1, z, y, x); 0 where these are constant."""
        if self.cut_off:
            low, high = torch.quantile(patch, patch.new_tensor((_LOW, _HIGH)))
            patch = patch.clamp(low, high)
        constant = bool(patch.min() == patch.max())
        # a loaded model scales normalised images, not these
        scale = self.network.scale if isinstance(self.network, AsTrained) else 1.0
        output = self.network(patch / scale if self.supervised else _in_range(patch))
        return torch.zeros_like(output) if constant else _in_range(output)


def _checked(image: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    if image.ndim != 3 or 0 in image.shape:
        raise BadInputError(
            f"image of shape {image.shape} must have three axes z, y, x, not empty."
        )
    volume = image.astype(np.float32)
    if not np.isfinite(volume).all():
        raise BadInputError("image has values that are not finite (NaN or infinite).")
    # small volumes are padded with 0, which must not look like structure
    return np.zeros_like(volume) if volume.min() == volume.max() else volume


def _in_range(values: torch.Tensor) -> torch.Tensor:
    """Mapped to 0..1 over all channels; 0 where all are alike."""
    low, high = values.min(), values.max()
    if low == high:
        return torch.zeros_like(values)
    return (values - low) / (high - low)
