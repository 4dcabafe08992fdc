"""Patches on one lattice fixed to the whole volume, so that the cut into blocks is not seen.

Along each axis, with core c and halo h, patch i owns the voxels ``[i c, (i + 1) c)`` and
reads ``[i c - h, (i + 1) c + h)``; voxels beyond the volume are mirrored at its faces::

    |--h--|-----c-----|--h--|
                |--h--|-----c-----|--h--|

Every block that needs a voxel computes the same patches for it, with the same input.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cellseg3d_dist.errors import ConfigError
from cellseg3d_dist.grid import Region, Triple, ceil_div

Extent = tuple[int, int]


@dataclass(frozen=True)
class Lattice:
    """The patches of a volume.

    Attributes
    ----------
    shape : (int, int, int)
        Of the volume, in voxels of the network's grid.
    patch, halo : (int, int, int)
        Shape of a patch, and the voxels at each of its sides that it does not own.
    blended : bool
        Patches count where they overlap, not only in their cores.
    """

    shape: Triple
    patch: Triple
    halo: Triple
    blended: bool = False

    def __post_init__(self) -> None:
        """Check that there is a core.

        Raises
        ------
        ConfigError
            If the halo leaves no core, or is negative.
        """
        if min(self.core) < 1 or min(self.halo) < 0:
            raise ConfigError(
                f"halo {self.halo} leaves no core in patches of {self.patch} voxels. Use a halo "
                f"of 0 or more and less than half of the patch."
            )

    @property
    def core(self) -> Triple:
        """Voxels a patch owns; the step of the lattice."""
        z, y, x = (p - 2 * h for p, h in zip(self.patch, self.halo, strict=True))
        return (z, y, x)

    @property
    def n_patches(self) -> int:
        """Patches of the whole volume."""
        z, y, x = (ceil_div(n, c) for n, c in zip(self.shape, self.core, strict=True))
        return z * y * x

    def indices(self, region: Region) -> tuple[range, range, range]:
        """Per axis, the patches that the values of ``region`` are made of."""
        z, y, x = (
            _touching(a, b, n, c, h if self.blended else 0)
            for a, b, n, c, h in zip(
                region.start, region.stop, self.shape, self.core, self.halo, strict=True
            )
        )
        return (z, y, x)

    def patches_of(self, region: Region) -> int:
        """How many patches ``region`` is made of."""
        z, y, x = self.indices(region)
        return len(z) * len(y) * len(x)

    def starts(self, region: Region) -> Iterator[Triple]:
        """First voxels of those patches in raster order; negative before the volume."""
        (cz, cy, cx), (hz, hy, hx) = self.core, self.halo
        z_range, y_range, x_range = self.indices(region)
        for z in z_range:
            for y in y_range:
                for x in x_range:
                    yield (z * cz - hz, y * cy - hy, x * cx - hx)

    def extents(self, region: Region) -> tuple[Extent, Extent, Extent]:
        """Per axis, first and last + 1 voxel that those patches read, beyond the faces too."""
        z, y, x = (
            (r.start * c - h, (r.stop - 1) * c - h + p)
            for r, c, h, p in zip(
                self.indices(region), self.core, self.halo, self.patch, strict=True
            )
        )
        return (z, y, x)

    def cut(
        self, image: npt.NDArray[np.float32], held: Region, start: Triple
    ) -> npt.NDArray[np.float32]:
        """The patch that starts there, from voxels of ``held``: a view, or mirrored at a face."""
        stops = [s + p for s, p in zip(start, self.patch, strict=True)]
        if min(start) >= 0 and all(b <= n for b, n in zip(stops, self.shape, strict=True)):
            z, y, x = (
                slice(a - h, b - h) for a, b, h in zip(start, stops, held.start, strict=True)
            )
            view: npt.NDArray[np.float32] = image[z, y, x]
            return view
        mirrors = zip(start, stops, self.shape, held.start, strict=True)
        index = np.ix_(*(mirrored((a, b), n) - h for a, b, n, h in mirrors))
        patch: npt.NDArray[np.float32] = image[index]
        return patch


def _touching(start: int, stop: int, n: int, core: int, reach: int) -> range:
    first = max(0, (start - reach) // core)
    last = min(ceil_div(n, core), ceil_div(stop + reach, core))
    return range(first, last)


def mirrored(extent: Extent, n: int) -> npt.NDArray[np.intp]:
    """Voxels of an axis of length n for an extent that may reach beyond it.

    Mirrored at the centres of the first and last voxel, as often as it takes.

    Examples
    --------
    >>> mirrored((-2, 5), 4).tolist()
    [2, 1, 0, 1, 2, 3, 2]
    """
    index = np.arange(*extent)
    if n == 1:
        return np.zeros(index.size, np.intp)
    folded = np.abs(index) % (2 * n - 2)
    nearest: npt.NDArray[np.intp] = np.minimum(folded, 2 * n - 2 - folded).astype(np.intp)
    return nearest


def weights(patch: Triple, sigma_scale: float = 0.125) -> npt.NDArray[np.float32]:
    """Gaussian weights of a patch for blending, of its shape, 1 at the centre, at least 1e-3.

    ``sigma_scale`` is the standard deviation in units of the patch's side.
    """
    axes = []
    for n in patch:
        x = np.arange(n) - (n - 1) / 2
        axes.append(np.exp(-0.5 * (x / (sigma_scale * n)) ** 2))
    z, y, x = axes
    product = z[:, None, None] * y[:, None] * x
    bounded: npt.NDArray[np.float32] = np.maximum(product, 1e-3).astype(np.float32)
    return bounded
