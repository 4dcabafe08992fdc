"""Segment with a Dask client that is already there, then read the cells.

    python examples/existing_client.py

Any `distributed.Client` will do whose workers see the image and the run folder: dask-jobqueue,
a Kubernetes cluster, or an own LocalCluster as here.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pyarrow.parquet as pq
from distributed import Client, LocalCluster

from cellseg3d_dist import phantom, resume, segment


def main() -> None:
    """Make a small brain with known cells, segment it, look at the table."""
    with (
        tempfile.TemporaryDirectory() as scratch,
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        made = phantom(Path(scratch) / "phantom", (96, 96, 96), seed=3, client=client)
        how = {"model": "intensity", "block_shape": (64, 64, 64)}
        result = segment(made.image, Path(scratch) / "run", client=client, **how)
        cells = pq.read_table(result.cells, columns=["label", "volume_um3", "intensity_mean"])
        print(f"{made.n_cells} cells are there, {result.n_cells} were found")
        for cell in cells.slice(0, 5).to_pylist():
            print(cell)

        # a finished run executes nothing; an interrupted one goes on where it stopped
        again = resume(result.folder, client=client)
        print(f"resumed: {again.executed} blocks executed")


# worker processes import this file; only the first one may run it
if __name__ == "__main__":
    main()
