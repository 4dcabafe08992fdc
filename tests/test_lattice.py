"""Patches of one lattice cover a volume once, whatever part of it is asked for."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellseg3d_dist.errors import ConfigError
from cellseg3d_dist.grid import Region
from cellseg3d_dist.networks.lattice import Lattice, mirrored, weights

few = settings(max_examples=60, deadline=None)


@st.composite
def regions(draw, shape):
    bounds = [sorted(draw(st.tuples(st.integers(0, n), st.integers(0, n)))) for n in shape]
    bounds = [(a, b) if a < b else (min(a, n - 1), min(a, n - 1) + 1) for (a, b), n in
              zip(bounds, shape, strict=True)]  # fmt: skip
    return Region(tuple(a for a, _ in bounds), tuple(b for _, b in bounds))


@st.composite
def lattices(draw):
    shape = draw(st.tuples(*[st.integers(1, 23)] * 3))
    halo = draw(st.tuples(*[st.integers(0, 4)] * 3))
    core = draw(st.tuples(*[st.integers(1, 7)] * 3))
    patch = tuple(c + 2 * h for c, h in zip(core, halo, strict=True))
    return Lattice(shape, patch, halo, draw(st.booleans()))


lattices_with_region = lattices().flatmap(
    lambda lattice: st.tuples(st.just(lattice), regions(lattice.shape))
)


@few
@given(lattices())
def test_cores_cover_every_voxel_once(lattice):
    whole = Region.whole(lattice.shape)
    seen = np.zeros(lattice.shape, int)
    starts = list(lattice.starts(whole))
    for start in starts:
        first = tuple(s + h for s, h in zip(start, lattice.halo, strict=True))
        last = tuple(f + c for f, c in zip(first, lattice.core, strict=True))
        seen[Region(first, last).intersect(whole).slices] += 1
    assert (seen == 1).all()
    assert len(starts) == lattice.n_patches == lattice.patches_of(whole)
    assert starts == sorted(starts)


@few
@given(lattices_with_region)
def test_a_region_is_made_of_the_patches_that_touch_it(case):
    lattice, region = case
    expected = []
    for start in lattice.starts(Region.whole(lattice.shape)):
        reach = (0, 0, 0) if lattice.blended else lattice.halo
        first = tuple(s + r for s, r in zip(start, reach, strict=True))
        last = tuple(s + p - r for s, p, r in zip(start, lattice.patch, reach, strict=True))
        if all(a < d and c < b for a, b, c, d in
               zip(first, last, region.start, region.stop, strict=True)):  # fmt: skip
            expected.append(start)
    assert list(lattice.starts(region)) == expected
    for axis, (low, high) in enumerate(lattice.extents(region)):
        assert low == min(start[axis] for start in expected)
        assert high == max(start[axis] + lattice.patch[axis] for start in expected)


@few
@given(st.integers(1, 9), st.integers(0, 30), st.integers(0, 30))
def test_mirrored_is_the_reflection_of_numpy(n, before, after):
    expected = np.pad(np.arange(n), (before, after), mode="reflect" if n > 1 else "edge")
    np.testing.assert_array_equal(mirrored((-before, n + after), n), expected)


@few
@given(lattices_with_region)
def test_patches_are_those_of_the_reflected_volume(case):
    lattice, region = case
    image = np.arange(np.prod(lattice.shape), dtype=np.float32).reshape(lattice.shape)
    margin = max(lattice.patch)
    padded = image
    for axis, n in enumerate(lattice.shape):
        width = [(margin, margin) if a == axis else (0, 0) for a in range(3)]
        padded = np.pad(padded, width, mode="reflect" if n > 1 else "edge")
    whole = Region.whole(lattice.shape)
    for start in itertools.islice(lattice.starts(region), 8):
        at = tuple(slice(s + margin, s + margin + p)
                   for s, p in zip(start, lattice.patch, strict=True))  # fmt: skip
        np.testing.assert_array_equal(lattice.cut(image, whole, start), padded[at])


def test_weights_fall_from_the_centre_alike_in_all_directions():
    found = weights((6, 9, 4))
    assert found.shape == (6, 9, 4)
    assert found.min() == np.float32(1e-3)
    for axis in range(3):
        np.testing.assert_array_equal(found, np.flip(found, axis))
    assert found[2:4, 4, 1:3].min() == found.max() > 0.4
    x = (np.arange(9) - 4) / (0.125 * 9)
    expected = np.exp(-0.5 * x**2) * found[2, 4, 1]
    np.testing.assert_allclose(found[2, :, 1], np.maximum(expected, 1e-3), rtol=1e-5)


@pytest.mark.parametrize("halo", [(4, 0, 0), (0, 5, 0), (0, 0, -1)])
def test_a_halo_that_leaves_no_core_is_refused(halo):
    with pytest.raises(ConfigError, match="halo"):
        Lattice((9, 9, 9), (8, 8, 8), halo)
