"""Voronoi-Otsu on whole volumes and on blocks with their certificate, against plain numpy."""

import numpy as np
import pytest
import scipy.ndimage as ndi
from reference import keep_volumes, voronoi_otsu_plain

from cellseg3d_dist.grid import BlockGrid, Region
from cellseg3d_dist.instances.voronoi import VoronoiSpec, voronoi_otsu, voronoi_otsu_block


def random_case(rng, smallest=4, largest=24):
    """A random volume, often with plateaus and ties, and a specification for it."""
    shape = tuple(int(n) for n in rng.integers(smallest, largest, 3))
    image = ndi.gaussian_filter(rng.random(shape), rng.choice([0, 0.5, 1]))
    image = np.round(image * rng.choice([5, 50])).astype(np.float32)
    sigmas = [tuple(float(s) for s in rng.choice([0, 0.4, 0.8], 3)) for _ in range(2)]
    return image, VoronoiSpec(*sigmas, float(np.quantile(image, rng.random() * 0.9)))


def whole_names(image, spec, within=None):
    """Names of labels 1..n of the volume in one piece, with 0 before them."""
    whole = Region.whole(image.shape)
    block = voronoi_otsu_block(image, whole, whole, whole, image.shape, spec, within)
    return np.concatenate((np.zeros(1, np.uint64), block.names))


def in_a_block(image, spec, write, flood_halo, within=None):
    flood = write.expand(flood_halo, image.shape)
    read = flood.expand(spec.filter_halo, image.shape)
    part = None if within is None else within[flood.slices]
    return voronoi_otsu_block(image[read.slices], read, flood, write, image.shape, spec, part)


@pytest.mark.parametrize("seed", range(4))
def test_whole_volumes_are_the_plain_method(seed):
    rng = np.random.default_rng(seed)
    for _ in range(20):
        image, spec = random_case(rng)
        np.testing.assert_array_equal(voronoi_otsu(image, spec), voronoi_otsu_plain(image, spec))


def test_a_volume_of_blobs_is_cut_between_them():
    at = [(8, 8, 8), (8, 8, 17), (16, 20, 12), (20, 8, 22)]
    image = np.zeros((28, 28, 30), np.float32)
    for voxel in at:
        image[voxel] = 2000
    image = ndi.gaussian_filter(image, 2.5)
    spec = VoronoiSpec((1.0,) * 3, (0.5,) * 3, 0.4)
    labels = voronoi_otsu(image, spec)
    assert labels.max() == len(at)
    # touching blobs are one component and still two cells, numbered with x slowest
    assert ndi.label(labels > 0)[1] < len(at)
    in_order = sorted(at, key=lambda voxel: voxel[::-1])
    assert [int(labels[voxel]) for voxel in in_order] == [1, 2, 3, 4]
    np.testing.assert_array_equal(labels, voronoi_otsu_plain(image, spec))


def test_empty_constant_and_zero_sized_volumes():
    spec = VoronoiSpec((1.0,) * 3, (1.0,) * 3, 5.0)
    assert not voronoi_otsu(np.zeros((5, 6, 7), np.uint8), spec).any()
    constant = voronoi_otsu(np.full((5, 6, 7), 9, np.uint8), spec)
    np.testing.assert_array_equal(constant, np.ones((5, 6, 7)))
    assert voronoi_otsu(np.zeros((5, 0, 7), np.uint8), spec).shape == (5, 0, 7)


