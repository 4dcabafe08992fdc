"""A network over patches: any region of a volume, as if the volume had been predicted whole.

What a voxel gets depends on the patches that it lies in, on their input and on how they
are computed (device, batch shape, threads), never on the region it was asked with:
patches come from a :class:`~.lattice.Lattice`, their input from constants of the whole
volume, and they are summed in the order of the lattice.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from cellseg3d_dist.errors import BadInputError, ConfigError, EnvironmentFailedError
from cellseg3d_dist.grid import Region, Triple
from cellseg3d_dist.networks.lattice import Lattice, mirrored, weights
from cellseg3d_dist.networks.normalisation import normalise, percentiles
from cellseg3d_dist.networks.registry import ARCHITECTURES
from cellseg3d_dist.networks.resampling import Resampling, Size

if TYPE_CHECKING:
    from cellseg3d_dist.networks.cards import Card
    from cellseg3d_dist.networks.weights import Model
    from cellseg3d_dist.representations.representation import Representation

Image = npt.NDArray[np.float32]
Blending = Literal["crop", "gaussian"]

#: Representations whose channels mean the same after a flip.
FLIPPABLE = ("foreground", "boundary", "bcd")
_FLIPS = ((), (2,), (3,), (4,), (2, 3), (2, 4), (3, 4), (2, 3, 4))


@dataclass
class Forward:
    """A network on a device, batch after batch of one shape.

    A patch of nothing but zeros is computed once and remembered, so that empty parts of a
    volume cost nothing.

    Attributes
    ----------
    batch : int
        Patches at a time; the last batch is filled up. Halved on a GPU that runs out of
        memory, and kept so.
    flips : bool
        Mean over the eight flips of every patch.
    autocast : bool
        Half precision where the device gains from it (CUDA only).
    """

    network: torch.nn.Module
    representation: Representation
    device: torch.device
    batch: int = 1
    flips: bool = False
    autocast: bool = False
    halved: int = field(default=0, init=False)
    _of_zeros: tuple[tuple[int, ...], Image] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse what cannot be flipped."""
        if self.flips and self.representation.name not in FLIPPABLE:
            raise ConfigError(
                f"flips do not apply to the representation {self.representation.name}, whose "
                f"channels point in directions. They do to {', '.join(FLIPPABLE)}."
            )

    @classmethod
    def of(cls, model: Model, device: str, batch: int = 1, flips: bool = False) -> Forward:
        """A model on the device that it was loaded to, in the layout that is fastest there.

        Half precision is used on CUDA.
        """
        place, network = torch.device(device), model.network
        if place.type == "cpu" and ARCHITECTURES[model.card.architecture].channels_last:
            # of its own: whoever trains the network keeps its layout
            network = copy.deepcopy(network)
            network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        autocast = place.type == "cuda"
        return cls(network, model.representation, place, batch, flips, autocast)

    @classmethod
    def on(
        cls, device: str, model: Model, batch: int = 1, flips: bool = False, threads: int = 1
    ) -> Forward:
        """As :meth:`of`; sets ``threads`` for the whole process, on the CPU."""
        if device == "cpu":
            torch.set_num_threads(threads)
        return cls.of(model, device, batch, flips)

    def __call__(self, patches: Iterable[Image]) -> Iterator[Image]:
        """Stored channels (C, z, y, x) in [0, 1] of each patch (z, y, x), in their order.

        Raises
        ------
        BadInputError
            If the network gives values that are not finite.
        EnvironmentFailedError
            If the device has no memory for a single patch.
        """
        # None stands for a patch of zeros; the first one that waits never is
        waiting: list[Image | None] = []
        n_full = 0
        for patch in patches:
            if patch.any():
                waiting.append(patch)
                n_full += 1
            elif waiting:
                waiting.append(None)
            else:
                yield self._zeros(patch.shape)
            if n_full >= self.batch:
                yield from self._results(waiting)
                waiting, n_full = [], 0
        yield from self._results(waiting)

    def _results(self, waiting: Sequence[Image | None]) -> Iterator[Image]:
        full = [patch for patch in waiting if patch is not None]
        computed = self._computed(full)
        for patch in waiting:
            yield self._zeros(full[0].shape) if patch is None else next(computed)

    def _zeros(self, shape: tuple[int, ...]) -> Image:
        """The channels of a patch of zeros."""
        if self._of_zeros is None or self._of_zeros[0] != (self.batch, *shape):
            (result,) = self._computed([np.zeros(shape, np.float32)])
            self._of_zeros = ((self.batch, *shape), result.copy())
        return self._of_zeros[1]

    def _computed(self, patches: Sequence[Image]) -> Iterator[Image]:
        done = 0
        while done < len(patches):
            # another thread may halve it in the meantime
            batch = self.batch
            part = patches[done : done + batch]
            try:
                result = self._run(part, batch)
            except torch.cuda.OutOfMemoryError as error:
                if batch == 1:
                    raise EnvironmentFailedError(
                        f"the GPU has no memory for one patch of {part[0].shape} voxels. Use "
                        f"--device cpu or a network with smaller patches."
                    ) from error
                self.batch = min(self.batch, batch // 2)
                self.halved += 1
                torch.cuda.empty_cache()
                continue
            yield from result[: len(part)]
            done += len(part)

    def _run(self, part: Sequence[Image], batch: int) -> npt.NDArray[np.float32]:
        filled = np.zeros((batch, 1, *part[0].shape), np.float32)
        for i, patch in enumerate(part):
            filled[i, 0] = patch
        tensor = torch.from_numpy(filled).to(self.device)
        with torch.inference_mode(), self._precision():
            if self.flips:
                total = sum(self._activated(tensor.flip(axes)).flip(axes) for axes in _FLIPS)
                result = torch.as_tensor(total) / len(_FLIPS)
            else:
                result = self._activated(tensor)
        values: npt.NDArray[np.float32] = result.float().cpu().numpy()
        if not np.isfinite(values[: len(part)]).all():
            raise BadInputError(
                "the network gave values that are not finite (NaN or infinite). Check its "
                "weights with `cellseg3d-dist models show`."
            )
        return values

    def _activated(self, tensor: torch.Tensor) -> torch.Tensor:
        return self.representation.activate(self.network(tensor))

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        if self.autocast and self.device.type == "cuda":
            return torch.autocast("cuda", torch.bfloat16)
        return contextlib.nullcontext()


@dataclass(frozen=True)
class Tiling:
    """How a volume is predicted: its grid, the network's grid, and the patches on that.

    Attributes
    ----------
    shape : (int, int, int)
        Of the volume.
    resampling : Resampling
        From the volume's grid to the network's.
    """

    shape: Triple
    resampling: Resampling
    patch: Triple
    halo: Triple
    blending: Blending = "crop"

    @classmethod
    def of(cls, model: Model, shape: Triple, voxel_size: Size) -> Tiling:
        """As the model's card has it, for a volume of this shape and voxel size."""
        return cls.from_card(model.card, shape, voxel_size)

    @classmethod
    def from_card(cls, card: Card, shape: Triple, voxel_size: Size) -> Tiling:
        """As :meth:`of`, without the weights."""
        resampling = Resampling.between(shape, voxel_size, card.grid_for(voxel_size))
        return cls(shape, resampling, card.patch, card.halo, card.blending)

    @property
    def lattice(self) -> Lattice:
        """The patches."""
        blended = self.blending == "gaussian"
        return Lattice(self.resampling.shape, self.patch, self.halo, blended)

    def network_region(self, region: Region) -> Region:
        """Voxels of the network's grid that ``region`` of the volume is made of."""
        return self.resampling.inverse().source(region)

    def source(self, region: Region) -> Region:
        """Voxels of the volume that the prediction of ``region`` depends on."""
        return self.resampling.source(self._held(self.network_region(region)))

    def _held(self, wanted: Region) -> Region:
        """Voxels of the network's grid that the patches of ``wanted`` read."""
        spans = []
        for extent, n in zip(self.lattice.extents(wanted), self.resampling.shape, strict=True):
            index = mirrored(extent, n)
            spans.append((int(index.min()), int(index.max()) + 1))
        (z0, z1), (y0, y1), (x0, x1) = spans
        return Region((z0, y0, x0), (z1, y1, x1))

    def predict(
        self,
        read: Callable[[Region], npt.NDArray[Any]],
        region: Region,
        constants: tuple[float, float],
        forward: Forward,
    ) -> npt.NDArray[np.uint8]:
        """Stored channels of a region.

        Parameters
        ----------
        read : callable
            Gives voxels of the volume.
        constants : (float, float)
            Values of the image that are 0 and 1 to the network.

        Returns
        -------
        ndarray, uint8, (C, *region.shape)
            ``floor(255 a + 0.5)`` of channels a in [0, 1].
        """
        wanted = self.network_region(region)
        held = self._held(wanted)
        source = self.resampling.source(held)
        image = normalise(read(source), *constants)
        if not self.resampling.is_identity:
            image = self.resampling.apply(image, source, held)
        predicted = self._patchwise(image, held, wanted, forward)
        if not self.resampling.is_identity:
            predicted = self.resampling.inverse().apply(predicted, wanted, region)
        return quantised(predicted)

    def _patchwise(self, image: Image, held: Region, wanted: Region, forward: Forward) -> Image:
        """Predicted channels of ``wanted`` from the network's input on ``held``."""
        lattice = self.lattice
        starts = list(lattice.starts(wanted))
        total = np.zeros((0, *wanted.shape), np.float32)
        weight = weights(self.patch) if lattice.blended else None
        sums = np.zeros(wanted.shape, np.float32) if lattice.blended else None
        results = forward(lattice.cut(image, held, start) for start in starts)
        for start, result in zip(starts, results, strict=True):
            if not total.size:
                total = np.zeros((result.shape[0], *wanted.shape), np.float32)
            kept = Region(start, _plus(start, self.patch))
            if weight is None or sums is None:
                kept = Region(_plus(start, self.halo), _plus(start, self.halo, lattice.core))
            part = kept.intersect(wanted)
            to = part.within(wanted).slices
            cut = part.within(Region(start, _plus(start, self.patch))).slices
            if weight is None or sums is None:
                total[(slice(None), *to)] = result[(slice(None), *cut)]
            else:
                total[(slice(None), *to)] += result[(slice(None), *cut)] * weight[cut]
                sums[to] += weight[cut]
        if sums is not None:
            total /= sums
        return total


def quantised(values: Image) -> npt.NDArray[np.uint8]:
    """Values in [0, 1] as 8 bits."""
    scaled = np.clip(values, np.float32(0), np.float32(1))
    scaled *= np.float32(255)
    scaled += np.float32(0.5)
    return scaled.astype(np.uint8)


def _plus(start: Sequence[int], *more: Triple) -> Triple:
    z, y, x = (sum(values) for values in zip(start, *more, strict=True))
    return (z, y, x)


def predict_array(
    model: Model,
    image: npt.NDArray[Any],
    voxel_size: Size,
    *,
    constants: tuple[float, float] | None = None,
    device: str = "cpu",
    batch: int = 1,
) -> npt.NDArray[np.uint8]:
    """Stored channels of an image in memory.

    Parameters
    ----------
    image : ndarray, (z, y, x)
        Of any real type; what is not finite counts as 0.
    voxel_size : (float, float, float)
        Micrometres.
    constants : (float, float), optional
        Values that are 0 and 1 to the network; by default the card's percentiles of
        ``image``, see :func:`~.normalisation.percentiles`.

    Returns
    -------
    ndarray, uint8, (C, z, y, x)
    """
    z, y, x = image.shape
    if image.dtype.kind == "f":
        # as stored volumes are read
        with np.errstate(over="ignore"):
            image = image.astype(np.float32)
        image = np.where(np.isfinite(image), image, np.float32(0))
    if constants is None:
        card = model.card.normalisation
        constants = percentiles(image, card.low, card.high)
    tiling = Tiling.of(model, (z, y, x), voxel_size)
    forward = Forward.of(model, device, batch)
    whole = Region.whole((z, y, x))
    return tiling.predict(lambda region: image[region.slices], whole, constants, forward)
