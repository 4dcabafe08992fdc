"""The OpenCL primitives in the form that :mod:`.voronoi` takes its kernels in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cellseg3d_dist.grid import Triple
from cellseg3d_dist.instances import opencl
from cellseg3d_dist.instances.filters import NO_CROP, Crop, Sigma
from cellseg3d_dist.instances.flood import NO_RING, UNREACHED, Sides


@dataclass(frozen=True)
class OpenCLKernels:
    """Kernels on an OpenCL device, named by a part of its name (None: the package's choice).

    Labels equal those of the numba kernels but where the device's Gaussian, in its last
    bits, decides a tie or a threshold otherwise. Picklable; the device is found anew in
    each process.

    Examples
    --------
    >>> from cellseg3d_dist.instances.voronoi import voronoi_otsu
    >>> voronoi_otsu(image, spec, kernels=OpenCLKernels())  # doctest: +SKIP
    """

    device: str | None = None

    def gaussian(
        self, image: npt.NDArray[Any], sigma: Sigma, crop: Crop = NO_CROP
    ) -> npt.NDArray[np.float32]:
        """As :func:`.filters.gaussian`."""
        smoothed = opencl.gaussian(image, sigma, self.device)
        inner = tuple(slice(a, n - b) for (a, b), n in zip(crop, image.shape, strict=True))
        return np.ascontiguousarray(smoothed[inner])

    def spots(
        self, smoothed: npt.NDArray[np.float32], mask: npt.NDArray[np.uint8], margin: Triple
    ) -> npt.NDArray[np.int64]:
        """As :func:`.spots.spots`."""
        inner = tuple(slice(m, m + n) for m, n in zip(margin, mask.shape, strict=True))
        found = opencl.spots(smoothed, self.device)[inner] & (mask != 0)
        return np.flatnonzero(found).astype(np.int64)

    def flood(
        self,
        mask: npt.NDArray[np.uint8],
        seeds: npt.NDArray[np.int64],
        ring: Sides = NO_RING,
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """As :func:`.flood.flood`."""
        unknown = seeds.size + 1
        opencl.check_ranks(0, unknown)
        start = np.where(mask != 0, 0, -1).astype(np.int32)
        start.reshape(-1)[seeds] = np.arange(1, unknown, dtype=np.int32)
        width = [(int(low), int(high)) for low, high in ring]
        inner = tuple(slice(a, a + n) for (a, _), n in zip(width, mask.shape, strict=True))
        start = np.pad(start, width, constant_values=unknown)
        grown, empty_for = opencl.grow(start, self.device, timed=True)
        labels, arrival = grown[inner], empty_for[inner]
        arrival = np.where(labels > 0, arrival, UNREACHED)
        return np.maximum(labels, 0), arrival


__all__ = ["OpenCLKernels"]
