"""The lazy interface: same results as the whole array in one piece, whatever the chunks."""

from __future__ import annotations

import itertools
import runpy
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pyarrow as pa
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from cellseg3d_dist import arrays
from cellseg3d_dist.arrays import labelling, settling
from cellseg3d_dist.errors import BadInputError, VolumeError
from cellseg3d_dist.grid import Region
from cellseg3d_dist.instances.filters import gaussian
from cellseg3d_dist.instances.flood import UNREACHED, flood
from cellseg3d_dist.instances.threshold import count_bins, otsu
from cellseg3d_dist.instances.voronoi import VoronoiSpec, voronoi_otsu
from cellseg3d_dist.measuring import cell_table, intensity_scale, measure_fragments
from cellseg3d_dist.volumes import open_volume

EXAMPLE = Path(__file__).parents[1] / "examples" / "embed_in_a_dask_pipeline.py"
few = settings(max_examples=50, deadline=None)
sides = st.integers(1, 22)
sigmas = st.tuples(*[st.sampled_from([0.0, 0.4, 1.0, 1.7])] * 3)
seeds = st.integers(0, 2**32 - 1)


@pytest.fixture(autouse=True)
def _one_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


def blobs(shape, seed=0, dtype=np.uint16):
    noise = np.random.default_rng(seed).random(shape).astype(np.float32)
    smooth = gaussian(noise, (1.0, 1.0, 1.0))
    return ((smooth - smooth.min()) * 2000).astype(dtype)


@st.composite
def cut_images(draw):
    """An image and the irregular chunks to work on it in."""
    shape = draw(st.tuples(sides, sides, sides))
    chunks = []
    for n in shape:
        stops = draw(st.sets(st.integers(1, n), max_size=3)) | {n}
        chunks.append(tuple(b - a for a, b in itertools.pairwise([0, *sorted(stops)])))
    return blobs(shape, draw(seeds)), tuple(chunks)


def threshold_in_one_piece(image, sigma):
    smoothed = gaussian(image, sigma)
    low, high = float(smoothed.min()), float(smoothed.max())
    return otsu(count_bins(smoothed, low, high), low, high) if high > low else high


def same(a, b):
    return np.array_equal(*dask.compute(a, b))


def n_tasks(collection):
    keys = list(dask.core.flatten(collection.__dask_keys__()))
    return len(dict(collection.__dask_optimize__(collection.dask, keys)))


# filters


@few
@given(cut_images(), sigmas)
def test_filters_equal_those_of_the_whole_array(cut, sigma):
    image, chunks = cut
    lazy = da.from_array(image, chunks=chunks)
    expected = gaussian(image, sigma)
    smoothed = arrays.smooth(lazy, sigma, chunks=chunks)
    assert smoothed.chunks == lazy.chunks
    assert np.array_equal(smoothed.compute(), expected)
    threshold = arrays.otsu_threshold(lazy, sigma, chunks=chunks)
    assert threshold.shape == ()
    assert threshold.dtype == np.float32
    assert threshold.compute() == np.float32(threshold_in_one_piece(image, sigma))
    mask = arrays.foreground(lazy, sigma, chunks=chunks)
    assert np.array_equal(mask.compute(), expected > threshold_in_one_piece(image, sigma))


@pytest.mark.parametrize("dtype", ["bool", "int8", ">u2", "uint64", "float16", ">f4", "float64"])
def test_any_real_type_is_smoothed(dtype):
    image = (blobs((9, 9, 9)) > 900) if dtype == "bool" else (blobs((9, 9, 9)) % 100).astype(dtype)
    expected = gaussian(
        image.astype("f4" if image.dtype.kind == "f" else image.dtype.newbyteorder("=")), (1,) * 3
    )
    assert np.array_equal(arrays.smooth(da.from_array(image, chunks=4), 1).compute(), expected)


