"""Which settings are searched, and over which values."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from math import floor, log10
from typing import Any

import numpy as np

from cellseg3d_dist.config import Length
from cellseg3d_dist.engine.checks import MAX_SIGMA
from cellseg3d_dist.engine.method import Method
from cellseg3d_dist.errors import ConfigError
from cellseg3d_dist.representations import Representation, decoding_parameters
from cellseg3d_dist.tuning.labelling import Thresholded
from cellseg3d_dist.tuning.samples import Sample, median_volume
from cellseg3d_dist.tuning.search import Axis

#: Fractions of 1, CellSeg3D's steps.
FRACTIONS = tuple(round(0.05 * i, 2) for i in range(21))
#: Of the sigma that the search starts at.
SIGMA_FACTORS = (0.25, 0.35, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.4, 1.7, 2.0, 2.8)
#: Of Otsu's threshold.
OTSU_FACTORS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.4, 1.6, 2.0, 2.5)
#: Smallest cell, of the median volume of the labelled ones.
VOLUME_FACTORS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
#: Voxels of what is dropped after the decoding, which costs nothing to try.
CELL_SIZES = (
    1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 4096,
)  # fmt: skip
#: Voxels or votes of what decides the decoding.
SEED_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
#: Decoder parameters that are neither fractions of 0.05 to 0.95 nor sizes of seeds.
DECODER_GRIDS: dict[str, tuple[float, ...]] = {
    "min_voxels": CELL_SIZES,
    "n_iterations": (20, 40, 60, 80, 120, 160, 240),
    "step": (0.25, 0.5, 0.75, 1.0),
    # 0 is the border of a cell, and no overlap at all
    "foreground_distance": FRACTIONS[:-1],
    "seed_distance": FRACTIONS[:-1],
    "overlap": FRACTIONS[:-1],
}


def decoder_axes(method: Method) -> list[Axis]:
    """One axis for each number among the decoder's parameters, sizes of cells last."""
    represents = method.representation
    assert represents is not None
    start = dataclasses.asdict(method.parameters)
    axes = []
    for name, default in start.items():
        if isinstance(default, bool) or not isinstance(default, int | float):
            continue
        usual = SEED_SIZES if isinstance(default, int) else FRACTIONS[1:-1]
        wanted = {*DECODER_GRIDS.get(name, usual), default}
        values = tuple(v for v in sorted(wanted) if _usable(represents, start | {name: v}))
        axes.append(Axis(name, values, default))
    return sorted(axes, key=lambda axis: axis.name == "min_voxels")


def _usable(represents: Representation, parameters: dict[str, Any]) -> bool:
    try:
        decoding_parameters(represents, parameters)
    except ConfigError:
        return False
    return True


def threshold_axes(
    method: Method, samples: Sequence[Sample], labellers: Sequence[Thresholded]
) -> list[Axis]:
    """Threshold, sigmas and smallest cell of Voronoi-Otsu or components."""
    config = method.config
    given = config.threshold
    axes = [_threshold_axis(given, method, labellers)]
    names = ["spot_sigma", "outline_sigma"]
    # components have no spots
    names = names[1:] if config.instances == "components" else names
    axes += [_sigma_axis(name, getattr(config, name), samples) for name in names]
    median = median_volume(samples)
    volumes = [f"{rounded(factor * median, 2):g}um3" for factor in VOLUME_FACTORS]
    default = None if config.min_volume is None else str(config.min_volume)
    return [*axes, Axis("min_volume", _with(default, [None, *volumes]), default)]


def _threshold_axis(given: Any, method: Method, labellers: Sequence[Thresholded]) -> Axis:
    if method.network is not None:
        middle, values = 0.5, FRACTIONS[1:-1]
    else:
        outlines = (method.config.outline_sigma.voxels(one.voxel_size) for one in labellers)
        found = [one.otsu(sigma) for one, sigma in zip(labellers, outlines, strict=True)]
        middle = float(np.median(found))
        values = tuple(rounded(factor * middle, 4) for factor in OTSU_FACTORS)
    ordered: list[Any] = sorted({*values, *([] if given == "otsu" else [given])})
    if method.network is None or given == "otsu":
        # a value of its own, next to the numbers that are like it
        ordered.insert(sum(value < middle for value in ordered), "otsu")
    return Axis("threshold", tuple(ordered), given)


def _sigma_axis(name: str, start: Length, samples: Sequence[Sample]) -> Axis:
    """Lengths around the one that is given, or around a voxel where that is 0."""
    finest = min(min(sample.voxel_size) for sample in samples)
    unit = finest if start.in_micrometres else 1.0
    around = start.value or 2 * unit
    lengths = [start.model_copy(update={"value": rounded(f * around, 3)}) for f in SIGMA_FACTORS]
    if name == "outline_sigma":
        lengths.append(start.model_copy(update={"value": 0.0}))
    kept = [one for one in {*lengths, start} if _fits(one, samples)]
    ordered = sorted(kept, key=lambda one: one.value)
    return Axis(name, tuple(str(one) for one in ordered), str(start))


def _fits(length: Length, samples: Sequence[Sample]) -> bool:
    return all(max(length.voxels(sample.voxel_size)) <= MAX_SIGMA for sample in samples)


def _with(default: Any, values: Iterable[Any]) -> tuple[Any, ...]:
    """Different values, the default last if it is none of them."""
    return tuple(dict.fromkeys([*values, default]))


def rounded(value: float, digits: int) -> float:
    """Rounded to significant digits.

    >>> rounded(1234.5, 2), rounded(0.0123456, 3), rounded(0, 3)
    (1200.0, 0.0123, 0.0)
    """
    if value == 0:
        return 0.0
    return round(float(value), digits - 1 - floor(log10(abs(value))))
