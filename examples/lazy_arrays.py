"""Label a dask array lazily, inside a pipeline of one's own.

    python examples/lazy_arrays.py

Nothing is computed before `dask.compute`, and neither labels nor table depend on the chunks.
"""

from __future__ import annotations

import dask
import dask.array as da
import numpy as np

from cellseg3d_dist import arrays


def blobs(shape: tuple[int, int, int], n: int) -> np.ndarray:
    """Round bright spots on a dim background; (z, y, x) float32."""
    rng = np.random.default_rng(0)
    position = np.indices(shape).reshape(3, -1).T
    image = rng.normal(10, 1, len(position))
    for centre in rng.uniform(4, np.array(shape) - 4, (n, 3)):
        image += 100 * np.exp(-((position - centre) ** 2).sum(1) / (2 * 2.0**2))
    return image.reshape(shape).astype(np.float32)


def main() -> None:
    """Label and measure the same image in two cuts."""
    image = blobs((40, 60, 60), 25)
    found = []
    for chunks in ((40, 60, 60), (16, 25, 33)):
        lazy = da.from_array(image, chunks=chunks)
        labels = arrays.label(lazy, spot_sigma="2um", outline_sigma="1um", voxel_size=(1, 1, 1))
        cells = arrays.measure(labels, lazy, voxel_size=(1, 1, 1))
        found.append(dask.compute(labels, cells))
        print(f"chunks {chunks}: {found[-1][1].num_rows} cells")
    (labels_a, cells_a), (labels_b, cells_b) = found
    same = np.array_equal(labels_a, labels_b) and cells_a.equals(cells_b)
    print("labels and table are the same" if same else "they differ")
    if not same:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
