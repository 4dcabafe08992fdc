"""Random changes of a patch that a cell's outline survives, in micrometres where they move it.

Image and labels get one geometry; labels are never interpolated. Intensity changes act on
the normalised image and end in the range that a network is given.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from cellseg3d_dist.errors import ConfigError
from cellseg3d_dist.grid import Triple
from cellseg3d_dist.networks.lattice import mirrored
from cellseg3d_dist.networks.normalisation import CEILING
from cellseg3d_dist.networks.resampling import Size
from cellseg3d_dist.training.warp import LARGEST_DISPLACEMENT, Extents, Warp, draw_elastic

Image = npt.NDArray[np.float32]

#: Voxel sizes closer than this, as a ratio, are equal: the plane may be turned by quarters.
_EQUAL = 0.01


@dataclass(frozen=True)
class Augmentation:
    """Probabilities (0 to 1) and ranges of every change.

    Attributes
    ----------
    flip : float
        Probability of each axis.
    quarter_turns : float
        Turns by 90 degrees, only in planes of equal voxel size.
    rotation, rotation_degrees, tilt_degrees : float
        Rotation about z and, smaller, about y and x.
    scaling, scaling_range : float, (float, float)
        One factor for all axes, uniform in its logarithm.
    shear, shear_range : float
        Off-diagonal entries of the affine matrix, up to the range in size.
    elastic, elastic_spacing, elastic_magnitude : float
        Control points lie ``elastic_spacing`` of the patch's longest side apart and move by
        up to ``elastic_magnitude`` of that; at most 0.4, beyond which tissue would fold.
    gain, gain_range, gamma, gamma_range, shift, shift_range
        Brightness: factor, exponent and offset of the normalised image.
    blur, blur_sigma : float
        Gaussian blur, up to ``blur_sigma`` voxels of the finest axis.
    noise, noise_sigma : float
        Gaussian noise of a standard deviation up to ``noise_sigma``.
    missing, missing_share : float
        A few sections or a box, up to ``missing_share`` of the patch along an axis, that are
        dimmed or gone in the image; the labels stay.

    Raises
    ------
    ConfigError
        If a probability or range cannot be.
    """

    flip: float = 0.5
    quarter_turns: float = 1.0
    rotation: float = 0.3
    rotation_degrees: float = 180.0
    tilt_degrees: float = 8.0
    scaling: float = 0.3
    scaling_range: tuple[float, float] = (0.8, 1.25)
    shear: float = 0.15
    shear_range: float = 0.1
    elastic: float = 0.2
    elastic_spacing: float = 0.25
    elastic_magnitude: float = 0.2
    gain: float = 0.4
    gain_range: tuple[float, float] = (0.7, 1.3)
    gamma: float = 0.3
    gamma_range: tuple[float, float] = (0.7, 1.5)
    shift: float = 0.3
    shift_range: float = 0.1
    blur: float = 0.15
    blur_sigma: float = 1.0
    noise: float = 0.3
    noise_sigma: float = 0.1
    missing: float = 0.1
    missing_share: float = 0.2

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in _PROBABILITIES:
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ConfigError(f"augmentation {name} {value:g} is a probability, 0 to 1.")
        for name in ("scaling_range", "gain_range", "gamma_range"):
            low, high = getattr(self, name)
            if not 0 < low <= high < math.inf:
                raise ConfigError(
                    f"augmentation {name} ({low:g}, {high:g}) must be two numbers above 0, the "
                    "smaller one first."
                )
        for name, largest in _LARGEST.items():
            value = getattr(self, name)
            if not 0 <= value <= largest:
                raise ConfigError(f"augmentation {name} {value:g} must be 0 to {largest:g}.")
        if self.elastic and not self.elastic_spacing > 0:
            raise ConfigError("augmentation elastic_spacing 0 must be above 0.")

    @classmethod
    def none(cls) -> Augmentation:
        """Nothing is changed."""
        return cls(**dict.fromkeys(_PROBABILITIES, 0.0))  # type: ignore[arg-type]

    @classmethod
    def of_options(cls, options: Mapping[str, Any]) -> Augmentation:
        """The defaults with some of them changed, as a configuration names them.

        Raises
        ------
        ConfigError
            If a name is unknown or a value is no number (or two, for a range).
        """
        known = {field.name: field.default for field in fields(cls)}
        values: dict[str, Any] = {}
        for name, value in options.items():
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                hint = f"Did you mean {near[0]}?" if near else f"There are {', '.join(known)}."
                raise ConfigError(f"augmentation has no option {name}. {hint}")
            count = 2 if isinstance(known[name], tuple) else 1
            given = list(value) if isinstance(value, list | tuple) else [value]
            if len(given) != count or not all(_is_number(item) for item in given):
                wanted = "two numbers" if count == 2 else "a number"
                raise ConfigError(f"augmentation {name} {value!r} must be {wanted}.")
            numbers = tuple(float(item) for item in given)
            values[name] = numbers if count == 2 else numbers[0]
        return cls(**values)

    def draw_warp(
        self,
        rng: np.random.Generator,
        shape: Triple,
        voxel_size: Size,
        *,
        halo: int = 0,
        stored_size: Size | None = None,
    ) -> Warp:
        """A random change of shape.

        Parameters
        ----------
        shape : (int, int, int)
            Of the patch, in voxels of ``voxel_size`` (micrometres).
        halo : int
            Voxels beyond the patch that the elastic part has to cover.
        stored_size : (float, float, float), optional
            Voxel size before any resampling; where it is not equal along two axes the image
            is blurred unequally, so they are not exchanged.
        """
        axes = np.array(voxel_size)
        turns = self._draw_turns(rng, voxel_size, stored_size or voxel_size)
        physical = self._draw_affine(rng)
        if (physical == np.eye(3)).all():
            matrix = turns
        else:
            matrix = turns @ (physical * axes[None, :] / axes[:, None])
        elastic = None
        if rng.random() < self.elastic:
            step = self.elastic_spacing * max(n * s for n, s in zip(shape, axes, strict=True))
            spacing = (step / axes).tolist()
            magnitude = self.elastic_magnitude * rng.random()
            elastic = draw_elastic(rng, shape, halo, tuple(spacing), magnitude)
        return Warp(matrix, elastic)

    def _draw_turns(
        self, rng: np.random.Generator, voxel_size: Size, stored_size: Size
    ) -> npt.NDArray[np.float64]:
        """Flips and quarter turns, on voxels: entries are -1, 0 and 1."""
        matrix = np.diag(np.where(rng.random(3) < self.flip, -1.0, 1.0))
        if rng.random() >= self.quarter_turns:
            return matrix
        for a, b in ((1, 2), (0, 1), (0, 2)):
            quarters = rng.integers(4)
            if not (_equal(voxel_size, a, b) and _equal(stored_size, a, b)):
                continue
            turn = np.eye(3)
            turn[[a, b]] = turn[[b, a]] * np.array([[1.0], [-1.0]])
            matrix = matrix @ np.linalg.matrix_power(turn, int(quarters))
        return matrix

    def _draw_affine(self, rng: np.random.Generator) -> npt.NDArray[np.float64]:
        """Rotation, scale and shear in micrometres."""
        matrix = np.eye(3)
        if rng.random() < self.rotation:
            limits = (self.rotation_degrees, self.tilt_degrees, self.tilt_degrees)
            for (a, b), limit in zip(((1, 2), (0, 1), (0, 2)), limits, strict=True):
                angle = math.radians(rng.uniform(-limit, limit))
                turn = np.eye(3)
                turn[a, a] = turn[b, b] = math.cos(angle)
                turn[a, b], turn[b, a] = -math.sin(angle), math.sin(angle)
                matrix = matrix @ turn
        if rng.random() < self.scaling:
            low, high = np.log(self.scaling_range)
            # sizes in the patch grow where the source is read in smaller steps
            matrix = matrix / math.exp(rng.uniform(low, high))
        if rng.random() < self.shear:
            sheared = rng.uniform(-self.shear_range, self.shear_range, (3, 3))
            np.fill_diagonal(sheared, 1.0)
            matrix = matrix @ sheared
        return matrix

    def change_intensity(self, image: Image, rng: np.random.Generator, voxel_size: Size) -> Image:
        """A normalised patch (z, y, x) with other brightness, noise, blur or missing parts."""
        changed = image
        if rng.random() < self.gain:
            changed = changed * np.float32(rng.uniform(*self.gain_range))
        if rng.random() < self.gamma:
            changed = np.power(changed, np.float32(rng.uniform(*self.gamma_range)))
        if rng.random() < self.blur:
            finest = rng.uniform(0, self.blur_sigma) * min(voxel_size)
            changed = ndimage.gaussian_filter(
                changed, [finest / size for size in voxel_size], truncate=3.0
            )
        if rng.random() < self.shift:
            changed = changed + np.float32(rng.uniform(-self.shift_range, self.shift_range))
        if rng.random() < self.noise:
            sigma = np.float32(rng.uniform(0, self.noise_sigma))
            changed = changed + sigma * rng.standard_normal(image.shape, np.float32)
        if rng.random() < self.missing:
            changed = self._without_a_part(changed, rng)
        if changed is image:
            return image
        result: Image = np.clip(changed, 0, CEILING, dtype=np.float32)
        return result

    def _without_a_part(self, image: Image, rng: np.random.Generator) -> Image:
        """Some sections or a box at a fraction of their brightness, often none."""
        sections = rng.random() < 0.5
        largest = [max(1, int(n * self.missing_share)) for n in image.shape]
        lengths = [int(rng.integers(1, n + 1)) for n in largest]
        if sections:
            lengths[1:] = image.shape[1:]
        starts = [int(rng.integers(n - m + 1)) for n, m in zip(image.shape, lengths, strict=True)]
        part = tuple(slice(a, a + n) for a, n in zip(starts, lengths, strict=True))
        left = 0.0 if rng.random() < 0.5 else rng.uniform(0, 0.6)
        dimmed = image.copy()
        dimmed[part] *= np.float32(left)
        return dimmed


_PROBABILITIES = (
    "flip",
    "quarter_turns",
    "rotation",
    "scaling",
    "shear",
    "elastic",
    "gain",
    "gamma",
    "shift",
    "blur",
    "noise",
    "missing",
)
_LARGEST = {
    "rotation_degrees": 180.0,
    "tilt_degrees": 90.0,
    "shear_range": 0.4,
    "elastic_spacing": 1.0,
    "elastic_magnitude": LARGEST_DISPLACEMENT,
    "shift_range": CEILING,
    "blur_sigma": 10.0,
    "noise_sigma": CEILING,
    "missing_share": 1.0,
}


def augment(
    image: Image,
    labels: npt.NDArray[Any],
    rng: np.random.Generator,
    voxel_size: Size,
    augmentation: Augmentation,
) -> tuple[Image, npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
    """A whole array as one patch, changed at random; what lies beyond it is its mirror image.

    Parameters
    ----------
    image : ndarray, float32, (z, y, x)
        Normalised.
    labels : ndarray, int, (z, y, x)
        Below 2^31.
    voxel_size : (float, float, float)
        Micrometres.

    Returns
    -------
    image : ndarray, float32
    labels : ndarray, int32
    inside : ndarray, bool
        Where the voxel comes from inside the array.
    """
    z, y, x = image.shape
    shape = (z, y, x)
    warp = augmentation.draw_warp(rng, shape, voxel_size)
    centre = (np.array(shape) - 1) / 2
    if warp.is_rigid_on_voxels:
        centre = whole_start(centre, warp.footprint(shape))
    moved = warp.image(lambda extents: mirror_read(image, extents), centre, shape)
    moved_labels, inside = warp.labels(
        lambda extents: mirror_read(labels, extents), centre, shape, 0, shape
    )
    return augmentation.change_intensity(moved, rng, voxel_size), moved_labels, inside


def whole_start(
    centre: npt.NDArray[np.float64], footprint: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """The nearest centre for which a footprint of whole voxels starts on a voxel."""
    half = (footprint - 1) / 2
    moved: npt.NDArray[np.float64] = np.floor(centre - half + 0.5) + half
    return moved


def mirror_read(array: npt.NDArray[Any], extents: Extents) -> npt.NDArray[Any]:
    """Voxels of extents of an array; mirrored at its faces where they reach beyond it."""
    if all(a >= 0 and b <= n for (a, b), n in zip(extents, array.shape, strict=True)):
        return array[tuple(slice(a, b) for a, b in extents)]
    z, y, x = (mirrored(extent, n) for extent, n in zip(extents, array.shape, strict=True))
    return array[np.ix_(z, y, x)]


def _equal(sizes: Size, a: int, b: int) -> bool:
    return abs(sizes[a] / sizes[b] - 1) < _EQUAL


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
