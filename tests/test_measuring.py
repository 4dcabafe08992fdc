from __future__ import annotations

import numpy as np
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.measure import regionprops_table

from cellseg3d_dist.errors import VolumeError
from cellseg3d_dist.grid import BlockGrid
from cellseg3d_dist.measuring import (
    PartialCells,
    cell_table,
    intensity_scale,
    measure_fragments,
    merge,
    reduce_partials,
    span,
    write_cells,
    write_csv,
)
from cellseg3d_dist.measuring.table import spheroid_sphericity

DTYPES = ["uint8", "int16", "uint16", "int32", "uint32", "uint64", "float32", "float64", "bool"]


def random_labels(rng, shape, n):
    labels = rng.integers(0, n + 1, tuple(-(-s // 3) for s in shape), dtype=np.uint32)
    labels = labels.repeat(3, 0).repeat(3, 1).repeat(3, 2)[tuple(slice(s) for s in shape)]
    return np.ascontiguousarray(labels)


def random_image(rng, shape, dtype):
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        return (rng.normal(size=shape) * 1e3).astype(dtype)
    if dtype.kind == "b":
        return rng.random(shape) < 0.5
    top = min(np.iinfo(dtype).max, 2**40)
    return rng.integers(max(np.iinfo(dtype).min, -top), top, shape, dtype=dtype, endpoint=True)


def blockwise(labels, images, scales, block_shape):
    """Statistics measured block by block, each with fragments of its own numbering."""
    pieces = []
    for block in BlockGrid(labels.shape, block_shape).blocks():
        cut = block.write_region.slices
        names, fragments = np.unique(labels[cut], return_inverse=True)
        if names[0] == 0:
            names = names[1:]
        else:
            fragments = fragments + 1
        fragments = fragments.reshape(labels[cut].shape).astype(np.uint32)
        piece = measure_fragments(
            fragments, names.size, [i[cut] for i in images], block.write_region.start, scales
        )
        pieces.append(piece.relabelled(names))
    return pieces


def assert_same(a, b):
    for name, array in a.to_arrays().items():
        other = b.to_arrays()[name]
        assert array.dtype == other.dtype, name
        assert array.tobytes() == other.tobytes(), name
        assert array.shape == other.shape, name


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.tuples(*[st.integers(1, 9)] * 3),
    st.tuples(*[st.integers(1, 6)] * 3),
    st.sampled_from(DTYPES),
)
def test_any_partition_gives_the_same_bits(seed, shape, block_shape, dtype):
    rng = np.random.default_rng(seed)
    labels = random_labels(rng, shape, 6)
    image = random_image(rng, shape, dtype)
    image = np.where(image == 0, -image, image) if image.dtype.kind == "f" else image
    scales = [intensity_scale(image.dtype, float(np.abs(image.astype(float)).max()))]
    whole = measure_fragments(labels, 6, [image], (0, 0, 0), scales)
    pieces = blockwise(labels, [image], scales, block_shape)
    assert_same(whole, merge(pieces))
    order = rng.permutation(len(pieces))
    cut = int(rng.integers(0, len(pieces) + 1))
    groups = [[pieces[i] for i in order[:cut]], [pieces[i] for i in order[cut:]]]
    assert_same(whole, merge([merge(group) for group in groups if group]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_intensity_against_numpy(dtype):
    rng = np.random.default_rng(3)
    labels = random_labels(rng, (9, 10, 11), 5)
    image = random_image(rng, labels.shape, dtype)
    scale = intensity_scale(image.dtype, float(np.abs(image.astype(float)).max()))
    partial = merge(blockwise(labels, [image], [scale], (4, 5, 6)))
    table = cell_table(
        partial, voxel_size=(1, 1, 1), shape=labels.shape, channels=["a"], scales=[scale]
    )
    ids = table["label"].to_numpy()
    values = image.astype(np.float64)
    for name, function in (
        ("mean", ndimage.mean),
        ("min", ndimage.minimum),
        ("max", ndimage.maximum),
        ("sum", ndimage.sum_labels),
        ("std", ndimage.standard_deviation),
    ):
        expected = function(values, labels, ids)
        exact = name in ("min", "max")
        np.testing.assert_allclose(
            table[f"intensity_{name}"].to_numpy(),
            expected,
            rtol=0 if exact else 1e-9,
            atol=0 if exact else 1e-9 * np.abs(values).max(),
        )


def test_geometry_against_skimage():
    rng = np.random.default_rng(5)
    labels = random_labels(rng, (14, 15, 16), 30)
    scale = intensity_scale("uint16", 0)
    image = random_image(rng, labels.shape, "uint16")
    partial = merge(blockwise(labels, [image], [scale], (5, 16, 7)))
    table = cell_table(
        partial, voxel_size=(1, 1, 1), shape=labels.shape, channels=["a"], scales=[scale]
    )
    expected = regionprops_table(
        labels.astype(np.int32),
        image,
        properties=(
            "label",
            "area",
            "centroid",
            "bbox",
            "axis_major_length",
            "axis_minor_length",
            "equivalent_diameter_area",
            "intensity_mean",
            "intensity_std",
        ),
    )
    got = {
        "label": "label",
        "area": "volume",
        "axis_major_length": "axis_major_um",
        "axis_minor_length": "axis_minor_um",
        "equivalent_diameter_area": "equivalent_diameter_um",
        "intensity_mean": "intensity_mean",
        "intensity_std": "intensity_std",
    }
    got |= {f"centroid-{i}": f"centroid_{a}" for i, a in enumerate("zyx")}
    got |= {f"bbox-{i}": f"bbox_{a}_min" for i, a in enumerate("zyx")}
    got |= {f"bbox-{i + 3}": f"bbox_{a}_max" for i, a in enumerate("zyx")}
    for theirs, ours in got.items():
        # skimage's moments cancel: a flat cell's axis is sqrt(rounding) there, 0 here
        np.testing.assert_allclose(
            table[ours].to_numpy(), expected[theirs], rtol=1e-9, atol=2e-6, err_msg=ours
        )


def test_anisotropic_axes_against_skimage_spacing():
    zyx = np.indices((15, 31, 41))
    labels = (((zyx - np.array([7, 15, 20])[:, None, None, None]) ** 2).sum(0) <= 40).astype(
        np.uint32
    )
    labels[2:4, 25:30, 1:20] = 2
    spacing = (2.5, 1.0, 0.4)
    table = cell_table(
        measure_fragments(labels, 2), voxel_size=spacing, shape=labels.shape, origin=(10, 20, 30)
    )
    expected = regionprops_table(
        labels.astype(np.int32),
        spacing=spacing,
        properties=("axis_major_length", "axis_minor_length", "centroid", "area"),
    )
    np.testing.assert_allclose(table["axis_major_um"], expected["axis_major_length"], rtol=1e-9)
    np.testing.assert_allclose(table["axis_minor_um"], expected["axis_minor_length"], rtol=1e-7)
    np.testing.assert_allclose(table["volume_um3"], expected["area"], rtol=1e-12)
    for k, axis in enumerate("zyx"):
        np.testing.assert_allclose(
            table[f"centroid_{axis}_um"], expected[f"centroid-{k}"] + (10, 20, 30)[k]
        )


def test_moments_are_exact_far_from_the_origin():
    labels = np.zeros((6, 7, 8), np.uint32)
    labels[1:5, 2:5, 3:5] = 1
    image = np.full(labels.shape, 60_000, np.uint16)
    shape = (2_000_000_000,) * 3
    near, far = (
        cell_table(
            measure_fragments(labels, 1, [image], start, [1.0]),
            voxel_size=(1, 1, 1),
            shape=shape,
            channels=["a"],
            scales=[1.0],
        )
        for start in ((0, 0, 0), (1_999_999_990, 1_999_999_000, 1_999_990_000))
    )
    for name in ("axis_major_um", "axis_middle_um", "axis_minor_um", "sphericity"):
        assert near[name].to_pylist() == far[name].to_pylist()
    assert far["axis_major_um"][0].as_py() == pytest.approx(np.sqrt(20 * 15 / 12))
    assert far["intensity_std"][0].as_py() == 0.0


def test_offset_origin_border_and_metadata():
    labels = np.zeros((6, 6, 6), np.uint32)
    labels[0, 1, 1] = 1
    labels[2:4, 2:4, 2:4] = 2
    labels[3, 3, 5] = 3
    table = cell_table(
        measure_fragments(labels, 3),
        voxel_size=(2, 1, 1),
        shape=labels.shape,
        offset=(100, 0, 7),
        origin=(200.0, 0, 7),
    )
    assert table.column_names[0] == "label"
    assert table["touches_border"].to_pylist() == [True, False, True]
    assert table["centroid_z"].to_pylist() == [100, 102.5, 103]
    assert table["centroid_z_um"].to_pylist() == [200, 205, 206]
    assert table["bbox_z_min"].to_pylist() == [100, 102, 103]
    assert table["bbox_x_max"].to_pylist() == [9, 11, 13]
    assert table["volume_um3"].to_pylist() == [2, 16, 2]
    assert table.schema.field("volume_um3").metadata[b"unit"] == b"um3"
    assert "intensity_mean" not in table.column_names
    assert table["sphericity"].to_pylist()[0] != table["sphericity"].to_pylist()[0]


def test_sphericity_of_a_spheroid_from_its_surface():
    a, b = np.array([3.0, 10.0, 1.0]), np.array([2.0, 0.5, 1 - 1e-7])
    e = np.sqrt(1 - b**2 / a**2)
    surface = 2 * np.pi * a**2 + np.pi * b**2 / e * np.log((1 + e) / (1 - e))
    expected = 4 * np.pi * (a**2 * b) ** (2 / 3) / surface
    np.testing.assert_allclose(spheroid_sphericity(2 * a, 2 * b), expected, rtol=1e-8)
    got = spheroid_sphericity(np.array([4.0, 4.0, 0.0]), np.array([4.0, 0.0, 0.0]))
    np.testing.assert_array_equal(got, [1, 0, np.nan])


def test_flat_and_single_voxel_cells():
    labels = np.zeros((5, 5, 5), np.uint32)
    labels[np.arange(5), np.arange(5), 0] = 1
    labels[2, :, 2:4] = 2
    labels[4, 0, 4] = 3
    table = cell_table(measure_fragments(labels, 3), voxel_size=(1, 1, 1), shape=(5, 5, 5))
    assert table["axis_minor_um"].to_pylist() == [0, 0, 0]
    np.testing.assert_array_equal(table["sphericity"].to_numpy(), [0, 0, np.nan])


def test_a_voxel_that_is_not_finite_spoils_only_its_cell():
    labels = np.array([[[1, 1, 2, 2, 0]]], np.uint32)
    image = np.array([[[1, np.nan, 2, 3, np.inf]]], np.float32)
    halves = blockwise(labels, [image], [2.0**20], (1, 1, 1))
    table = cell_table(
        merge(halves[::-1]),
        voxel_size=(1, 1, 1),
        shape=(1, 1, 5),
        channels=["a"],
        scales=[2.0**20],
    )
    for name, second in (("mean", 2.5), ("sum", 5.0), ("std", 0.5), ("min", 2.0), ("max", 3.0)):
        np.testing.assert_array_equal(table[f"intensity_{name}"].to_numpy(), [np.nan, second])


def test_square_sums_carry_past_64_bits():
    labels = np.ones((2, 3, 4), np.uint32)
    image = np.full(labels.shape, 2**32 - 1, np.uint32)
    image[0, 0, 0] = 0
    partial = merge(blockwise(labels, [image], [1.0], (1, 2, 3)))
    high, low = int(partial.square_high[0, 0]), int(partial.square_low[0, 0])
    assert (high << 64) + low == 23 * (2**32 - 1) ** 2
    table = cell_table(
        partial, voxel_size=(1, 1, 1), shape=labels.shape, channels=["a"], scales=[1.0]
    )
    assert table["intensity_std"][0].as_py() == pytest.approx(image.astype(float).std())


@pytest.mark.parametrize("max_abs", [1.0, 0.999, 3e-5, 65535.0, 2.0**31, 1e20, 1e-300])
def test_intensity_scale_is_a_tight_power_of_two(max_abs):
    scale = intensity_scale("float32", max_abs)
    assert np.frexp(scale)[0] == 0.5
    assert max_abs * scale <= 2**31
    assert max_abs * scale > 2**30 or max_abs < 1e-290
    assert intensity_scale("uint32", max_abs) == 1.0


def test_intensity_past_its_scale_is_refused():
    labels = np.ones((1, 1, 2), np.uint32)
    image = np.array([[[1.0, 5.0]]])
    with pytest.raises(VolumeError, match=r"voxel \(7, 0, 0\) reach past 2,"):
        measure_fragments(labels, 1, [image], (7, 0, 0), [intensity_scale("float64", 2.0)])


def test_relabelled_merges_and_drops():
    labels = np.array([[[1, 2, 2, 3, 3, 3, 4]]], np.uint32)
    partial = measure_fragments(labels, 5).relabelled(np.array([9, 4, 9, 0, 1], np.uint64))
    assert partial.label.tolist() == [4, 9]
    assert partial.voxels.tolist() == [2, 4]
    assert partial.box_min[2].tolist() == [1, 0]
    with pytest.raises(ValueError, match="label 4 has no entry"):
        measure_fragments(labels, 5).relabelled(np.array([1, 2, 3]))
    with pytest.raises(ValueError, match="over n_fragments = 3"):
        measure_fragments(labels, 3)


def test_arrays_round_trip_and_are_checked():
    labels = np.array([[[1, 2, 2]]], np.uint32)
    image = np.array([[[1, 2, 3]]], np.uint8)
    partial = measure_fragments(labels, 2, [image], scales=[1.0])
    assert_same(partial, PartialCells.from_arrays(partial.to_arrays()))
    with pytest.raises(VolumeError, match="lack the array 'moment'"):
        PartialCells.from_arrays({k: v for k, v in partial.to_arrays().items() if k != "moment"})
    with pytest.raises(VolumeError, match="'voxels' is float64"):
        PartialCells.from_arrays(partial.to_arrays() | {"voxels": np.ones(2)})


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.booleans())
def test_reduce_in_ranges_equals_merge(seed, max_rows, known):
    rng = np.random.default_rng(seed)
    labels = random_labels(rng, (8, 9, 10), 25)
    pieces = blockwise(labels, [], [], (4, 3, 10))
    spans = [span(piece) for piece in pieces] if known else None
    reads = []

    def source(k):
        return lambda: reads.append(k) or pieces[k]

    sources = [source(k) for k in range(len(pieces))]
    ranges = list(reduce_partials(sources, 25, max_rows, spans=spans))
    assert all(part.n_rows <= max_rows for part in ranges)
    assert_same(merge(pieces), merge(ranges))
    assert known or len(reads) >= len(pieces)


def test_reduce_of_nothing_is_one_empty_result():
    empty = measure_fragments(np.zeros((2, 2, 2), np.uint32), 0)
    for sources in ([], [lambda: empty]):
        results = list(reduce_partials(sources, 0, 10, n_channels=2))
        assert [(r.n_rows, r.n_channels) for r in results] == [(0, 2)]
    table = cell_table(
        results[0], voxel_size=(1, 1, 1), shape=(2, 2, 2), channels=["a", "b"], scales=[1, 1]
    )
    assert table.num_rows == 0
    assert "intensity_mean_b" in table.column_names


def test_written_files_are_whole_and_sorted(tmp_path):
    labels = np.arange(1, 28, dtype=np.uint32).reshape(3, 3, 3)
    partial = measure_fragments(labels, 27)

    def tables():
        for first in range(1, 28, 10):
            part = partial.between(first, first + 9)
            yield cell_table(part, voxel_size=(1, 1, 1), shape=(3, 3, 3))

    path = tmp_path / "cells.parquet"
    assert write_cells(path, tables()) == 27
    stored = pq.read_table(path)
    assert stored["label"].to_pylist() == list(range(1, 28))
    assert stored.schema.field("centroid_z_um").metadata[b"unit"] == b"um"
    assert write_csv(tmp_path / "cells.csv", tables()) == 27
    names = pyarrow.csv.read_csv(tmp_path / "cells.csv").column_names
    wanted = ["label", "area", *(f"centroid-{i}" for i in range(3))]
    assert set(wanted) | {f"bbox-{i}" for i in range(6)} <= set(names)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="label 1 after 20"):
        write_cells(path, [*list(tables())[:2], *tables()])
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cells.csv", "cells.parquet"]
    with pytest.raises(ValueError, match="no cell table"):
        write_cells(path, [])
