"""Memory is a contract: no block needs more than projected, and projections are no fantasy."""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage as ndi
from segmenting import store

from cellseg3d_dist import segmentation
from cellseg3d_dist.engine import executors
from cellseg3d_dist.engine.folder import RunFolder
from cellseg3d_dist.engine.stages.pyramid import Pyramid
from cellseg3d_dist.errors import MemoryLimitError
from cellseg3d_dist.grid import BlockGrid
from cellseg3d_dist.segmentation import plan, segment
from cellseg3d_dist.volumes import create_image

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="the kernel counts no peaks"
)

#: The block in the middle of 3 x 3 x 3: it alone reads a whole halo on every side.
MIDDLE = 13
METHODS = {
    "voronoi": {"spot_sigma": "1", "outline_sigma": "0.65"},
    "exchange": {"spot_sigma": "2", "outline_sigma": "0.65", "flood_halo": 1},
    "components": {"instances": "components", "outline_sigma": "0.65"},
    "watershed": {
        "instances": "watershed",
        "spot_sigma": "2",
        "outline_sigma": "0.65",
        "flood_halo": 1,
    },
    "watershed from components": {
        "instances": "watershed",
        "seeds": "threshold",
        "seed_threshold": 120,
        "threshold": 40,
        "outline_sigma": "0.65",
    },
}


def volume(side, dtype, full=False):
    """Dense cells, or nothing but foreground, which needs most."""
    rng = np.random.default_rng(0)
    image = np.zeros((side,) * 3, np.float32)
    n = side**3 // 400
    image[tuple(rng.integers(0, side, n) for _ in range(3))] = rng.uniform(0.5, 2, n)
    image = ndi.gaussian_filter(image, 2.0)
    image = image / image.max() * 200 + rng.random(image.shape, dtype=np.float32) * 20
    return (image + 50 if full else image).astype(dtype)


def finished(folder, block, dtype, options, full=False):
    """A run whose stages are kept: a file of them all, their names and the projections."""
    side = 2 * block + 40
    source = store(folder / "image.ome.zarr", volume(side, dtype, full), block_shape=(64,) * 3)
    stages, tried = {}, executors.run_block

    def keep(stage, block):
        stages[stage.name] = stage
        return tried(stage, block)

    options = options | ({"threshold": 30} if full else {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(executors, "run_block", keep)
        patch.setattr(segmentation.running, "write_run_report", lambda *args, **kwargs: None)
        segment(
            source, folder / "out", executor="serial", keep_work=True, block_shape=(block,) * 3,
            memory_limit="64GB", model="intensity", **options,
        )  # fmt: skip
    grid = BlockGrid((side,) * 3, (block,) * 3)
    grids = {
        name: stage.image.levels[stage.level].grid if isinstance(stage, Pyramid) else grid
        for name, stage in stages.items()
    }
    path = folder / "stages.pickle"
    path.write_bytes(pickle.dumps((stages, grids)))
    made = RunFolder(folder / "out").status()["plan"]["stages"]
    return path, list(stages), {stage["stage"]: stage["n_bytes"] for stage in made}


def measured(path, *names):
    """Largest resident memory of each stage's block, in a fresh process."""
    script = Path(__file__).with_name("one_block.py")
    command = [sys.executable, script, path, str(MIDDLE), *names]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    pairs = [line.split() for line in ended.stdout.splitlines()]
    return {name: int(n_bytes) for name, n_bytes in pairs}


def projection_for(name, projected):
    """A stage's own projection; the run's largest for a stage that has none."""
    return projected.get(name.split("-")[0], max(projected.values()))


@pytest.mark.parametrize("method", METHODS)
def test_no_stage_needs_more_than_projected(method, tmp_path):
    path, names, projected = finished(tmp_path, 56, np.uint16, METHODS[method])
    found = measured(path, *names)
    assert set(found) == set(names)
    over = {n: v for n, v in found.items() if v > projection_for(n, projected)}
    assert not over, projected


@pytest.mark.long
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
@pytest.mark.parametrize("block", [128, 192])
@pytest.mark.parametrize("method", METHODS)
def test_large_blocks_need_what_is_projected_and_at_least_half_of_it(
    method, block, dtype, full, tmp_path
):
    path, names, projected = finished(tmp_path, block, dtype, METHODS[method], full)
    rounds = [name for name in names if name.startswith("exchange-")]
    report = []
    for name in [name for name in names if name not in rounds[2:]]:
        n_bytes = measured(path, name)[name]
        allowed = projection_for(name, projected)
        report.append((name, n_bytes, allowed, round(allowed / n_bytes, 2)))
    wrong = [
        line
        for line in report
        # a stage without a projection of its own may need far less
        if line[1] > line[2] or (line[0].split("-")[0] in projected and line[3] > 2)
    ]
    assert not wrong, report


def test_a_plan_over_the_limit_is_refused_with_a_block_that_fits(tmp_path):
    source = str(tmp_path / "image.ome.zarr")
    create_image(
        source, shape=(300, 300, 300), dtype=np.uint16, block_shape=(64, 64, 64),
        voxel_size=(1, 1, 1), kind="image",
    )  # fmt: skip
    options = {"spot_sigma": "1", "outline_sigma": "1", "executor": "serial"}
    made = plan(source, block_shape=(256, 256, 256), memory_limit="64GB", **options)
    limit = made.peak.n_bytes - 1
    with pytest.raises(MemoryLimitError, match=r"needs .* GiB.*Use --block-shape") as caught:
        plan(source, block_shape=(256, 256, 256), memory_limit=limit, **options)
    suggested = str(caught.value).partition("--block-shape ")[2].split()[0].strip(".")
    fitting = plan(source, block_shape=suggested, memory_limit=limit, **options)
    assert fitting.peak.n_bytes <= limit
    assert plan(source, memory_limit=limit, **options).peak.n_bytes <= limit
