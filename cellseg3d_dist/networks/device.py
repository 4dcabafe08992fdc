"""The device that networks run on: whether it is there, and what decides its numbers."""

from __future__ import annotations

import torch

from cellseg3d_dist.errors import EnvironmentFailedError


def check_device(device: str) -> None:
    """Refuse a device that is not there; never fall back silently.

    Raises
    ------
    EnvironmentFailedError
        If CUDA was asked for and there is none.
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise EnvironmentFailedError(
            f"device {device} was asked for, and torch {torch.__version__} finds no CUDA device "
            f"here. Install a CUDA build of torch, or use --device cpu."
        )


def torch_version() -> str:
    """The installed version, which decides the last bits of a prediction."""
    return str(torch.__version__)
