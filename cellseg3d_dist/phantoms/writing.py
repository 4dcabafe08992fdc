"""Write a phantom of any size: image and exact labels, block by block on a cluster."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellseg3d_dist.engine.production import check_destination, producing
from cellseg3d_dist.engine.progress import Progress
from cellseg3d_dist.engine.records import digest
from cellseg3d_dist.engine.stage import BlockRecord
from cellseg3d_dist.grid import Block, BlockGrid, Selection, Triple
from cellseg3d_dist.paths import absolute_path
from cellseg3d_dist.phantoms.nuclei import count
from cellseg3d_dist.phantoms.rendering import render
from cellseg3d_dist.phantoms.spec import PhantomSpec
from cellseg3d_dist.volumes import StoredImage, create_image, plan_image

if TYPE_CHECKING:
    from distributed import Client


@dataclass(frozen=True)
class Phantom:
    """A stored phantom.

    Attributes
    ----------
    image, labels : Path
        OME-Zarr images.
    n_cells : int
    spec : PhantomSpec
    """

    image: Path
    labels: Path
    n_cells: int
    spec: PhantomSpec


@dataclass(frozen=True)
class RenderPhantom:
    """Level 0 of image and labels."""

    spec: PhantomSpec
    image: StoredImage
    labels: StoredImage
    name: str = "render"

    def decides(self) -> BlockRecord:
        """The specification and the block shape."""
        block_shape = list(self.image.levels[0].block_shape)
        return {"spec": asdict(self.spec), "block_shape": block_shape}

    def run(self, block: Block) -> BlockRecord:
        """Render and write one block."""
        image, labels = render(self.spec, block.write_region)
        self.image.levels[0].write(block.write_region, image)
        self.labels.levels[0].write(block.write_region, labels)
        return {"digest": digest(image, labels)}

    def verify(self, block: Block, record: BlockRecord) -> bool:
        """Whether both are intact."""
        region = block.write_region
        image, labels = (s.levels[0].read(region) for s in (self.image, self.labels))
        return bool(digest(image, labels) == record["digest"])


def phantom(
    dst: str | Path,
    shape: Triple,
    seed: int = 0,
    *,
    block_shape: Triple = (128, 128, 128),
    client: Client | None = None,
    workers: int | None = None,
    memory_limit: int | None = None,
    progress: Progress | None = None,
    **spec: Any,
) -> Phantom:
    """Make a procedural brain with known cells.

    Parameters
    ----------
    dst : path
        A folder for ``image.ome.zarr``, ``labels.ome.zarr`` and ``phantom.json``.
    shape : (int, int, int)
        Voxels in (z, y, x), any size.
    seed : int
    block_shape : (int, int, int)
        Of the stored shards; it does not change a voxel.
    **spec
        Other attributes of :class:`PhantomSpec`.

    Raises
    ------
    ConfigError, OutputError
        If a value is out of range or ``dst`` exists.
    """
    destination = absolute_path(dst)
    made = PhantomSpec(shape=shape, seed=seed, **spec)
    decides = asdict(made) | {"block_shape": list(block_shape)}
    check_destination(destination, decides)
    paths = (destination / "image.ome.zarr", destination / "labels.ome.zarr")
    common: dict[str, Any] = {
        "shape": made.shape, "block_shape": block_shape, "voxel_size": made.voxel_size,
    }  # fmt: skip
    how = {
        paths[0]: common | {"dtype": made.dtype, "kind": "image"},
        paths[1]: common | {"dtype": "uint32", "kind": "labels"},
    }
    image, labels = (plan_image(path, **options) for path, options in how.items())
    result = Phantom(*paths, count(made), made)
    with producing(
        destination,
        decides,
        client=client,
        workers=workers,
        memory_limit=memory_limit,
        progress=progress,
    ) as production:
        destination.mkdir(parents=True, exist_ok=True)
        for path, options in how.items():
            if not path.exists():
                create_image(path, **options)
        stage = RenderPhantom(made, image, labels)
        production.run(stage, Selection.all(BlockGrid(made.shape, block_shape)))
        production.pyramid(image, repr(made))
        production.pyramid(labels, repr(made))
        facts = {"cells": result.n_cells, "spec": asdict(made)}
        (destination / "phantom.json").write_text(json.dumps(facts, indent=1) + "\n")
    return result
