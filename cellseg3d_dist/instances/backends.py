"""The kernels of Voronoi-Otsu by the name of their backend."""

from __future__ import annotations

from cellseg3d_dist.errors import ConfigError
from cellseg3d_dist.instances.voronoi import NUMBA, Kernels

BACKENDS = ("numba", "opencl")


def kernels_of(backend: str) -> Kernels:
    """Kernels that run on this machine's processor, or on an OpenCL device.

    Raises
    ------
    ConfigError
        If the name is unknown.
    """
    if backend == "numba":
        return NUMBA
    if backend == "opencl":
        from cellseg3d_dist.instances.opencl_kernels import OpenCLKernels

        return OpenCLKernels()
    raise ConfigError(f"backend {backend!r} is unknown. Use one of {', '.join(BACKENDS)}.")
