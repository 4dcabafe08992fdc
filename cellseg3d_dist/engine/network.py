"""A network as a run uses it: where its weights lie and how its patches are computed.

The object itself is small and travels with the stage; each worker loads the weights once
and keeps them. torch is loaded only where a network runs.
"""

from __future__ import annotations

import functools
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cellseg3d_dist.networks.predictor import Forward
    from cellseg3d_dist.networks.weights import Model

# torch sets its threads for the whole process: one network at a time
_LOCK = threading.Lock()


@dataclass(frozen=True)
class Network:
    """Weights and everything that decides how a patch is computed.

    Attributes
    ----------
    weights : str
        Path of the safetensors file.
    digest : str
        Its sha256.
    batch, threads : int
        Patches computed at a time, and threads of one worker on the CPU; both are fixed
        because another number changes the last bits of a result.
    """

    weights: str
    digest: str
    device: str
    batch: int
    threads: int
    flips: bool
    compat: str | None = None

    def decides(self) -> dict[str, Any]:
        """What decides a prediction."""
        from cellseg3d_dist.networks.device import torch_version

        return {
            "weights": self.digest,
            "device": self.device.partition(":")[0],
            "batch": self.batch,
            "threads": self.threads,
            "flips": self.flips,
            "compat": self.compat,
            "torch": torch_version(),
        }

    def model(self) -> Model:
        """The loaded model, one per process."""
        return _loaded(self.weights, self.digest, self.device)

    def forward(self) -> Forward:
        """The network on its device, one per process."""
        with _LOCK:
            return _forward(self)


@functools.lru_cache(maxsize=2)
def _loaded(weights: str, digest: str, device: str) -> Model:
    from cellseg3d_dist.networks.weights import load_model

    return load_model(weights, device)


@functools.lru_cache(maxsize=2)
def _forward(network: Network) -> Forward:
    from cellseg3d_dist.networks.predictor import Forward

    return Forward.on(
        network.device, network.model(), network.batch, network.flips, network.threads
    )