def test_values_that_are_not_finite_count_as_zero():
    image = blobs((8, 8, 8), dtype=np.float64)
    zeroed = image.copy()
    image[2, 3, 4], image[7, 7, 7], image[0, 0, 0] = np.nan, np.inf, 1e300
    zeroed[2, 3, 4] = zeroed[7, 7, 7] = zeroed[0, 0, 0] = 0
    for function in (arrays.smooth, arrays.foreground):
        assert np.array_equal(
            function(da.from_array(image, chunks=5), 1).compute(),
            function(da.from_array(zeroed, chunks=8), 1).compute(),
        )


def test_a_constant_image_has_no_foreground():
    lazy = da.full((6, 6, 6), 7, chunks=4)
    assert (
        arrays.otsu_threshold(lazy, 1).compute()
        == gaussian(np.full((6, 6, 6), 7), (1,) * 3)[0, 0, 0]
    )
    assert not arrays.foreground(lazy, 1).any().compute()
    assert arrays.label(lazy, spot_sigma=1, outline_sigma=1).max().compute() == 0


def test_values_too_far_apart_for_float32_are_refused():
    image = np.zeros((4, 4, 4), np.float32)
    image[0], image[3] = -3e38, 3e38
    with pytest.raises(VolumeError, match=r"-3e\+38 to 3e\+38"):
        arrays.otsu_threshold(da.from_array(image), 0).compute()


def test_widths_in_micrometres_follow_the_voxel_size():
    lazy = da.from_array(blobs((9, 9, 9)), chunks=5)
    named = arrays.smooth(lazy, "2um", voxel_size=(2, 1, 0.5))
    assert same(named, arrays.smooth(lazy, (1, 2, 4)))
    of_finest = arrays.smooth(lazy, 2, voxel_size=(2, 1, 0.5))
    assert same(of_finest, arrays.smooth(lazy, (0.5, 1, 2)))


# labels


@few
@given(cut_images(), sigmas, sigmas, st.booleans(), st.integers(1, 4))
def test_labels_equal_those_of_the_whole_array(cut, spot, outline, by_number, halo):
    image, chunks = cut
    threshold = threshold_in_one_piece(image, outline)
    if by_number:
        threshold = float(np.quantile(gaussian(image, outline), 0.3))
    labels = arrays.label(
        da.from_array(image, chunks=chunks),
        spot_sigma=spot,
        outline_sigma=outline,
        threshold=threshold if by_number else "otsu",
        flood_halo=halo,
        chunks=chunks,
    )
    assert labels.dtype == np.uint32
    expected = voronoi_otsu(image, VoronoiSpec(spot, outline, threshold))
    assert np.array_equal(labels.compute(), expected)


@few
@given(cut_images(), sigmas, st.sampled_from([6, 18, 26]))
def test_components_equal_those_of_scipy(cut, outline, connectivity):
    image, chunks = cut
    labels = arrays.label(
        da.from_array(image, chunks=chunks),
        "components",
        outline_sigma=outline,
        connectivity=connectivity,
        chunks=chunks,
    )
    mask = gaussian(image, outline) > threshold_in_one_piece(image, outline)
    touching = ndimage.generate_binary_structure(3, {6: 1, 18: 2, 26: 3}[connectivity])
    assert np.array_equal(labels.compute(), ndimage.label(mask, touching)[0])


@pytest.fixture
def settled(monkeypatch):
    """Numbers of voxels that were settled."""
    counts = []

    def counting(fronts, shape):
        voxels, names = settling.settle(fronts, shape)
        counts.append(voxels.size)
        return voxels, names

    monkeypatch.setattr(labelling, "settle", counting)
    return counts


def snake(n):
    """A corridor through every part of a volume, one bright voxel at its start."""
    image = np.zeros((3, n, n), np.uint16)
    image[1, 1:-1:2, 1:-1] = 100
    for row, y in enumerate(range(2, n - 2, 2)):
        image[1, y, 1 if row % 2 else -2] = 100
    image[1, 1, 1] = 200
    return image


def test_a_cell_through_every_block_is_settled(settled):
    image = snake(31)
    labels = arrays.label(
        image, spot_sigma=0, outline_sigma=0, threshold=50, flood_halo=1, chunks=(3, 7, 7)
    ).compute()
    expected = voronoi_otsu(image, VoronoiSpec((0, 0, 0), (0, 0, 0), 50))
    assert settled[0] > 200
    assert np.array_equal(labels, expected)
    assert (labels > 0).sum() == (image > 0).sum()