def test_no_voxel_is_ever_wrongly_proven():
    rng = np.random.default_rng(0)
    blocks = voxels = still_open = 0
    while blocks < 3000:
        image, spec = random_case(rng)
        within = rng.random(image.shape) < 0.9 if rng.random() < 0.2 else None
        truth = voronoi_otsu_plain(image, spec, within)
        names = whole_names(image, spec, within)
        assert names.size == truth.max() + 1
        halo = tuple(int(h) for h in rng.integers(0, 5, 3))
        grid = BlockGrid(image.shape, tuple(int(n) for n in rng.integers(2, 14, 3)))
        for block in rng.permutation(grid.n_blocks)[:12]:
            write = grid.block(int(block)).write_region
            found = in_a_block(image, spec, write, halo, within)
            named = np.concatenate((np.zeros(1, np.uint64), found.names))[found.labels]
            proven = ~found.is_open
            np.testing.assert_array_equal(
                named[proven], names[truth[write.slices]][proven], str((image.shape, write, halo))
            )
            assert not named[found.is_open].any()
            assert not found.is_open[found.mask == 0].any()
            blocks += 1
            voxels += named.size
            still_open += int(found.is_open.sum())
    # the certificate is worth something: most voxels are proven even with such small halos
    assert 0.01 < still_open / voxels < 0.4


def test_what_is_proven_holds_whatever_lies_outside():
    rng = np.random.default_rng(1)
    compared = 0
    for _ in range(60):
        image, spec = random_case(rng, 8, 26)
        grid = BlockGrid(image.shape, tuple(max(2, n // 3) for n in image.shape))
        block = grid.block(int(rng.integers(grid.n_blocks)))
        halo = (2, 2, 2)
        found = in_a_block(image, spec, block.write_region, halo)
        seen = block.write_region.expand(halo, image.shape).expand(spec.filter_halo, image.shape)
        other = np.where(rng.random(image.shape) < 0.5, image.max(), image.min())
        other[seen.slices] = image[seen.slices]
        truth = voronoi_otsu_plain(other, spec)[block.write_region.slices]
        named = np.concatenate((np.zeros(1, np.uint64), found.names))[found.labels]
        expected = whole_names(other, spec)[truth]
        proven = ~found.is_open
        np.testing.assert_array_equal(named[proven], expected[proven])
        compared += int((proven & (found.mask != 0)).sum())
    assert compared > 2000


def test_a_large_enough_halo_proves_everything():
    rng = np.random.default_rng(2)
    image, spec = random_case(rng, 16, 17)
    for block in BlockGrid(image.shape, (5, 6, 7)).blocks():
        assert not in_a_block(image, spec, block.write_region, (16, 16, 16)).is_open.any()


def test_one_voxel_less_of_read_halo_is_found_out():
    """The filters' halo is needed to the last voxel: the test above can fail."""
    rng = np.random.default_rng(3)
    wrong = 0
    for _ in range(40):
        image, _ = random_case(rng, 16, 22)
        spec = VoronoiSpec((0.8,) * 3, (0.8,) * 3, float(np.median(image)))
        block = BlockGrid(image.shape, (7, 7, 7)).block(13)
        flood = block.write_region.expand((1, 1, 1), image.shape)
        read = flood.expand(tuple(h - 2 for h in spec.filter_halo), image.shape)
        found = voronoi_otsu_block(
            image[read.slices], read, flood, block.write_region, image.shape, spec
        )
        named = np.concatenate((np.zeros(1, np.uint64), found.names))[found.labels]
        truth = voronoi_otsu_plain(image, spec)[block.write_region.slices]
        expected = whole_names(image, spec)[truth]
        wrong += int((named != expected)[~found.is_open].sum())
    assert wrong > 0


def test_real_nuclei_are_the_plain_method(shared_data):
    tifffile = pytest.importorskip("tifffile")
    image = tifffile.imread(shared_data / "mouse_brain_mesospim" / "test_very_small.tif")
    for sigma in (0.65, 2.0):
        spec = VoronoiSpec((sigma,) * 3, (sigma,) * 3, float(np.quantile(image, 0.8)))
        labels = voronoi_otsu(image, spec)
        assert labels.max() > 3
        np.testing.assert_array_equal(labels, voronoi_otsu_plain(image, spec))


def test_the_reference_drops_cells_by_volume():
    labels = np.array([[[1, 1, 2, 0, 3, 3, 3, 4]]])
    assert keep_volumes(labels, 2).ravel().tolist() == [1, 1, 0, 0, 2, 2, 2, 0]
    assert keep_volumes(labels, 2, 2).ravel().tolist() == [1, 1, 0, 0, 0, 0, 0, 0]
