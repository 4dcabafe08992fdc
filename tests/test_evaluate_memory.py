"""A block of an evaluation needs no more memory than projected."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from segmenting import store
from test_memory import measured

from cellseg3d_dist.config.evaluate import EvaluateConfig
from cellseg3d_dist.engine.stages.score import Score
from cellseg3d_dist.evaluation.cutting import cut
from cellseg3d_dist.evaluation.opening import Beside, open_pair
from cellseg3d_dist.evaluation.sources import Image

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="the kernel counts no peaks"
)
OPTIONS = {
    "plain": {},
    "masked": {"boxes": True, "ignore": 3, "mask": True},
    "measured": {"distance": "3um", "thesis": True},
}


def needed(folder, side, block, dtype, options):
    """What a block of a pair is projected to need, and what it does."""
    cells = np.indices((side,) * 3).astype(np.int64) // 9
    labels = ((cells[0] * 1000 + cells[1]) * 100 + cells[2] + 1).astype(dtype)
    labels[::9] = 0
    path = store(folder / "labels.zarr", labels, block_shape=(64, 64, 64))
    options = dict(options)
    beside = Beside(path, path) if options.pop("mask", False) else Beside()
    if options.pop("boxes", False):
        options["boxes"] = (((1, side),) * 3,)
    config = EvaluateConfig(**options)
    pair = open_pair(Image(path, path), beside, config, known=True).pair
    grid, need = cut(pair, 64 << 30, 1, (block,) * 3)
    stage = Score((pair,), (grid,), folder / "work")
    (folder / "stages.pickle").write_bytes(pickle.dumps(({"score": stage}, {"score": stage.grid})))
    return need.n_bytes, measured(folder / "stages.pickle", "score")["score"]


@pytest.mark.parametrize("name", ["masked", "measured"])
def test_no_block_needs_more_than_projected(name, tmp_path):
    projected, found = needed(tmp_path, 132, 48, np.uint32, OPTIONS[name])
    assert found <= projected


@pytest.mark.long
@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.uint64])
@pytest.mark.parametrize("name", OPTIONS)
def test_large_blocks_need_what_is_projected_and_at_least_half_of_it(name, dtype, tmp_path):
    projected, found = needed(tmp_path, 300, 192, dtype, OPTIONS[name])
    assert found <= projected <= 2 * found
