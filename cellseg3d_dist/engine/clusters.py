"""Where blocks are computed: a given client, a scheduler's address, or an own local cluster."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import psutil
from distributed import Client, LocalCluster, Worker, WorkerPlugin
from distributed.comm import connect as connect_comm
from distributed.security import Security
from msgpack import UnpackException

from cellseg3d_dist.engine.memory import KEPT_BYTES
from cellseg3d_dist.errors import EnvironmentFailedError

log = logging.getLogger(__name__)

_CONNECT_SECONDS = 5
_WORKER_SECONDS = 30
# no answer, a file or address that is none, or the first bytes of another kind of server
_NO_SCHEDULER = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    RuntimeError,
    MemoryError,
    struct.error,
    UnpackException,
)
#: Packages whose versions decide a result or how it travels.
_SAME = ("cellseg3d_dist", "numpy", "numba", "zarr", "distributed")


def default_workers() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_memory_limit(workers: int) -> int:
    """Bytes for each of this many workers: 0.8 of what the machine has free now."""
    return int(psutil.virtual_memory().available * 0.8 / workers)


class _Uninterrupted(WorkerPlugin):
    """Leaves Ctrl-C, which a terminal sends to all processes, to the driver."""

    name = "cellseg3d-dist-uninterrupted"

    def setup(self, worker: Worker) -> None:
        """Ignore it, in the main thread that the worker's loop has."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextlib.contextmanager
def connect(
    client: Client | None,
    scheduler: str | None,
    workers: int,
    memory_limit: int,
    scratch: str,
) -> Iterator[Client]:
    """A client: the one given, one of the scheduler's address or file, or of an own cluster.

    An own cluster has one process of one thread per worker and is reachable from this
    machine only, dashboard too. A client that was given stays open.

    Raises
    ------
    EnvironmentFailedError
        If the scheduler cannot be reached within seconds, or has no workers.
    """
    if client is not None:
        yield client
        return
    address = _address(scheduler)
    if address:
        with _reach(address) as reached:
            yield reached
        return
    with dask.config.set(_quiet_settings()):
        try:
            cluster = LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                memory_limit=memory_limit,
                local_directory=scratch,
            )
        except (OSError, RuntimeError) as error:
            raise EnvironmentFailedError(f"no local cluster could be started: {error}") from error
        with cluster, Client(cluster) as own:
            own.register_plugin(_Uninterrupted())
            log.info("dashboard at %s", own.dashboard_link)
            yield own


@dataclass(frozen=True)
class Resources:
    """What a cluster that is there already offers: threads, and bytes for each of them."""

    workers: int
    memory_limit: int

    @classmethod
    def of(cls, client: Client) -> Resources:
        """The least that any worker's thread has; workers without a limit share their machine."""
        workers = list(client.scheduler_info(n_workers=-1)["workers"].values())
        threads = sum(int(worker["nthreads"]) for worker in workers)
        limits = [
            int(worker["memory_limit"]) // max(1, int(worker["nthreads"]))
            for worker in workers
            if worker.get("memory_limit")
        ]
        return cls(max(1, threads), min(limits, default=default_memory_limit(max(1, threads))))


def check_cluster(client: Client | None, scheduler: str | None) -> Resources | None:
    """Refuse a cluster that cannot be used, before anything is created.

    Returns
    -------
    Resources or None
        Of the given client or scheduler; None where an own cluster will be started.

    Raises
    ------
    EnvironmentFailedError
        If the scheduler cannot be reached within seconds, has no workers, or workers have
        other versions of the packages that decide the result.
    """
    if client is not None:
        _check_versions(client, "the given client")
        return Resources.of(client)
    address = _address(scheduler)
    if not address:
        return None
    with _reach(address) as reached:
        _check_versions(reached, f"scheduler {address}")
        return Resources.of(reached)


def _address(scheduler: str | None) -> str | None:
    return scheduler or os.environ.get("DASK_SCHEDULER_ADDRESS")


def _check_versions(client: Client, name: str) -> None:
    found = client.get_versions(check=False, packages=list(_SAME))
    own = found["client"]["packages"]
    for worker, theirs in found["workers"].items():
        for package in _SAME:
            there = theirs["packages"].get(package)
            if there != own.get(package):
                raise EnvironmentFailedError(
                    f"{name}: worker {worker} has {package} {there or 'not installed'}, this "
                    f"process {own.get(package)}. Install the same version on every worker."
                )


@contextlib.contextmanager
def _reach(address: str) -> Iterator[Client]:
    try:
        address = _address_in_file(address)
        with ThreadPoolExecutor(1) as thread:
            thread.submit(asyncio.run, _knock(address)).result()
        reached = Client(address, timeout=_CONNECT_SECONDS)
    except _NO_SCHEDULER as error:
        raise EnvironmentFailedError(
            f"scheduler {address} cannot be reached within {_CONNECT_SECONDS} s. "
            f"Check the address, or leave --scheduler out for a local cluster."
        ) from error
    with reached:
        try:
            reached.wait_for_workers(1, timeout=_WORKER_SECONDS)
        except TimeoutError as error:
            raise EnvironmentFailedError(
                f"scheduler {address} has no workers after {_WORKER_SECONDS} s. Start workers."
            ) from error
        yield reached


def _address_in_file(text: str) -> str:
    """The address that a scheduler file holds, or the text itself."""
    if "://" in text or not Path(text).is_file():
        return text
    return str(json.loads(Path(text).read_text())["address"])


async def _knock(address: str) -> None:
    """Wait for the first message of a scheduler; `Client` would wait for it without end."""
    own = Security().get_connection_args("client")
    comm = await asyncio.wait_for(
        connect_comm(address, timeout=_CONNECT_SECONDS, deserialize=False, **own), _CONNECT_SECONDS
    )
    comm.abort()


def _quiet_settings() -> dict[str, Any]:
    """A worker that is killed is replaced; blocks that kill workers are retried alone."""
    return {
        "distributed.scheduler.allowed-failures": 3,
        "distributed.comm.timeouts.connect": "20s",
        "distributed.worker.memory.target": False,
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.pause": 0.95,
        "distributed.worker.memory.terminate": 0.98,
        # Dask's default hands every freed array back to the system, and the page faults of
        # asking again take as long as the work on it
        "distributed.nanny.pre-spawn-environ": {
            "MALLOC_TRIM_THRESHOLD_": str(KEPT_BYTES),
            "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        },
    }