@few
@given(
    st.tuples(sides, sides, sides),
    seeds,
    st.floats(0.2, 0.9),
    st.integers(0, 30),
    st.integers(1, 6),
)
def test_settling_equals_the_flood(shape, seed, density, n_seeds, n_blocks):
    rng = np.random.default_rng(seed)
    mask = (rng.random(shape) < density).astype(np.uint8)
    inside = np.flatnonzero(mask)
    chosen = np.sort(rng.permutation(inside)[:n_seeds])
    labels, arrival = flood(mask, chosen)
    is_open = (rng.random(shape) < 0.5) & (mask != 0)
    is_open.ravel()[chosen] = False
    around = ndimage.binary_dilation(is_open, np.ones((3, 3, 3))) & ~is_open & (labels > 0)
    block_of = rng.integers(0, n_blocks, shape).ravel()
    fronts = []
    for number in range(n_blocks):
        mine = block_of == number
        known = np.flatnonzero(around.ravel() & mine)
        fronts.append(
            settling.Front(
                np.flatnonzero(is_open.ravel() & mine),
                known,
                labels.ravel()[known].astype(np.uint64),
                arrival.ravel()[known],
            )
        )
    voxels, names = settling.settle(fronts, shape)
    assert np.array_equal(voxels, np.flatnonzero(is_open))
    assert np.array_equal(names, labels.ravel()[voxels])


@few
@given(cut_images(), st.integers(0, 60), st.integers(20, 400), st.booleans())
def test_size_limits_are_those_of_whole_cells(cut, least, most, flooded):
    image, chunks = cut
    how = {"outline_sigma": 0.4, "threshold": float(np.median(image)), "chunks": chunks}
    if flooded:
        how |= {"spot_sigma": 0, "flood_halo": 1}
    instances = "voronoi-otsu" if flooded else "components"
    every = arrays.label(image, instances, **how).compute()
    volumes = np.bincount(every.ravel())
    kept = (volumes >= least) & (volumes <= most)
    kept[0] = False
    renamed = np.where(kept, np.cumsum(kept), 0)
    limited = arrays.label(image, instances, min_volume=least, max_volume=most, **how).compute()
    assert np.array_equal(limited, renamed[every])


def test_size_limits_in_cubic_micrometres():
    image = np.zeros((3, 3, 9), np.uint8)
    image[1, 1, 0:2] = image[1, 1, 4:7] = 1
    how = {"outline_sigma": 0, "threshold": 0.5, "voxel_size": (2, 1, 1), "chunks": (3, 3, 5)}
    assert arrays.label(image, "components", min_volume="5um3", **how).max().compute() == 1
    assert arrays.label(image, "components", min_volume="4um3", **how).max().compute() == 2
    assert arrays.label(image, "components", max_volume="5um3", **how).max().compute() == 1


def test_more_cells_than_the_type_holds_are_refused(monkeypatch):
    monkeypatch.setattr(labelling, "LABELS", np.dtype(np.uint8))
    how = {"outline_sigma": 0, "threshold": 0.5, "chunks": 8}
    comb = np.zeros((16, 16, 16), np.uint8)
    comb[:8:2, ::2, ::2] = 1
    assert arrays.label(comb[..., :-2], "components", **how).max().compute() == 224
    with pytest.raises(VolumeError, match="256 cells do not fit the type of the labels, uint8"):
        arrays.label(comb, "components", **how).compute()


def test_a_threshold_may_be_lazy():
    image = blobs((12, 12, 12))
    lazy = da.from_array(image, chunks=6)
    half = arrays.otsu_threshold(lazy, 1) * np.float32(0.5)
    labels = arrays.label(lazy, spot_sigma=1, outline_sigma=1, threshold=half)
    number = np.float32(threshold_in_one_piece(image, (1, 1, 1))) * np.float32(0.5)
    spec = VoronoiSpec((1, 1, 1), (1, 1, 1), float(number))
    assert same(labels, voronoi_otsu(image, spec))
    given_number = arrays.label(lazy, spot_sigma=1, outline_sigma=1, threshold=number)
    assert same(labels, given_number)


