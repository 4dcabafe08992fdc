"""Which files belong together, the constants of each image, and the split by file."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from cellseg3d_dist.engine.inputs import ImageInput
from cellseg3d_dist.engine.stages.survey import (
    Percentiles,
    Survey,
    reduce_percentiles,
    reduce_survey,
    upper_bins_wanted,
)
from cellseg3d_dist.errors import ConfigError, VolumeError
from cellseg3d_dist.grid import BlockGrid, Region
from cellseg3d_dist.training import matching, pairs
from cellseg3d_dist.training.pairs import check_disjoint, find_pairs, percentiles_of, slabs, split
from cellseg3d_dist.volumes import create_image, open_volume

SIZE = (2.0, 1.0, 1.0)


def write(path, shape=(4, 5, 6), dtype=np.uint16, value=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(str(path)))
    array = rng.integers(0, 200, shape).astype(dtype) if value is None else value
    tifffile.imwrite(
        path, array, metadata={"axes": "ZYX"}, photometric="minisblack", compression="zlib"
    )
    return path


def names_of(found):
    return [(pair.name, matching.name_of(pair.labels.location)) for pair in found]


@pytest.mark.parametrize(
    ("image_names", "label_names"),
    [
        (["a", "b", "c"], ["a", "b", "c"]),
        (["a_1", "a_10", "a_2"], ["a_1_labels", "a_10_labels", "a_2_labels"]),
        (["img_01", "img_02"], ["mask_01", "mask_02"]),
        (["e1_image", "e2_image"], ["e1", "e2"]),
        (["t1_0000", "t2_0000"], ["t1", "t2"]),
        (["10", "20", "110"], ["gt_10", "gt_20", "gt_110"]),
        (["only"], ["something_else"]),
    ],
)
def test_labels_are_found_by_name(tmp_path, image_names, label_names):
    for name in image_names:
        write(tmp_path / "images" / f"{name}.tif")
    for name in label_names:
        write(tmp_path / "labels" / f"{name}.tiff")
    found = find_pairs(str(tmp_path / "images"), str(tmp_path / "labels"), voxel_size=SIZE)
    assert set(names_of(found)) == set(zip(image_names, label_names, strict=True))
    assert [pair.name for pair in found] == sorted(image_names, key=matching._natural)
    assert all(pair.image.voxel_size == pair.labels.voxel_size == SIZE for pair in found)


def test_folders_patterns_lists_and_zarr(tmp_path):
    for number in (1, 2):
        write(tmp_path / f"s{number}" / "image.tif")
        write(tmp_path / f"s{number}" / "label.tif")
    found = find_pairs(tmp_path / "*" / "image.tif", tmp_path / "*" / "label.tif", voxel_size=SIZE)
    assert [pair.labels.location.split("/")[-2] for pair in found] == ["s1", "s2"]
    paths = [str(tmp_path / f"s{number}") for number in (2, 1)]
    listed = find_pairs(
        [f"{path}/image.tif" for path in paths],
        [f"{path}/label.tif" for path in reversed(paths)],
        voxel_size=SIZE,
    )
    assert all(pair.image.location[:-9] == pair.labels.location[:-9] for pair in listed)

    stored = tmp_path / "zarr" / "a.ome.zarr"
    (tmp_path / "zarr").mkdir()
    stored_image(stored, np.arange(120, dtype=np.uint16).reshape(4, 5, 6))
    write(tmp_path / "zarr_labels" / "a.tif")
    (alone,) = find_pairs(tmp_path / "zarr", tmp_path / "zarr_labels")
    assert alone.image.kind == "zarr"
    assert alone.name == "a"
    (single,) = find_pairs(stored)
    assert single.labels is None
    assert (single.low, single.high) == (1.0, 118.0)


def stored_image(path, array, kind="image"):
    stored = create_image(
        path,
        shape=array.shape,
        dtype=array.dtype,
        block_shape=(64, 64, 64),
        voxel_size=SIZE,
        kind=kind,
    )
    stored.levels[0].write(Region.whole(array.shape), array)


def test_arrays_are_paired_by_position():
    image, labels = np.zeros((3, 4, 5), np.float32), np.ones((3, 4, 5), np.int32)
    (pair,) = find_pairs(image, labels, voxel_size=SIZE)
    assert pair.image.read(Region.whole((3, 4, 5))).shape == pair.labels.shape
    with pytest.raises(ConfigError, match="2 images and 1 label images"):
        find_pairs([image, image], [labels], voxel_size=SIZE)


@pytest.mark.parametrize(
    ("image_names", "label_names", "message"),
    [
        (["a", "b"], ["a"], "b.tif has no label image among the 1 given"),
        (["a"], ["a", "b"], "b.tif have no image among the 1 given"),
        (["a_10", "a_20", "a_25"], ["a_10_m", "a_20_m"], "a_25.tif has no label image"),
        (["x", "y"], ["p", "q"], "x.tif has no label image"),
        (["a", "b"], ["a", "b", "b.ome"], "b.tif has several label images"),
        ([], ["a"], "holds no TIFF or Zarr"),
    ],
)
def test_missing_and_ambiguous_partners_are_named(tmp_path, image_names, label_names, message):
    for folder, names in (("images", image_names), ("labels", label_names)):
        (tmp_path / folder).mkdir()
        for name in names:
            write(tmp_path / folder / f"{name}.tif")
    with pytest.raises(ConfigError, match=message):
        find_pairs(tmp_path / "images", tmp_path / "labels", voxel_size=SIZE)


@pytest.mark.parametrize(
    ("label_shape", "dtype", "message"),
    [
        ((4, 5, 7), np.uint16, r"shape \(4, 5, 7\), the image .* \(4, 5, 6\)"),
        ((4, 5, 6), np.float32, "are float32, not integer"),
    ],
)
def test_labels_that_do_not_fit(tmp_path, label_shape, dtype, message):
    image = write(tmp_path / "a.tif")
    labels = write(tmp_path / "l.tif", label_shape, dtype)
    with pytest.raises(ConfigError, match=message):
        find_pairs(image, labels, voxel_size=SIZE)


def test_other_bad_input(tmp_path):
    image = write(tmp_path / "a.tif")
    flat = tmp_path / "flat.tif"
    tifffile.imwrite(flat, np.zeros((5, 6), np.uint16))
    with pytest.raises(VolumeError, match="only 3D"):
        find_pairs(flat, voxel_size=SIZE)
    with pytest.raises(VolumeError, match="voxel_size"):
        find_pairs(image)
    with pytest.raises(VolumeError, match="does not exist"):
        find_pairs(tmp_path / "none.tif", voxel_size=SIZE)
    with pytest.raises(ConfigError, match="no TIFF or Zarr matches"):
        find_pairs(tmp_path / "b*", voxel_size=SIZE)
    with pytest.raises(ConfigError, match="as image and as its labels"):
        find_pairs(image, image, voxel_size=SIZE)
    with pytest.raises(ConfigError, match="named twice among the images"):
        find_pairs([image, image], voxel_size=SIZE)
    with pytest.raises(ConfigError, match="no images were given"):
        find_pairs([], voxel_size=SIZE)
    with pytest.raises(ConfigError, match=r"percentiles \(50, 50\)"):
        find_pairs(image, voxel_size=SIZE, percentiles=(50, 50))
    stored_image(tmp_path / "l.zarr", np.ones((4, 5, 6), np.uint32), "labels")
    with pytest.raises(ConfigError, match="is a label image by its metadata"):
        find_pairs(tmp_path / "l.zarr", image)
    empty = np.zeros((0, 4, 5), np.uint8)
    with pytest.raises(ConfigError, match="has no voxels"):
        find_pairs(empty, voxel_size=SIZE)


def at_rank(values, percentile):
    """The value at the rank rounded down, in sorted order."""
    return np.sort(values, axis=None)[int(percentile / 100 * (values.size - 1))]


@settings(deadline=None, max_examples=25)
@given(
    shape=st.tuples(*[st.integers(1, 12)] * 3),
    dtype=st.sampled_from([np.uint8, np.uint16, np.int16, np.int32, np.float32, np.float64]),
    percentiles=st.tuples(st.floats(0, 50), st.floats(50.5, 100)),
    seed=st.integers(0, 2**32),
    slab=st.integers(1, 200),
)
def test_percentiles_are_those_of_the_whole(shape, dtype, percentiles, seed, slab):
    image = np.random.default_rng(seed).normal(100, 30, shape).astype(dtype)
    if image.dtype.kind == "f":
        image.flat[0] = np.nan
    volume = open_volume(image, voxel_size=SIZE)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pairs, "_SLAB_VOXELS", slab)
        patched.setattr(pairs, "_LARGEST_SLAB", slab)
        found = percentiles_of(volume, percentiles)
    counted = np.nan_to_num(image.astype(np.float32)) if image.dtype.kind == "f" else image
    assert found == tuple(float(np.float32(at_rank(counted, p))) for p in percentiles)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_percentiles_are_those_of_a_run(tmp_path, dtype):
    image = np.random.default_rng(0).gamma(2, 300, (20, 30, 25)).astype(dtype)
    (pair,) = find_pairs(image, voxel_size=SIZE)
    source, grid = ImageInput(pair.image), BlockGrid(image.shape, (8, 16, 13))

    def records(stage):
        return [{"block": block.number, **stage.run(block)} for block in grid.blocks()]

    first = Survey(source, grid, tmp_path, None)
    found = reduce_survey(first, records(first))
    if dtype == np.float32:
        second = Percentiles(source, grid, tmp_path, upper_bins_wanted(found))
        found = reduce_percentiles(second, records(second), found)
    assert (pair.low, pair.high) == (found.percentiles[1.0], found.percentiles[99.8])


@settings(deadline=None, max_examples=50)
@given(
    shape=st.tuples(*[st.integers(1, 40)] * 3),
    chunk=st.tuples(*[st.integers(1, 40)] * 3),
    multiple=st.sampled_from([1, 4]),
    limits=st.tuples(st.integers(1, 2000), st.integers(64, 4000)),
)
def test_slabs_cover_each_voxel_once(shape, chunk, multiple, limits):
    volume = open_volume(np.zeros(shape, np.uint8), voxel_size=SIZE)
    volume = replace(volume, chunk_shape=chunk)
    seen = np.zeros(shape, np.uint8)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pairs, "_SLAB_VOXELS", limits[0])
        patched.setattr(pairs, "_LARGEST_SLAB", limits[1])
        for region in slabs(volume, multiple):
            seen[region.slices] += 1
            assert all(start % multiple == 0 for start in region.start)
            assert region.size <= max(limits)
    assert (seen == 1).all()


def test_split_is_by_file_and_by_seed():
    image = np.zeros((2, 2, 2), np.uint8)
    given_pairs = find_pairs([image + n for n in range(10)], voxel_size=SIZE)
    train, validation = split(given_pairs, 0.2, 3)
    assert len(train) == 8
    assert len(validation) == 2
    lows = sorted(pair.low for pair in train + validation)
    assert lows == list(range(10))
    again = split(given_pairs, 0.2, 3)
    assert [p.low for p in again[1]] == [p.low for p in validation]
    different = {tuple(p.low for p in split(given_pairs, 0.2, seed)[1]) for seed in range(20)}
    assert len(different) > 5
    assert split(given_pairs, 0, 0) == (given_pairs, [])
    assert len(split(given_pairs, 0.99, 0)[0]) == 1
    with pytest.raises(ConfigError, match="1 file cannot be split"):
        split(given_pairs[:1], 0.2, 0)
    with pytest.raises(ConfigError, match="at least 0 and below 1"):
        split(given_pairs, 1.0, 0)


def test_files_in_training_and_validation_are_refused(tmp_path):
    found = find_pairs([write(tmp_path / f"{n}.tif") for n in "ab"], voxel_size=SIZE)
    check_disjoint(found[:1], found[1:])
    with pytest.raises(ConfigError, match=r"b.tif is given for training and for validation"):
        check_disjoint(found, found[1:])


def test_the_embryos_are_paired(shared_data):
    folder = shared_data / "mouse_embryo_bbbc050"
    found = find_pairs(
        folder / "images" / "Emb0[1-2]_*.tif",
        folder / "labels" / "Emb0[1-2]_*.tif",
        voxel_size=(1.75, 0.8, 0.8),
    )
    assert len(found) == 10
    assert all(one == other for one, other in names_of(found))
    assert all(80 < pair.low < pair.high for pair in found)
