"""Someone else's dask pipeline with cell labelling in its middle.

    python examples/embed_in_a_dask_pipeline.py

The pipeline makes an image chunk by chunk, takes the background away through dask's
`map_overlap`, labels and measures the cells, and stores and summarises what it found, all
in one lazy graph. In the end the labels are compared with those of the array in one piece.
"""

from __future__ import annotations

import tempfile

import dask
import dask.array as da
import numpy as np
import zarr
from scipy import ndimage

from cellseg3d_dist import arrays
from cellseg3d_dist.grid import Region
from cellseg3d_dist.instances.voronoi import VoronoiSpec, voronoi_otsu
from cellseg3d_dist.phantoms import PhantomSpec, render

SHAPE, CHUNKS = (64, 112, 96), (40, 50, 96)
BACKGROUND = 15  # voxels, wider than a nucleus
SPOT_SIGMA, OUTLINE_SIGMA = 2.0, 1.0


def microscope() -> da.Array:
    """Stand-in for any source: a phantom of packed nuclei, rendered chunk by chunk."""
    spec = PhantomSpec(SHAPE, extent=3.0)

    def one_chunk(block_info: dict | None = None) -> np.ndarray:
        (z0, z1), (y0, y1), (x0, x1) = block_info[None]["array-location"]
        image, _ = render(spec, Region((z0, y0, x0), (z1, y1, x1)))
        return image

    chunks = da.core.normalize_chunks(CHUNKS, SHAPE)
    return da.map_blocks(one_chunk, chunks=chunks, dtype=np.uint16, meta=np.empty((0,) * 3, "u2"))


def without_background(image: da.Array) -> da.Array:
    """The image less its grey opening: what is wider than a nucleus goes."""

    def top_hat(block: np.ndarray) -> np.ndarray:
        return block - ndimage.grey_opening(block, size=BACKGROUND)

    return image.map_overlap(top_hat, depth=BACKGROUND, boundary="none", dtype=image.dtype)


def main() -> None:
    """Run the pipeline and check it."""
    image = without_background(microscope())
    labels = arrays.label(image, spot_sigma=SPOT_SIGMA, outline_sigma=OUTLINE_SIGMA)
    table = arrays.measure(labels, image, voxel_size=(1, 1, 1))
    filled = (labels > 0).mean(axis=(1, 2))  # any dask operation goes on from here

    with tempfile.TemporaryDirectory() as folder:
        target = zarr.create_array(
            f"{folder}/labels.zarr", shape=SHAPE, chunks=labels.chunksize, dtype=labels.dtype
        )
        stored = da.store(labels, target, compute=False)
        # arrays first: dask (2026.8) returns mixed kinds of results grouped by kind
        _, per_plane, cells = dask.compute(stored, filled, table)
        found = target[:]

    whole = image.compute()
    threshold = float(arrays.otsu_threshold(whole, OUTLINE_SIGMA))
    spec = VoronoiSpec((SPOT_SIGMA,) * 3, (OUTLINE_SIGMA,) * 3, threshold)
    expected = voronoi_otsu(whole, spec)
    if not np.array_equal(found, expected):
        raise SystemExit("the labels depend on the chunks")
    print(
        f"{cells.num_rows} cells in {labels.npartitions} chunks, the same labels as in one piece; "
        f"mean volume {np.mean(cells['volume_um3']):.0f} um3, "
        f"up to {per_plane.max():.0%} of a plane filled"
    )


if __name__ == "__main__":
    main()