def test_planes_are_joined_to_the_halo_unless_chunks_are_given():
    image = blobs((40, 6, 6))
    planes = da.from_array(image, chunks=(1, 6, 6))
    joined = arrays.label(planes, spot_sigma=1, outline_sigma=1, flood_halo=4)
    assert joined.chunks[0] == (9, 9, 9, 9, 4)
    kept = arrays.label(planes, spot_sigma=1, outline_sigma=1, flood_halo=4, chunks=(1, 6, 6))
    assert kept.chunks == planes.chunks
    assert same(joined, kept)


# graphs


def nothing_may_be_computed(shape, chunks):
    def refuse():
        raise AssertionError("computed while the graph was built")

    return da.map_blocks(
        refuse,
        chunks=da.core.normalize_chunks(chunks, shape),
        dtype="u2",
        meta=np.empty((0,) * 3, "u2"),
    )


def test_building_computes_nothing():
    lazy = nothing_may_be_computed((20, 20, 20), (8, 9, 20))
    labels = arrays.label(lazy, spot_sigma=1, outline_sigma=1)
    built = [
        arrays.smooth(lazy, 1),
        arrays.otsu_threshold(lazy, 1),
        arrays.foreground(lazy, 1),
        labels,
        arrays.label(lazy, "components", outline_sigma=1),
        arrays.measure(labels, lazy, voxel_size=(1, 1, 1)),
    ]
    for collection in built:
        with pytest.raises(AssertionError, match="computed"):
            collection.compute()


@pytest.mark.parametrize("stored", [False, True])
def test_tasks_per_block_are_those_documented(stored):
    n = 3
    image = da.from_array(np.zeros((12,) * 3, "u2"), chunks=4)
    own = n**3  # from_array's chunks
    chunks = 4
    if stored:
        image, own = open_volume(image.compute(), voxel_size=(1, 1, 1)), 0
    how = {"outline_sigma": 0, "chunks": chunks}

    def per_block(collection, single):
        return (n_tasks(collection) - own - single) / n**3

    assert per_block(arrays.smooth(image, 0, chunks=chunks), 0) == 1
    assert per_block(arrays.otsu_threshold(image, 0, chunks=chunks), 2) == 2
    flooded = {"spot_sigma": 0, "flood_halo": 1, **how}
    assert per_block(arrays.label(image, threshold=1, **flooded), 1) == 3
    assert per_block(arrays.label(image, **flooded), 3) == 5
    assert per_block(arrays.label(image, "components", threshold=1, **how), 1) == 4
    assert per_block(arrays.label(image, "components", **how), 3) == 6


def test_equal_calls_have_equal_keys():
    lazy = da.from_array(blobs((8, 8, 8)), chunks=4)
    how = {"spot_sigma": 1, "outline_sigma": 1}
    assert arrays.label(lazy, **how).name == arrays.label(lazy, **how).name
    assert arrays.label(lazy, **how).name != arrays.label(lazy, min_volume=2, **how).name
    assert arrays.label(lazy, **how).name != arrays.label(lazy + 1, **how).name


@pytest.mark.parametrize("kind", ["threads", "distributed"])
def test_schedulers_agree(kind):
    image = blobs((18, 18, 18))
    lazy = da.from_array(image, chunks=(7, 9, 18))
    labels = arrays.label(lazy, spot_sigma=1, outline_sigma=1, flood_halo=2)
    table = arrays.measure(labels, lazy, voxel_size=(1, 1, 1))
    expected = dask.compute(labels, table)
    if kind == "threads":
        found = dask.compute(labels, table, scheduler="threads")
    else:
        from distributed import Client, LocalCluster

        with (
            LocalCluster(
                1, processes=False, threads_per_worker=2, dashboard_address=None
            ) as cluster,
            Client(cluster) as client,
        ):
            found = client.gather(client.compute([labels, table]))
    assert np.array_equal(found[0], expected[0])
    assert same_tables(found[1], expected[1])


# stored images


