"""Patches for training, drawn from pairs of any size without loading volumes whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cellseg3d_dist.errors import ConfigError
from cellseg3d_dist.grid import Triple
from cellseg3d_dist.networks.resampling import Size
from cellseg3d_dist.training.annotated import Annotated, annotated
from cellseg3d_dist.training.augmentation import Augmentation, whole_start
from cellseg3d_dist.training.pairs import Pair
from cellseg3d_dist.training.reading import IGNORED, GridPair, Kept
from cellseg3d_dist.training.warp import Warp

if TYPE_CHECKING:
    from cellseg3d_dist.representations.representation import Representation

Array = npt.NDArray[np.float32]

#: Times a patch is drawn anew where it holds too few cells; then the best one is taken.
_TRIES = 8
#: A patch placed on a cell is moved by up to this share of its side.
_JITTER = 0.3
#: Normalised value above which a voxel counts as cell where there are no labels.
_BRIGHT = 0.5


@dataclass(frozen=True, eq=False)
class Batch:
    """What a network is trained on at one step.

    Attributes
    ----------
    image : ndarray, float32, (N, 1, z, y, x)
        Normalised, see :func:`~cellseg3d_dist.networks.normalisation.normalise`.
    target : ndarray, float32, (N, n_targets, z, y, x), or None
        What the representation encodes; None without labels.
    valid : ndarray, float32, (N, 1, z, y, x), or None
        0 where a voxel lies beyond the volume or nobody annotated it, else 1.
    """

    image: Array
    target: Array | None
    valid: Array | None


@dataclass(frozen=True, eq=False)
class Patch:
    """One patch; labels reach ``halo`` further on each side, inside and known too.

    Attributes
    ----------
    image : ndarray, float32, (z, y, x)
    labels : ndarray, int32, (z + 2 halo, ...), or None
        0 where not known.
    valid : ndarray, bool, likewise, or None
        Inside the volume, and annotated.
    """

    image: Array
    labels: npt.NDArray[np.int32] | None
    valid: npt.NDArray[np.bool_] | None
    voxel_size: Size


class PatchSampler:
    """Random patches: batch k is a pure function of the arguments and k.

    Each patch comes from a pair drawn with equal chances, whatever its size.

    Parameters
    ----------
    pairs : sequence of Pair
        All with labels, unless ``representation`` is None.
    representation : Representation or None
        Encodes the targets; None to train without labels.
    patch : (int, int, int)
        Voxels.
    batch : int
        Patches in a batch.
    voxel_size : (float, float, float), optional
        Micrometres that images are resampled to; None is each pair's own.
    augmentation : Augmentation
        Random changes.
    seed : int
        At least 0.
    ignore : int, optional
        The label of voxels that nobody annotated.
    foreground_share : float
        Chance that a patch is placed on a cell and holds ``min_foreground`` of cell voxels,
        drawn anew a few times if not; else it is placed at random. Without labels bright
        voxels stand for cells.
    min_foreground : float
        Share of a patch's voxels.
    cache_bytes : int
        Memory for small volumes, which are then read once.

    Raises
    ------
    ConfigError
        If an argument cannot be, labels are missing, negative, or hold no cell at all.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        representation: Representation | None,
        patch: Triple,
        batch: int,
        *,
        voxel_size: Size | None = None,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        ignore: int | None = None,
        foreground_share: float = 0.5,
        min_foreground: float = 0.01,
        cache_bytes: int = 1 << 30,
    ) -> None:
        _check(pairs, representation, patch, batch, seed, (foreground_share, min_foreground))
        self.representation = representation
        self.patch = patch
        self.n_patches = batch
        self.augmentation = Augmentation() if augmentation is None else augmentation
        self.seed = seed
        self.foreground_share = foreground_share
        self.min_foreground = min_foreground
        kept = Kept(cache_bytes)
        self.pairs = [
            GridPair.of(pair, number, voxel_size, ignore, kept) for number, pair in enumerate(pairs)
        ]
        self.annotated: list[Annotated] = []
        if representation is not None:
            self.annotated = [annotated(pair, ignore) for pair in pairs]
            if not any(found.cells.total for found in self.annotated):
                raise ConfigError(
                    f"no labelled cell in {len(pairs)} label images, such as "
                    f"{pairs[0].name}: all are 0{'' if ignore is None else ' or ignored'}."
                )

    @property
    def halo(self) -> int:
        """Voxels beyond a patch that labels are read for."""
        return 0 if self.representation is None else self.representation.encode_halo

    def batch(self, step: int) -> Batch:
        """The batch of a step, the same whenever it is asked for."""
        drawn = [self.draw(step, item) for item in range(self.n_patches)]
        image = np.stack([patch.image[None] for patch in drawn])
        if self.representation is None:
            return Batch(image, None, None)
        inner = (slice(None), *(slice(self.halo, self.halo + n) for n in self.patch))
        targets, valid = [], []
        for patch in drawn:
            assert patch.labels is not None
            assert patch.valid is not None
            targets.append(self.representation.encode(patch.labels, patch.voxel_size)[inner])
            valid.append(patch.valid[None][inner].astype(np.float32))
        return Batch(image, np.stack(targets), np.stack(valid))

    def draw(self, step: int, item: int) -> Patch:
        """One patch of a batch, before its labels are encoded."""
        rng = np.random.default_rng((self.seed, step, item))
        number = int(rng.integers(len(self.pairs)))
        pair = self.pairs[number]
        warp = self.augmentation.draw_warp(
            rng,
            self.patch,
            pair.voxel_size,
            halo=self.halo,
            stored_size=pair.pair.image.voxel_size,
        )
        if self.representation is None:
            image = self._unlabelled(rng, pair, warp)
            labels = valid = None
        else:
            centre, labels, valid = self._labelled(rng, number, warp)
            image = warp.image(pair.image, centre, self.patch)
        image = self.augmentation.change_intensity(image, rng, pair.voxel_size)
        return Patch(image, labels, valid, pair.voxel_size)

    def _unlabelled(self, rng: np.random.Generator, pair: GridPair, warp: Warp) -> Array:
        """A patch with bright voxels in the place of cells, if that is found."""
        wanted = self.min_foreground if rng.random() < self.foreground_share else 0.0
        best, most = None, -1.0
        for _ in range(_TRIES):
            image = warp.image(pair.image, self._anywhere(rng, pair, warp), self.patch)
            share = float((image > _BRIGHT).mean())
            if best is None or share > most:
                best, most = image, share
            if share >= wanted:
                break
        assert best is not None
        return best

    def _labelled(
        self, rng: np.random.Generator, number: int, warp: Warp
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
        """Centre, labels and validity of a patch that holds what it should, if that is found."""
        pair, found = self.pairs[number], self.annotated[number]
        on_cell = bool(rng.random() < self.foreground_share) and found.cells.total > 0
        wanted = self.min_foreground if on_cell else 0.0
        inner = tuple(slice(self.halo, self.halo + n) for n in self.patch)
        best = None
        most = (-1.0, -1.0)
        for _ in range(_TRIES):
            if on_cell:
                centre = self._near(rng, pair, warp, found.cells.draw(rng))
            elif found.known is not None:
                centre = self._near(rng, pair, warp, found.known.draw(rng))
            else:
                centre = self._anywhere(rng, pair, warp)
            labels, inside = warp.labels(pair.labels, centre, self.patch, self.halo, pair.shape)
            valid = inside & (labels != IGNORED)
            known = float(valid[inner].mean())
            share = float(((labels[inner] > 0) & valid[inner]).mean()) if on_cell else 0.0
            if best is None or (share, known) > most:
                best, most = (centre, labels, valid), (share, known)
            if known > 0 and share >= wanted:
                break
        assert best is not None
        centre, labels, valid = best
        labels[labels == IGNORED] = 0
        return centre, labels, valid

    def _near(
        self,
        rng: np.random.Generator,
        pair: GridPair,
        warp: Warp,
        voxel: npt.NDArray[np.float64],
    ) -> npt.NDArray[np.float64]:
        """A centre close to a voxel of the stored volume, with the patch inside if it fits."""
        footprint = self._footprint(warp)
        moved = pair.to_grid(voxel) + rng.uniform(-_JITTER, _JITTER, 3) * footprint
        half, shape = footprint / 2, np.array(pair.shape)
        centre = np.clip(moved, half - 0.5, np.maximum(half, shape - half) - 0.5)
        centre = np.where(footprint > shape, (shape - 1) / 2, centre)
        return whole_start(centre, footprint)

    def _anywhere(
        self, rng: np.random.Generator, pair: GridPair, warp: Warp
    ) -> npt.NDArray[np.float64]:
        """A centre with the patch inside the volume, or in its middle where it does not fit."""
        footprint = self._footprint(warp)
        room = np.array(pair.shape) - footprint
        start = np.where(room >= 0, np.floor(rng.random(3) * (room + 1)), np.floor(room / 2))
        centre: npt.NDArray[np.float64] = start + (footprint - 1) / 2
        return centre

    def _footprint(self, warp: Warp) -> npt.NDArray[np.float64]:
        """Whole voxels of the source that the patch spans, as if it were turned by quarters."""
        if warp.is_rigid_on_voxels:
            return warp.footprint(self.patch)
        return np.array(self.patch, np.float64)


def _check(
    pairs: Sequence[Pair],
    representation: Representation | None,
    patch: Triple,
    batch: int,
    seed: int,
    shares: tuple[float, float],
) -> None:
    if not pairs:
        raise ConfigError("no image to train on was given.")
    if len(patch) != 3 or min(patch) < 1:
        raise ConfigError(f"patch {tuple(patch)} must be three numbers (z, y, x) of at least 1.")
    if batch < 1:
        raise ConfigError(f"batch {batch} must be at least 1 patch.")
    if seed < 0:
        raise ConfigError(f"seed {seed} must be at least 0.")
    for name, value in zip(("foreground_share", "min_foreground"), shares, strict=True):
        if not 0 <= value <= 1:
            raise ConfigError(f"{name} {value:g} must be 0 to 1.")
    if representation is not None:
        without = next((pair for pair in pairs if pair.labels is None), None)
        if without is not None:
            raise ConfigError(
                f"image {without.image.location} has no labels, which {representation.name} is "
                "trained on."
            )
