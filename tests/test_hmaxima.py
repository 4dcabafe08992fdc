"""Peaks by height: against scikit-image, and blocks that exchange faces against the whole."""

import numpy as np
import pytest
import scipy.ndimage as ndi
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.morphology import h_maxima as skimage_h_maxima
from skimage.morphology import reconstruction

from cellseg3d_dist.grid import BlockGrid
from cellseg3d_dist.instances.hmaxima import NOTHING, h_maxima, peaks, reconstructed

BOX = np.ones((3, 3, 3))


def landscape(shape, seed, levels=12, sigma=1.0):
    field = ndi.gaussian_filter(np.random.default_rng(seed).normal(size=shape), sigma)
    field = (field - field.min()) / max(np.ptp(field), 1e-9)
    return np.round(levels * field).astype(np.float32)


def nothing_around(shape):
    return np.full([n + 2 for n in shape], NOTHING, np.float32)


@pytest.mark.parametrize("h", [1, 2, 5])
@pytest.mark.parametrize("seed", range(4))
def test_reconstruction_and_tops_equal_those_of_scikit_image(h, seed):
    values = landscape((9, 14, 17), seed, levels=20) + 30
    mask = np.ones(values.shape, np.uint8)
    level = reconstructed(values, mask, h, nothing_around(values.shape))
    np.testing.assert_array_equal(level, reconstruction(values - h, values, footprint=BOX))
    found = h_maxima(values, mask, h)
    parts, n = ndi.label(found, BOX)
    tops = np.zeros(values.shape, bool)
    for part in range(1, n + 1):
        tops |= (parts == part) & (values == values[parts == part].max())
    expected = skimage_h_maxima(values.astype(np.int64), h, footprint=BOX)
    np.testing.assert_array_equal(tops, expected > 0)


def test_a_peak_must_be_left_by_its_height():
    values = np.array([[[0, 5, 3, 5, 0, 9, 6, 8, 0, 0, 1]]], np.float32)
    mask = (values > 0).astype(np.uint8)
    found = {h: h_maxima(values, mask, h).astype(int).ravel().tolist() for h in (1, 2, 3, 6)}
    assert found[1] == [0, 1, 0, 1, 0, 1, 0, 1, 0, 0, 1]
    assert found[2] == [0, 1, 0, 1, 0, 1, 0, 1, 0, 0, 1]
    assert found[3] == [0, 1, 1, 1, 0, 1, 0, 0, 0, 0, 1]
    # every part of the foreground has a peak, however low
    assert found[6] == [0, 1, 1, 1, 0, 1, 1, 1, 0, 0, 1]


def shell_of(states, grid, block):
    """What the blocks around a block hold on the voxels around it."""
    out = nothing_around(block.write_region.shape)
    for axis_offset, neighbour in grid.neighbours(block):
        there = states[neighbour.number]
        source, target = [], []
        for o in axis_offset:
            source.append(slice(None) if o == 0 else slice(-1, None) if o < 0 else slice(0, 1))
            target.append(slice(1, -1) if o == 0 else slice(0, 1) if o < 0 else slice(-1, None))
        out[tuple(target)] = there[tuple(source)]
    return out


def in_blocks(values, mask, h, block_shape):
    grid = BlockGrid(values.shape, block_shape)
    states = {b.number: np.full(b.write_region.shape, NOTHING, np.float32) for b in grid.blocks()}
    rounds = 0
    while True:
        new = {}
        for block in grid.blocks():
            part = block.write_region.slices
            around = shell_of(states, grid, block)
            new[block.number] = reconstructed(values[part], mask[part], h, around)
        rounds += 1
        if all(np.array_equal(new[n], states[n]) for n in new):
            break
        states = new
    whole, tops = np.empty(values.shape, np.float32), np.zeros(values.shape, bool)
    risen = np.zeros(values.shape, bool)
    for block in grid.blocks():
        part = block.write_region.slices
        whole[part] = states[block.number]
        labels, _, n_tops = peaks(values[part], states[block.number], h)
        risen[part] = labels > 0
        tops[part] = np.append(False, n_tops > 0)[labels]
    joined = ndi.label(risen, BOX)[0]
    kept = np.unique(joined[tops])
    return whole, np.isin(joined, kept[kept > 0])


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 9)] * 3),
    block=st.tuples(*[st.integers(1, 6)] * 3),
    seed=st.integers(0, 99),
    h=st.sampled_from([0.5, 1.0, 3.0, 40.0]),
    levels=st.sampled_from([3, 12, 1000]),
)
def test_blocks_equal_the_whole(shape, block, seed, h, levels):
    values = landscape(shape, seed, levels, 0.7)
    mask = (values > 0.3 * levels).astype(np.uint8)
    level, found = in_blocks(values, mask, h, block)
    whole = reconstructed(values, mask, h, nothing_around(shape))
    assert level.tobytes() == whole.tobytes()
    np.testing.assert_array_equal(found, h_maxima(values, mask, h))
