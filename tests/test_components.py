"""Connected components: scipy's labels, ids included, in one piece and from fragments."""

import numpy as np
import pytest
import scipy.ndimage as ndi
from hypothesis import given, settings
from hypothesis import strategies as st

from cellseg3d_dist.errors import ConfigError
from cellseg3d_dist.grid import Region
from cellseg3d_dist.instances.components import REACH, components, names_of_first_voxels

CONNECTIVITIES = (6, 18, 26)


def scipys(mask, connectivity):
    return ndi.label(mask, ndi.generate_binary_structure(3, REACH[connectivity]))


def spiral(n):
    """A one voxel wide path through every second plane of a cube: one component."""
    mask = np.zeros((n, n, n), bool)
    for z in range(0, n, 2):
        plane = np.zeros((n, n), bool)
        top, left, bottom, right = 0, 0, n - 1, n - 1
        while top <= bottom and left <= right:
            plane[top, left : right + 1] = True
            plane[top : bottom + 1, right] = True
            plane[bottom, left : right + 1] = True
            plane[top + 2 : bottom + 1, left] = True
            if left + 2 < n and top + 2 <= bottom:
                plane[top + 2, left : left + 2] = True
            top, left, bottom, right = top + 2, left + 2, bottom - 2, right - 2
        mask[z] = plane
        if z + 1 < n:
            mask[(z + 1, 0, 0) if z % 4 == 0 else (z + 1, n // 2, n // 2)] = True
    return mask


def corner_contacts(n):
    z, y, x = np.indices((n, n, n))
    return ((z + y) % 2 == 0) & ((y + x) % 2 == 0)


def edge_contacts(n):
    z, y, x = np.indices((n, n, n))
    return (z + y + x) % 2 == 0


SPECIAL = {
    "empty": np.zeros((5, 6, 7), bool),
    "full": np.ones((5, 6, 7), bool),
    "one voxel": np.ones((1, 1, 1), bool),
    "flat": np.random.default_rng(1).random((1, 20, 20)) < 0.5,
    "line": np.random.default_rng(2).random((1, 1, 40)) < 0.5,
    "spiral": spiral(13),
    "corners only": corner_contacts(8),
    "edges only": edge_contacts(8),
    "inverted spiral": ~spiral(13),
}


def assert_same(mask, connectivity):
    labels, first = components(mask, connectivity)
    expected, n = scipys(mask, connectivity)
    np.testing.assert_array_equal(labels, expected)
    assert labels.dtype == np.uint32
    assert len(first) == n
    found, at = np.unique(labels.ravel(), return_index=True)
    np.testing.assert_array_equal(first, at[found > 0])


@pytest.mark.parametrize("connectivity", CONNECTIVITIES)
@pytest.mark.parametrize("name", SPECIAL)
def test_special_masks_are_scipys(name, connectivity):
    assert_same(SPECIAL[name], connectivity)


def test_special_masks_are_what_they_are_called():
    assert scipys(SPECIAL["spiral"], 6)[1] == 1
    assert scipys(SPECIAL["corners only"], 18)[1] == SPECIAL["corners only"].sum()
    assert scipys(SPECIAL["corners only"], 26)[1] == 1
    assert scipys(SPECIAL["edges only"], 6)[1] == SPECIAL["edges only"].sum()
    assert scipys(SPECIAL["edges only"], 18)[1] == 1


@given(
    st.tuples(*[st.integers(1, 16)] * 3),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.05, 0.2, 0.3116, 0.5, 0.8]),
    st.sampled_from(CONNECTIVITIES),
)
@settings(max_examples=150, deadline=None)
def test_random_masks_are_scipys(shape, seed, density, connectivity):
    assert_same(np.random.default_rng(seed).random(shape) < density, connectivity)


def test_more_runs_than_the_first_buffer_holds():
    mask = np.zeros((40, 41, 43), bool)
    mask[..., ::2] = True
    mask[:, ::3] = False
    for connectivity in CONNECTIVITIES:
        assert_same(mask, connectivity)


def test_any_number_but_zero_is_foreground():
    image = np.array([[[0, 2, 0.5, 0, -1]]])
    labels, _ = components(image, 6)
    assert labels.ravel().tolist() == [0, 1, 1, 0, 2]


def test_names_are_the_first_voxels_place_in_the_whole_volume():
    shape, region = (9, 11, 13), Region((2, 3, 5), (7, 9, 13))
    mask = np.random.default_rng(5).random(region.shape) < 0.3
    labels, first = components(mask)
    names = names_of_first_voxels(first, region, shape)
    whole = np.zeros(shape, np.uint32)
    whole[region.slices] = labels
    expected = [np.flatnonzero(whole.ravel() == i)[0] for i in range(1, len(first) + 1)]
    np.testing.assert_array_equal(names, expected)
    assert names.dtype == np.uint64


@pytest.mark.parametrize("connectivity", [0, 4, 8, 27])
def test_another_connectivity_is_refused(connectivity):
    with pytest.raises(ConfigError, match="Use 6, 18 or 26"):
        components(np.ones((2, 2, 2)), connectivity)
