"""Where cells are annotated: counts and some voxels for each small box of a label volume.

With them a patch can be placed on a cell without reading the volume again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

from cellseg3d_dist.errors import ConfigError
from cellseg3d_dist.grid import Region, ceil_div
from cellseg3d_dist.training.pairs import Pair, slabs

#: Side of a box, and the voxels of it that are remembered.
_SIDE = 32
_REMEMBERED = 8

_Scanned = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int16]]


@dataclass(frozen=True, eq=False)
class Places:
    """Voxels that some condition holds for, drawn in proportion to how many there are.

    Attributes
    ----------
    cumulative : ndarray, int64, (n,)
        Voxels in the boxes up to each one that has any.
    positions : ndarray, int64, (n, 8, 3)
        Some of each box's voxels, evenly spaced among them.
    """

    cumulative: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]

    @property
    def total(self) -> int:
        """Number of voxels."""
        return int(self.cumulative[-1]) if self.cumulative.size else 0

    def draw(self, rng: np.random.Generator) -> npt.NDArray[np.float64]:
        """One of the voxels."""
        rank = rng.integers(self.total)
        box = int(np.searchsorted(self.cumulative, rank, side="right"))
        chosen: npt.NDArray[np.int64] = self.positions[box, rng.integers(_REMEMBERED)]
        return chosen.astype(np.float64)


@dataclass(frozen=True)
class Annotated:
    """What a label volume holds.

    Attributes
    ----------
    cells : Places
        Voxels of labels above 0.
    known : Places or None
        Voxels that somebody annotated, as cell or background; None where that is all.
    """

    cells: Places
    known: Places | None


def annotated(pair: Pair, ignore: int | None) -> Annotated:
    """Read a pair's labels once, slab by slab.

    Raises
    ------
    ConfigError
        If a label is negative, or everything is ignored.
    """
    volume = pair.labels
    assert volume is not None
    cells: list[_Scanned] = []
    known: list[_Scanned] = []
    for region in slabs(volume, _SIDE):
        labels = volume.read(region)
        kept = None if ignore is None else labels != ignore
        if labels.dtype.kind == "i":
            _refuse_negative(labels if kept is None else labels[kept], volume.location, ignore)
        positive = labels > 0
        cells.append(_scan(positive if kept is None else positive & kept, region))
        if kept is not None:
            known.append(_scan(kept, region))
    found = _places(known) if ignore is not None else None
    if found is not None and not found.total:
        raise ConfigError(
            f"labels {volume.location} hold nothing but the ignored label {ignore}. Leave the file "
            "out, or annotate some of it."
        )
    return Annotated(_places(cells), found)


def _refuse_negative(labels: npt.NDArray[np.signedinteger], location: str, ignore: object) -> None:
    lowest = int(labels.min(initial=0))
    if lowest < 0:
        remedy = " To leave those voxels out of training, ignore it." if ignore is None else ""
        raise ConfigError(
            f"labels {location} hold the label {lowest}; labels are 0 or more.{remedy}"
        )


def _scan(mask: npt.NDArray[np.bool_], region: Region) -> _Scanned:
    z, y, x = (ceil_div(n, _SIDE) for n in mask.shape)
    counts = np.zeros((z, y, x), np.int64)
    local = np.zeros((z, y, x, _REMEMBERED, 3), np.int16)
    _remember(mask, counts, local)
    boxes = np.argwhere(counts)
    index = tuple(boxes.T)
    return counts[index], boxes * _SIDE + np.array(region.start), local[index]


def _places(parts: list[_Scanned]) -> Places:
    if not parts:
        return Places(np.zeros(0, np.int64), np.zeros((0, _REMEMBERED, 3), np.int64))
    counts, starts, local = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return Places(np.cumsum(counts), starts[:, None, :] + local)


@numba.njit(cache=True, nogil=True)
def _remember(mask, counts, local):  # type: ignore[no-untyped-def]
    nz, ny, nx = mask.shape
    side, wanted = 32, local.shape[3]
    for bz in range(counts.shape[0]):
        for by in range(counts.shape[1]):
            for bx in range(counts.shape[2]):
                z1 = min(nz, (bz + 1) * side)
                y1 = min(ny, (by + 1) * side)
                x1 = min(nx, (bx + 1) * side)
                n = 0
                for z in range(bz * side, z1):
                    for y in range(by * side, y1):
                        for x in range(bx * side, x1):
                            n += mask[z, y, x]
                counts[bz, by, bx] = n
                if n == 0:
                    continue
                rank, k = 0, 0
                for z in range(bz * side, z1):
                    for y in range(by * side, y1):
                        for x in range(bx * side, x1):
                            if mask[z, y, x]:
                                while k < wanted and rank == ((2 * k + 1) * n) // (2 * wanted):
                                    local[bz, by, bx, k, 0] = z - bz * side
                                    local[bz, by, bx, k, 1] = y - by * side
                                    local[bz, by, bx, k, 2] = x - bx * side
                                    k += 1
                                rank += 1