@pytest.fixture
def stored(tmp_path):
    image = blobs((20, 18, 16))
    path = tmp_path / "image.zarr"
    zarr.create_array(path, data=image, chunks=(8, 8, 8))
    return image, path


def test_a_stored_image_is_read_by_its_blocks(stored):
    image, path = stored
    volume = open_volume(path, voxel_size=(2, 1, 1))
    lazy = arrays.from_volume(volume)
    assert lazy.dtype == image.dtype
    assert same(lazy, image)
    assert arrays.from_volume(volume, (8, 16, -1)).chunks == ((8, 8, 4), (16, 2), (16,))
    of_array = arrays.label(da.from_array(image, chunks=9), voxel_size=(2, 1, 1))
    for source, how in ((volume, {}), (str(path), {"voxel_size": (2, 1, 1)})):
        labels = arrays.label(source, chunks=(8, 5, 16), **how)
        assert labels.chunks == ((8, 8, 4), (5, 5, 5, 3), (16,))
        assert same(labels, of_array)
        assert same(arrays.smooth(source, 1.5, **how), gaussian(image, (0.75, 1.5, 1.5)))


def test_blocks_read_their_own_halo_and_no_more(stored, monkeypatch):
    _, path = stored
    volume = open_volume(path, voxel_size=(1, 1, 1))
    read = []
    original = type(volume).read

    def noting(self, region, channel=None):
        read.append(region)
        return original(self, region, channel)

    monkeypatch.setattr(type(volume), "read", noting)
    smoothed = arrays.smooth(volume, 0.5, chunks=(20, 9, 9))
    assert read == []
    smoothed.compute()
    assert sorted(read) == [
        Region((0, 0, 0), (20, 11, 11)),
        Region((0, 0, 7), (20, 11, 16)),
        Region((0, 7, 0), (20, 18, 11)),
        Region((0, 7, 7), (20, 18, 16)),
    ]


# the cell table


def same_tables(a, b):
    """Equal schemas and values, NaN equal to itself."""
    columns = zip(a.columns, b.columns, strict=True)
    return a.schema.equals(b.schema, check_metadata=True) and all(
        np.array_equal(x.to_numpy(), y.to_numpy(), equal_nan=pa.types.is_floating(x.type))
        for x, y in columns
    )


@few
@given(cut_images(), st.sampled_from(["u2", "f4", "i8"]), st.integers(1, 22))
def test_tables_equal_those_of_the_whole_array(cut, dtype, side):
    image, chunks = cut
    labels = ndimage.label(image > np.median(image))[0].astype(np.uint64) * 3
    image = (image.astype("f8") * 1.3 - 700).clip(0 if dtype == "u2" else None).astype(dtype)
    scale = intensity_scale(dtype, float(np.abs(image.astype("f8")).max()))
    n = int(labels.max())
    partial = measure_fragments(labels.astype(np.uint32), n, [image], (0, 0, 0), [scale])
    expected = cell_table(
        partial,
        voxel_size=(2.0, 1.0, 1.0),
        shape=image.shape,
        channels=["intensity"],
        scales=[scale],
    )
    table = arrays.measure(
        da.from_array(labels, chunks=chunks),
        da.from_array(image, chunks=side),
        voxel_size=(2, 1, 1),
    )
    assert same_tables(table.compute(), expected)


def test_a_stored_image_gives_its_place_and_channel(stored):
    image, path = stored
    volume = open_volume(path, voxel_size=(2, 1, 1)).crop(Region((4, 0, 2), (20, 18, 16)))
    labels = da.ones(volume.shape, chunks=9, dtype=np.uint8)
    table = arrays.measure(labels, volume).compute()
    assert table["bbox_z_min"].to_pylist() == [4]
    assert table["centroid_x_um"].to_pylist() == [2 + 6.5]
    assert table["intensity_sum"].to_pylist() == [float(image[4:, :, 2:].sum())]
    bare = arrays.measure(labels, voxel_size=(1, 1, 1)).compute()
    assert "intensity_sum" not in bare.column_names


def test_no_cells_is_an_empty_table():
    table = arrays.measure(
        da.zeros((4, 4, 4), chunks=2, dtype="i4"), voxel_size=(1, 1, 1)
    ).compute()
    assert table.num_rows == 0


