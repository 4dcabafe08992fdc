"""Helpers of tests of the main job: stored inputs, runs, and the answer in one piece."""

from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq
import scipy.ndimage as ndi
from reference import keep_volumes, voronoi_otsu_plain

from cellseg3d_dist.config import make_config
from cellseg3d_dist.engine.folder import RunFolder
from cellseg3d_dist.engine.method import resolve_method
from cellseg3d_dist.grid import Region
from cellseg3d_dist.instances.components import REACH
from cellseg3d_dist.instances.filters import gaussian
from cellseg3d_dist.instances.threshold import count_bins, otsu
from cellseg3d_dist.instances.voronoi import VoronoiSpec
from cellseg3d_dist.segmentation import segment
from cellseg3d_dist.volumes import create_image, open_volume


def store(path, image, voxel_size=(1.0, 1.0, 1.0), block_shape=(16, 16, 16), channels=None):
    """Write an array, (z, y, x) or (c, z, y, x), as OME-Zarr; its path."""
    shape = image.shape[-3:]
    stored = create_image(
        path,
        shape=shape,
        dtype=image.dtype,
        block_shape=block_shape,
        voxel_size=voxel_size,
        n_levels=1,
        kind="image",
        channels=channels,
    )
    for block in stored.levels[0].grid.blocks():
        region = block.write_region
        stored.levels[0].write(region, image[(..., *region.slices)])
    return str(path)


def labels_of(out):
    volume = open_volume(RunFolder(out).labels, voxel_size=(1, 1, 1))
    return volume.read(Region.whole(volume.shape))


def cells_of(out):
    return pq.read_table(RunFolder(out).cells)


def stored_bytes(folder):
    """Every file below a folder, by its place."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@dataclass(frozen=True)
class Answer:
    """What a run found, in a form that compares exactly."""

    labels: np.ndarray
    cells: object
    facts: dict

    @classmethod
    def of(cls, out):
        status = RunFolder(out).status()
        assert status["status"] == "complete"
        return cls(labels_of(out), cells_of(out), status["facts"])

    def assert_same(self, other, metadata=True):
        assert self.labels.dtype == other.labels.dtype
        np.testing.assert_array_equal(self.labels, other.labels)
        # schema, metadata, order of rows and every bit of every number
        assert self.cells.schema.equals(other.cells.schema, check_metadata=metadata)
        assert len(self.cells) == len(other.cells)
        for name in self.cells.column_names:
            one, another = (t.column(name).to_numpy() for t in (self.cells, other.cells))
            assert one.tobytes() == another.tobytes(), name
        for key in ("threshold", "survey"):
            assert self.facts.get(key) == other.facts.get(key)


def run(image, out, **options):
    """A run in this process unless told otherwise."""
    how = {"executor": "serial", "voxel_size": (1, 1, 1), "model": "intensity"}
    segment(image, out, **how | options)
    return Answer.of(out)


def in_one_piece(image, within=None, **options):
    """Labels of a whole array in memory by plain numpy, for the options of ``segment``."""
    given = {"image": "", "voxel_size": (1, 1, 1), "model": "intensity"} | options
    config = resolve_method(make_config(given)).config
    sigmas = [s.voxels(config.voxel_size) for s in (config.spot_sigma, config.outline_sigma)]
    smoothed = gaussian(image, sigmas[1])
    threshold = config.threshold
    if threshold == "otsu":
        values = smoothed if within is None else smoothed[within]
        low, high = float(values.min()), float(values.max())
        flat = low == high
        threshold = high if flat else otsu(count_bins(smoothed, low, high, within), low, high)
    if config.instances == "components":
        mask = smoothed > np.float32(threshold)
        if within is not None:
            mask &= within
        structure = ndi.generate_binary_structure(3, REACH[config.connectivity])
        labels = ndi.label(mask, structure)[0]
    else:
        labels = voronoi_otsu_plain(image, VoronoiSpec(*sigmas, threshold), within)
    limits = [config.min_volume, config.max_volume]
    smallest, largest = (v.voxels(config.voxel_size) if v else None for v in limits)
    return keep_volumes(labels, smallest or 0, largest)
