from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellseg3d_dist.report.seams import seam_check

SHAPE = (120, 130, 140)
BLOCK = (32, 48, 40)


def tissue(rng, n):
    """Cells in a ball, denser to one side, larger to the other, in stripes."""
    shape = np.asarray(SHAPE)
    centroid = rng.random((n, 3)) * shape - 0.5
    keep = rng.random(n) < np.exp(-centroid[:, 0] / shape[0]) * (np.sin(centroid[:, 1] / 17) > -0.3)
    keep &= ((centroid - shape / 2) ** 2).sum(1) < (0.5 * shape.max()) ** 2
    centroid = centroid[keep]
    size = rng.lognormal(5, 0.5, len(centroid)) * (1 + centroid[:, 0] / shape[0])
    return centroid, size


def near_faces(centroid, within):
    face = np.rint((centroid + 0.5) / BLOCK) * BLOCK
    interior = (face > 0) & (face < SHAPE)
    return ((np.abs(centroid + 0.5 - face) < within) & interior).any(axis=1)


@pytest.mark.parametrize(
    ("shape", "block"), [((96, 96, 96), (32, 32, 32)), ((200, 60, 60), (64, 60, 60))]
)
def test_p_is_uniform_for_uniform_points(shape, block):
    rng = np.random.default_rng(4)
    found = []
    for seed in range(150):
        centroid = rng.random((600, 3)) * shape - 0.5
        check = seam_check(
            centroid, rng.lognormal(5, 0.5, 600), block, shape, n_shifts=99, seed=seed
        )
        found.append((check.count_p, check.size_p))
    for p in np.transpose(found):
        # binomial bounds of four standard deviations
        for level in (0.1, 0.5, 0.9):
            spread = 4 * np.sqrt(level * (1 - level) / len(p))
            assert abs(np.mean(p <= level) - level) < spread


def test_uneven_tissue_is_no_seam():
    rng = np.random.default_rng(5)
    shows = [
        seam_check(*tissue(rng, 2000), BLOCK, SHAPE, n_shifts=199, seed=seed).shows
        for seed in range(60)
    ]
    assert np.mean(shows) <= 0.1


@pytest.mark.parametrize("damage", ["lost", "halved", "split"])
def test_damage_at_faces_shows(damage):
    rng = np.random.default_rng(6)
    centroid, size = tissue(rng, 4000)
    near = near_faces(centroid, 3)
    if damage == "lost":
        keep = ~near | (rng.random(near.size) < 0.3)
        centroid, size = centroid[keep], size[keep]
    else:
        size = np.where(near, size / 2, size)
        if damage == "split":
            centroid = np.concatenate([centroid, centroid[near] + 0.7])
            size = np.concatenate([size, size[near]])
    check = seam_check(centroid, size, BLOCK, SHAPE)
    assert check.shows
    if damage == "halved":
        assert check.size_p <= 0.005
        assert check.size_ratio < 0.7
        assert check.count_p > 0.01
    else:
        assert check.count_p <= 0.005
        assert (check.density_ratio < 0.8) == (damage == "lost")
    assert check.profile is not None
    assert len({a.shape for a in vars(check.profile).values()}) == 1


def test_cases_with_nothing_to_test():
    rng = np.random.default_rng(0)
    points = rng.random((500, 3)) * 50
    size = np.full(500, 100.0)
    assert seam_check(points, size, (64, 64, 64), (50, 50, 50)).status == "no interior faces"
    assert seam_check(points[:5], size[:5], (20, 20, 20), (50, 50, 50)).status == "too few cells"
    assert seam_check(points, size, (2, 2, 2), (50, 50, 50)).status == "blocks too small"
    few = seam_check(points[:21], size[:21], (45, 50, 50), (50, 50, 50))
    assert few.status == "too few cells"
    assert not few.shows
    assert np.isnan(few.count_p)


def test_zones_follow_the_voxel_size_and_the_cut_axes():
    rng = np.random.default_rng(1)
    points = rng.random((2000, 3)) * (40, 100, 100)
    size = np.full(2000, 4 / 3 * np.pi * 6**3 / 5)
    check = seam_check(
        points, size, (20, 50, 100), (40, 100, 100), voxel_size=(5.0, 1.0, 1.0), n_shifts=9
    )
    assert check.width == (1, 6, 0)
    assert check.n_faces == 2


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 200),
    st.tuples(*[st.integers(1, 40)] * 3),
    st.tuples(*[st.integers(1, 40)] * 3),
)
def test_any_grid_gives_a_result(seed, n, shape, block):
    rng = np.random.default_rng(seed)
    check = seam_check(
        rng.random((n, 3)) * shape - 0.5, rng.integers(1, 99, n), block, shape, n_shifts=19
    )
    assert check.n_cells == n
    if check.status == "tested":
        assert 0 < check.count_p <= 1
        assert 0 < check.size_p <= 1
        again = seam_check(*(np.zeros((0, 3)), np.zeros(0)), block, shape, n_shifts=19)
        assert again.status == "too few cells"