# what cannot be used

CUBE = da.zeros((8, 8, 8), chunks=4, dtype="u2")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: arrays.smooth(CUBE[0], 1), r"shape \(8, 8\) is not 3D"),
        (lambda: arrays.smooth(CUBE[:0], 1), "has no voxels"),
        (lambda: arrays.smooth(CUBE[CUBE[:, 0, 0] > 0], 1), "chunk sizes are unknown"),
        (lambda: arrays.smooth(CUBE.astype("c8"), 1), "complex64 has no real numbers"),
        (lambda: arrays.smooth(CUBE, -1), "sigma -1 must be a length of at least 0"),
        (lambda: arrays.smooth(CUBE, "wide"), "sigma 'wide' must be a length"),
        (lambda: arrays.smooth(CUBE, (1, 2)), r"sigma \(1.0, 2.0\) must be one or three"),
        (lambda: arrays.smooth(CUBE, "1um"), "sigma 1um needs voxel_size"),
        (lambda: arrays.smooth(CUBE, 1, chunks=(4, 4)), "do not fit the shape"),
        (lambda: arrays.smooth(CUBE, 1, voxel_size=(1, 0, 1)), "three numbers above 0"),
        (lambda: arrays.smooth("/no/such.zarr", 1), "/no/such.zarr does not exist"),
        (lambda: arrays.foreground(CUBE, 1, "much"), "threshold 'much' must be"),
        (lambda: arrays.foreground(CUBE, 1, np.nan), "threshold nan must be"),
        (lambda: arrays.foreground(CUBE, 1, CUBE), "dask array of no dimension"),
        (lambda: arrays.label(CUBE), "outline_sigma 2um needs voxel_size"),
        (lambda: arrays.label(CUBE, "stars", voxel_size=(1, 1, 1)), "instances 'stars' must be"),
        (
            lambda: arrays.label(CUBE, connectivity=8, voxel_size=(1, 1, 1)),
            "connectivity 8 must be",
        ),
        (lambda: arrays.label(CUBE, flood_halo=0, voxel_size=(1, 1, 1)), "flood_halo 0 must be"),
        (
            lambda: arrays.label(CUBE, spot_sigma=1, outline_sigma=1, min_volume="3um3"),
            "min_volume 3um3 needs voxel_size",
        ),
        (lambda: arrays.measure(CUBE), "voxel_size is unknown"),
        (lambda: arrays.measure(CUBE.astype("f4"), voxel_size=(1, 1, 1)), "not integers"),
        (lambda: arrays.measure(CUBE, CUBE[1:], voxel_size=(1, 1, 1)), "They must be equal"),
    ],
)
def test_what_cannot_be_used_is_refused_while_building(call, message):
    with pytest.raises(BadInputError, match=message):
        call()


def test_chunks_that_are_not_as_declared_are_named():
    lying = CUBE.map_blocks(lambda block: block[:-1], dtype="u2", meta=np.empty((0,) * 3, "u2"))
    with pytest.raises(VolumeError, match=r"voxel \(0, 0, 0\) has shape \(3, 4, 4\)"):
        arrays.smooth(lying, 0, chunks=8).compute()


def test_negative_labels_are_refused():
    with pytest.raises(VolumeError, match="negative"):
        arrays.measure(da.full((2, 2, 2), -1), voxel_size=(1, 1, 1)).compute()


def test_empty_chunks_are_left_out():
    image = blobs((8, 8, 8))
    lazy = da.from_array(image, chunks=((4, 0, 4), 8, 8))
    assert same(arrays.smooth(lazy, 1), gaussian(image, (1, 1, 1)))


def test_unreached_open_voxels_stay_background():
    front = settling.Front(
        np.array([5]), np.empty(0, np.int64), np.empty(0, np.uint64), np.empty(0, np.int32)
    )
    voxels, names = settling.settle([front], (3, 3, 3))
    assert voxels.tolist() == [5]
    assert names.tolist() == [0]
    assert UNREACHED > 0


@pytest.mark.long
def test_the_example_runs(capsys):
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert "the same labels as in one piece" in capsys.readouterr().out
