"""Several processes that train one network, as torchrun starts them; alone without it."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from cellseg3d_dist.errors import EnvironmentFailedError

_PATIENCE = datetime.timedelta(hours=6)


@dataclass(frozen=True)
class Processes:
    """The processes of a training.

    Attributes
    ----------
    rank, world : int
        Number of this one, and how many there are.
    local_rank : int
        Number of this one on its machine: the GPU that is its own.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @classmethod
    def of_environment(cls) -> Processes:
        """From the variables that torchrun sets.

        Raises
        ------
        EnvironmentFailedError
            If they are set and no numbers that fit.
        """
        texts = [os.environ.get(key) for key in ("RANK", "WORLD_SIZE", "LOCAL_RANK")]
        if texts[1] is None:
            return cls()
        try:
            rank, world, local_rank = (int(text or 0) for text in texts)
        except ValueError:
            rank, world, local_rank = -1, 0, 0
        if not (0 <= rank < world and local_rank >= 0):
            raise EnvironmentFailedError(
                f"RANK, WORLD_SIZE and LOCAL_RANK are {texts}, which is no set of processes. "
                f"Start with torchrun, or unset them."
            )
        return cls(rank, world, local_rank)

    @property
    def leads(self) -> bool:
        """Whether this one writes the files."""
        return self.rank == 0

    def wrapped(self, network: torch.nn.Module) -> torch.nn.Module:
        """The network with gradients averaged over the processes."""
        return network if self.world == 1 else DistributedDataParallel(network)

    def mean(self, values: list[float]) -> list[float]:
        """Mean of each value over the processes."""
        return [total / self.world for total in self.sum(values)]

    def sum(self, values: list[float]) -> list[float]:
        """Sum of each value over the processes."""
        return self._reduced(values, dist.ReduceOp.SUM)

    def any(self, value: int) -> int:
        """The largest value that a process has."""
        return round(self._reduced([float(value)], dist.ReduceOp.MAX)[0])

    def _reduced(self, values: list[float], how: dist.ReduceOp.RedOpType) -> list[float]:
        if self.world == 1 or not values:
            return values
        cuda = dist.get_backend() == "nccl"
        tensor = torch.tensor(values, dtype=torch.float64, device="cuda" if cuda else "cpu")
        dist.all_reduce(tensor, how)
        return [float(value) for value in tensor.cpu()]


@contextlib.contextmanager
def joined(processes: Processes, device: torch.device) -> Iterator[None]:
    """Be one of the processes while inside.

    Raises
    ------
    EnvironmentFailedError
        If the others cannot be reached.
    """
    if processes.world == 1:
        yield
        return
    try:
        backend = "nccl" if device.type == "cuda" else "gloo"
        # the others wait while one validates
        dist.init_process_group(backend, timeout=_PATIENCE)
    except (RuntimeError, ValueError, OSError) as error:
        raise EnvironmentFailedError(
            f"the {processes.world} processes of the training cannot meet: "
            f"{' '.join(str(error).split())[:300]} Start them with torchrun."
        ) from error
    try:
        yield
    finally:
        dist.destroy_process_group()


def device_of(name: str, processes: Processes) -> torch.device:
    """The device of a process.

    Raises
    ------
    EnvironmentFailedError
        If a GPU is asked for and there is none for this process.
    """
    if name == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if processes.local_rank >= count:
        raise EnvironmentFailedError(
            f"device cuda was asked for process {processes.local_rank} of this machine, and "
            f"torch {torch.__version__} finds {count} GPUs. Use --device cpu, or fewer processes."
        )
    device = torch.device("cuda", processes.local_rank)
    torch.cuda.set_device(device)
    return device
