"""Opening: every accepted form gives the same voxels, every refused one a clear line."""

import functools
import http.server
import json
import os
import pickle
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from cellseg3d_dist.errors import BadInputError, ConfigError, EnvironmentFailedError, VolumeError
from cellseg3d_dist.grid import Region
from cellseg3d_dist.volumes import create_image, open_volume

ONE = (1.0, 1.0, 1.0)
SHAPE = (5, 6, 7)


def image_store(path, array, axes="zyx", version="0.5", change=None, **create):
    """A one-level OME-Zarr image; ``change`` edits its multiscales before they are written."""
    kinds = {"t": "time", "c": "channel"}
    units = {"t": "second", "c": None}
    described = []
    for axis in axes:
        item = {"name": axis, "type": kinds.get(axis, "space")}
        if units.get(axis, "micrometer"):
            item["unit"] = units.get(axis, "micrometer")
        described.append(item)
    sizes = {"z": 3.0, "y": 2.0, "x": 1.0}
    multiscale = {
        "axes": described,
        "datasets": [
            {
                "path": "0",
                "coordinateTransformations": [
                    {"type": "scale", "scale": [sizes.get(axis, 1.0) for axis in axes]}
                ],
            }
        ],
    }
    if version == "0.4":
        multiscale["version"] = "0.4"
    attributes = {"multiscales": [multiscale]}
    if change:
        change(multiscale, attributes)
    three = version == "0.5"
    group = zarr.open_group(path, mode="w-", zarr_format=3 if three else 2)
    group.attrs.update({"ome": {"version": "0.5", **attributes}} if three else attributes)
    create = {"chunks": (2,) * array.ndim, **create}
    stored = group.create_array("0", shape=array.shape, dtype=array.dtype, **create)
    stored[...] = array
    return path


def numbers(shape=SHAPE, dtype=np.uint16):
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def refused(source, match, error=VolumeError, **options):
    """The error is ours, in one line, and nothing was created beside the source."""
    with pytest.raises(error, match=match) as caught:
        open_volume(source, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# what can be opened


@settings(max_examples=25, deadline=None)
@given(
    axes=st.permutations("tczyx").map("".join),
    dropped=st.sets(st.sampled_from("tc")),
    version=st.sampled_from(["0.4", "0.5"]),
    data=st.data(),
)
def test_any_order_of_axes(tmp_path_factory, axes, dropped, version, data):
    axes = "".join(axis for axis in axes if axis not in dropped)
    lengths = {"t": 2, "c": 3, "z": 4, "y": 5, "x": 6}
    array = numbers(tuple(lengths[axis] for axis in axes))
    path = image_store(tmp_path_factory.mktemp("s") / "a.zarr", array, axes, version)
    channel = data.draw(st.integers(0, 2)) if "c" in axes else 0
    time = data.draw(st.integers(0, 1)) if "t" in axes else 0
    volume = open_volume(path, channel=channel, time=time)
    index = tuple({"t": time, "c": channel}.get(axis, slice(None)) for axis in axes)
    kept = [axis for axis in axes if axis in "zyx"]
    expected = array[index].transpose([kept.index(axis) for axis in "zyx"])
    assert volume.shape == (4, 5, 6)
    assert volume.voxel_size == (3.0, 2.0, 1.0)
    got = volume.read(Region((1, 0, 2), (4, 5, 6)))
    np.testing.assert_array_equal(got, expected[1:4, :, 2:6])
    assert got.flags.c_contiguous
    assert got.dtype.isnative


def test_region_moves_origin_and_offset(tmp_path):
    array = numbers()
    volume = open_volume(image_store(tmp_path / "a", array), region=Region((1, 2, 3), (5, 6, 7)))
    assert volume.shape == (4, 4, 4)
    assert volume.offset == (1, 2, 3)
    assert volume.origin == (3.0, 4.0, 3.0)
    np.testing.assert_array_equal(volume.read(Region((0, 0, 1), (4, 4, 3))), array[1:5, 2:6, 4:6])
    again = volume.crop(Region((1, 1, 1), (2, 2, 2)))
    assert again.offset == (2, 3, 4)
    assert again.read(Region.whole((1, 1, 1))).item() == array[2, 3, 4]


def test_units_and_outer_transformations(tmp_path):
    def change(multiscale, attributes):
        for axis, unit in zip(multiscale["axes"], ["nanometer", "millimeter", "um"], strict=True):
            axis["unit"] = unit
        multiscale["datasets"][0]["coordinateTransformations"] = [
            {"type": "scale", "scale": [500.0, 0.001, 2.0]},
            {"type": "translation", "translation": [100.0, 0.0, 4.0]},
        ]
        multiscale["coordinateTransformations"] = [{"type": "scale", "scale": [2.0, 1.0, 0.5]}]

    volume = open_volume(image_store(tmp_path / "a", numbers(), change=change))
    assert volume.voxel_size == pytest.approx((1.0, 1.0, 1.0))
    assert volume.origin == pytest.approx((0.2, 0.0, 2.0))


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize(
    ("stored", "read"),
    [
        ("bool", "uint8"),
        ("int8", "int8"),
        ("uint16", "uint16"),
        (">u2", "uint16"),
        (">f4", "float32"),
        ("int64", "int64"),
        ("uint64", "uint64"),
        ("float16", "float32"),
        ("float64", "float32"),
    ],
)
def test_types(tmp_path, zarr_format, stored, read):
    array = (numbers() % 120).astype(stored)
    if stored == "bool":
        array = numbers() % 2 == 1
    kept = zarr.create_array(
        tmp_path / "a", shape=SHAPE, chunks=(2, 3, 4), dtype=stored, zarr_format=zarr_format
    )
    kept[...] = array
    volume = open_volume(tmp_path / "a", voxel_size=ONE)
    got = volume.read(Region.whole(SHAPE))
    assert volume.dtype == got.dtype == np.dtype(read)
    assert got.dtype.isnative
    np.testing.assert_array_equal(got, array)
    in_memory = open_volume(array, voxel_size=ONE)
    assert in_memory.dtype == read
    np.testing.assert_array_equal(in_memory.read(Region.whole(SHAPE)), array)


def test_plain_arrays_by_number_or_names_of_axes(tmp_path):
    array = numbers((2, 4, 5, 6))
    zarr.save_array(tmp_path / "czyx", array, zarr_format=2)
    volume = open_volume(tmp_path / "czyx", voxel_size=ONE, channel=1)
    np.testing.assert_array_equal(volume.read(Region.whole((4, 5, 6))), array[1])
    np.testing.assert_array_equal(volume.read(Region.whole((4, 5, 6)), channel=0), array[0])
    named = zarr.create_array(
        tmp_path / "xyzc", shape=(6, 5, 4, 2), dtype="u2", dimension_names=("x", "y", "z", "c")
    )
    named[...] = array.T
    volume = open_volume(tmp_path / "xyzc", voxel_size=ONE, channel=1)
    np.testing.assert_array_equal(volume.read(Region.whole((4, 5, 6))), array[1])
    refused(tmp_path / "czyx", "without a voxel size. Give voxel_size")
    refused(tmp_path / "czyx", "no level 1", voxel_size=ONE, level=1)


def test_a_level_by_its_own_path_keeps_the_image_metadata(tmp_path):
    path = tmp_path / "a.zarr"
    create_image(
        path,
        shape=(4, 4, 300),
        dtype="uint16",
        block_shape=(4, 4, 64),
        voxel_size=(4.0, 1.0, 0.5),
        kind="image",
    )
    assert open_volume(path / "1").voxel_size == open_volume(path, level=1).voxel_size
    assert open_volume(path / "1").level == 1
    assert open_volume(zarr.open_array(path / "0", mode="r")).voxel_size == (4.0, 1.0, 0.5)


def test_volumes_are_sent_as_paths_and_open_in_the_other_process(tmp_path):
    array = numbers((20, 30, 40))
    volume = open_volume(image_store(tmp_path / "a", array, chunks=(10, 10, 10)))
    sent = pickle.dumps(volume)
    assert len(sent) < 2000
    np.testing.assert_array_equal(
        pickle.loads(sent).read(Region((3, 4, 5), (6, 7, 8))), array[3:6, 4:7, 5:8]
    )
    with pytest.raises(VolumeError, match="Store it first"):
        pickle.dumps(open_volume(array, voxel_size=ONE))


def test_an_array_in_memory_is_never_handed_out(tmp_path):
    array = numbers()
    volume = open_volume(array, voxel_size=ONE)
    volume.read(Region.whole(SHAPE))[...] = 0
    assert array.any()
    memory = zarr.create_array(zarr.storage.MemoryStore(), shape=SHAPE, dtype="u2")
    memory[...] = array
    volume = open_volume(memory, voxel_size=ONE)
    np.testing.assert_array_equal(volume.read(Region.whole(SHAPE)), array)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_zero_length_axis_is_valid(tmp_path, zarr_format):
    zarr.create_array(
        tmp_path / "a", shape=(3, 0, 4), chunks=(1, 1, 1), dtype="u2", zarr_format=zarr_format
    )
    volume = open_volume(tmp_path / "a", voxel_size=ONE)
    assert volume.shape == (3, 0, 4)
    assert volume.read(Region.whole((3, 0, 4))).shape == (3, 0, 4)
    assert volume.fingerprint()


def test_missing_chunks_are_the_fill_value(tmp_path):
    zarr.create_array(tmp_path / "a", shape=SHAPE, chunks=(2, 2, 2), dtype="u2", fill_value=7)
    volume = open_volume(tmp_path / "a", voxel_size=ONE)
    assert (volume.read(Region.whole(SHAPE)) == 7).all()


def test_an_array_replaced_at_the_same_path_is_opened_anew(tmp_path):
    for value, shape in ((1, (2, 2, 2)), (2, (3, 3, 3))):
        if (tmp_path / "a").exists():
            (tmp_path / "a").rename(tmp_path / "old")
        array = zarr.create_array(tmp_path / "a", shape=shape, dtype="u2")
        array[...] = value
        volume = open_volume(tmp_path / "a", voxel_size=ONE)
        assert (volume.read(Region.whole(shape)) == value).all()


def test_fingerprint_follows_data_options_and_metadata(tmp_path):
    path = image_store(tmp_path / "a", numbers((2, *SHAPE)), "czyx")
    seen = {
        open_volume(path).fingerprint(),
        open_volume(path, channel=1).fingerprint(),
        open_volume(path, voxel_size=ONE).fingerprint(),
        open_volume(path, region=Region((0, 0, 0), (1, 1, 1))).fingerprint(),
    }
    assert len(seen) == 4
    assert open_volume(path).fingerprint() in seen
    zarr.open_array(path / "0", mode="r+")[0, 0, 0, 0] = 9
    assert open_volume(path).fingerprint() not in seen
    array = numbers()
    before = open_volume(array, voxel_size=ONE).fingerprint()
    array[4, 5, 6] += 1
    assert open_volume(array, voxel_size=ONE).fingerprint() != before


# nested stores


def test_one_nested_image_is_opened_and_several_are_listed(tmp_path):
    outer = tmp_path / "scan.ome.zarr"
    zarr.open_group(outer, mode="w", zarr_format=3)
    (tmp_path / "scan_meta.txt").write_text("x")
    image_store(outer / "tile_0", numbers())
    volume = open_volume(outer)
    assert volume.location == str(outer / "tile_0")
    image_store(outer / "tile_1", numbers())
    text = refused(outer, "holds 2 images; give one")
    assert str(outer / "tile_0") in text
    assert str(outer / "tile_1") in text


def test_groups_that_hold_no_image(tmp_path):
    zarr.open_group(tmp_path / "g", mode="w")
    refused(tmp_path / "g", "without multiscales and without images")
    zarr.create_array(tmp_path / "g" / "raw", shape=SHAPE, dtype="u2")
    text = refused(tmp_path / "g", "holds arrays; give one with its voxel_size")
    assert str(tmp_path / "g" / "raw") in text
    plate = zarr.open_group(tmp_path / "p", mode="w", zarr_format=2)
    plate.attrs["plate"] = {}
    refused(tmp_path / "p", "plate")


def test_labels_group_names_its_images(tmp_path):
    group = zarr.open_group(tmp_path / "labels", mode="w", zarr_format=2)
    group.attrs["labels"] = ["cells"]
    image_store(tmp_path / "labels" / "cells", numbers(), version="0.4")
    assert open_volume(tmp_path / "labels").shape == SHAPE
    group.attrs["labels"] = ["../../secret"]
    refused(tmp_path / "labels", "only paths inside the store")


# bad input: the store


def test_paths_that_hold_nothing(tmp_path):
    refused(tmp_path / "missing", "does not exist")
    refused("", "not a path", BadInputError)
    refused("ftp://host/a", "unknown scheme")
    refused("a\0b", "not a path", BadInputError)
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "holds no image")
    (tmp_path / "a.txt").write_text("hello")
    refused(tmp_path / "a.txt", "is a file, but no TIFF")
    (tmp_path / "a.h5").write_bytes(b"\x89HDF")
    refused(tmp_path / "a.h5", "no HDF5 file")
    (tmp_path / "a.ims").write_bytes(b"\x89HDF")
    refused(tmp_path / "a.ims", "Convert it")
    refused(tmp_path / ("x" * 300), "cannot be looked up|does not exist")
    refused(3, "int cannot be opened")


@pytest.mark.parametrize("name", ["zarr.json", "0/zarr.json"])
@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("", "is empty"),
        ('{"zarr_format": 3, "node', "not valid JSON"),
        ("[" * 100_000, "nested too deeply|not valid JSON"),
        ('{"a":' * 50_000, "nested too deeply|not valid JSON"),
        ("[1]", "not an object"),
        ("\udcff", "not valid JSON"),
        ("NaN", "not an object"),
        (" " * (16 * 2**20 + 1), "metadata limit"),
    ],
)
def test_damaged_metadata_files(tmp_path, name, content, match):
    path = image_store(tmp_path / "a", numbers())
    (path / name).write_bytes(content.encode(errors="surrogateescape"))
    assert name.rpartition("/")[2] in refused(path, match)


def edit_json(path, **changes):
    meta = json.loads(path.read_text())
    path.write_text(json.dumps({**meta, **changes}))


def chunks_of(*shape):
    return {"name": "regular", "configuration": {"chunk_shape": list(shape)}}


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"zarr_format": 9}, "unknown format"),
        ({"node_type": "thing"}, "unknown format"),
        ({"codecs": [{"name": "warp"}]}, "unknown codec 'warp'"),
        ({"codecs": [{"name": "numcodecs.pickle"}]}, "'pickle', refused"),
        ({"codecs": [{"name": "vlen-utf8"}]}, "refused"),
        ({"codecs": []}, "no list of codecs"),
        ({"codecs": [{"id": 3}]}, "codec without a name"),
        ({"codecs": [{"name": "zstd"}]}, "cannot be opened"),
        ({"shape": [2**62, 2**62, 2**62]}, "impossible shape"),
        ({"shape": [5, 6, -7]}, "at least 0"),
        ({"shape": [5, 6, 7.5]}, "integer"),
        ({"shape": "big"}, "no list 'shape'"),
        ({"shape": [6, 7]}, r"shape \(6, 7\) but chunks"),
        ({"chunk_grid": chunks_of(0, 2, 2)}, "at least 1"),
        ({"chunk_grid": chunks_of(2**12, 2**12, 2**12)}, "over the limit of 2 GiB"),
        ({"chunk_grid": {"name": "rectilinear"}}, "not 'regular'"),
        ({"data_type": "complex64"}, "data type 'complex64'"),
        ({"data_type": "string"}, "data type"),
        ({"data_type": {"name": "fixed_length_utf32"}}, "data type"),
        ({"dimension_names": ["a"]}, "dimension_names"),
        ({"fill_value": "x"}, "cannot be opened"),
    ],
)
def test_array_metadata_of_zarr_3(tmp_path, changes, match):
    path = image_store(tmp_path / "a", numbers())
    edit_json(path / "0" / "zarr.json", **changes)
    refused(path, match)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"zarr_format": 9}, "unknown zarr_format"),
        ({"compressor": {"id": "warp"}}, "unknown codec 'warp'"),
        ({"compressor": {"id": "pickle"}}, "'pickle', refused"),
        ({"filters": [{"id": "pickle"}]}, "'pickle', refused"),
        ({"dtype": "|O"}, "data type"),
        ({"dtype": "<c8"}, "data type"),
        ({"dtype": "<U4"}, "data type"),
        ({"dtype": [["a", "<u2"]]}, "data type"),
        ({"dtype": "banana"}, "data type"),
        ({"chunks": [0, 2, 2]}, "at least 1"),
        ({"shape": [2**62, 2**62, 2**62]}, "impossible shape"),
        ({"order": "Q"}, "cannot be opened"),
    ],
)
def test_array_metadata_of_zarr_2(tmp_path, changes, match):
    path = image_store(tmp_path / "a", numbers(), version="0.4")
    edit_json(path / "0" / ".zarray", **changes)
    refused(path, match)


@pytest.mark.parametrize("bad", ["../b", "/etc", "a/../../b", "..\\b", "http://x/y", ""])
def test_paths_out_of_the_store(tmp_path, bad):
    def change(multiscale, attributes):
        multiscale["datasets"][0]["path"] = bad

    path = image_store(tmp_path / "a", numbers(), change=change)
    refused(path, "only paths inside the store|without a path")


def test_links_out_of_the_store(tmp_path):
    path = image_store(tmp_path / "a", numbers())
    secret = image_store(tmp_path / "b", numbers())
    (path / "0").rename(path / "real")
    (path / "0").symlink_to(path / "real")
    assert open_volume(path).shape == SHAPE
    (path / "0").unlink()
    (path / "0").symlink_to(secret / "0")
    refused(path, "link out of the store")
    (path / "0").unlink()
    (path / "0").symlink_to(path / "0")
    refused(path, "link|is no array")
    (tmp_path / "whole").symlink_to(secret)
    assert open_volume(tmp_path / "whole").shape == SHAPE


def test_level_without_its_array(tmp_path):
    path = image_store(tmp_path / "a", numbers())
    (path / "0").rename(path / "1")
    refused(path, "lists the level '0'")


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("separator", ["/", "."])
def test_wrong_separator_would_read_as_zeros(tmp_path, zarr_format, separator):
    name = "v2" if zarr_format == 2 else "default"
    array = zarr.create_array(
        tmp_path / "a",
        shape=SHAPE,
        chunks=(2, 2, 2),
        dtype="u2",
        zarr_format=zarr_format,
        chunk_key_encoding={"name": name, "separator": separator},
    )
    array[...] = 1
    open_volume(tmp_path / "a", voxel_size=ONE)
    other = "." if separator == "/" else "/"
    if zarr_format == 2:
        edit_json(tmp_path / "a" / ".zarray", dimension_separator=other)
    else:
        encoding = {"name": "default", "configuration": {"separator": other}}
        edit_json(tmp_path / "a" / "zarr.json", chunk_key_encoding=encoding)
    refused(tmp_path / "a", "would read as zeros", voxel_size=ONE)


# bad input: axes, scale, options


def set_axis(index, **values):
    def change(multiscale, attributes):
        multiscale["axes"][index].update(values)

    return change


def set_scale(*values):
    def change(multiscale, attributes):
        multiscale["datasets"][0]["coordinateTransformations"][0]["scale"] = list(values)

    return change


def drop_scale(multiscale, attributes):
    del multiscale["datasets"][0]["coordinateTransformations"]


def drop_units(multiscale, attributes):
    for axis in multiscale["axes"]:
        del axis["unit"]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (drop_scale, "no scale"),
        (drop_units, "no unit"),
        (set_scale(0, 1, 1), "must be above 0"),
        (set_scale(1, -2.0, 1), "scale -2 along y"),
        (set_scale(1, 1, float("nan")), "scale nan along x"),
        (set_scale(1, 1, "1"), "scale nan along x"),
        (set_scale(10**400, 1, 1), "scale inf along z"),
        (set_axis(0, unit="parsec"), "unknown unit 'parsec' along z"),
    ],
)
def test_no_voxel_size_is_guessed(tmp_path, change, match):
    path = image_store(tmp_path / "a", numbers(), change=change)
    assert "Give voxel_size" in refused(path, match)
    assert open_volume(path, voxel_size=(3, 2, 1)).voxel_size == (3.0, 2.0, 1.0)


def set_top(key, value):
    def change(multiscale, attributes):
        multiscale[key] = value

    return change


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (set_axis(0, name="y"), "duplicate axes 'yyx'"),
        (set_axis(0, name="depth"), "axis 'depth'"),
        (set_axis(0, name="t", type="time"), "axes 'tyx', without z"),
        (set_axis(0, type="channel"), "type 'channel'"),
        (set_top("axes", None), "no list of axes"),
        (set_top("axes", [{"name": "y"}, {"name": "x"}]), "without z"),
        (set_top("datasets", []), "no datasets"),
        (set_top("coordinateTransformations", [{"type": "affine"}]), "'affine'"),
        (set_top("coordinateTransformations", {}), "not a list"),
        (set_scale(1, 1), "for 3 axes"),
        (lambda multiscale, attributes: attributes.update(multiscales=[]), "no usable"),
        (lambda multiscale, attributes: attributes.update(version="0.6"), "is OME-Zarr '0.6'"),
    ],
)
def test_metadata_that_do_not_fit(tmp_path, change, match):
    path = image_store(tmp_path / "a", numbers(), change=change)
    refused(path, match, voxel_size=ONE)


def test_axes_that_do_not_match_the_array(tmp_path):
    path = image_store(tmp_path / "a", numbers())
    image_store(tmp_path / "b", numbers((1, *SHAPE)), "czyx")
    (path / "0").rename(path / "old")
    (tmp_path / "b" / "0").rename(path / "0")
    refused(path, "do not match")


def test_options_out_of_range(tmp_path):
    path = image_store(tmp_path / "a", numbers((2, 3, *SHAPE)), "tczyx")
    refused(path, "2 time points; give time, 0 to 1", ConfigError)
    refused(path, "time 2 .* 0 to 1", ConfigError, time=2)
    refused(path, "channel 3 .* 0 to 2", ConfigError, time=0, channel=3)
    refused(path, "channel -1", ConfigError, time=0, channel=-1)
    refused(path, "no level 1; its levels are 0 to 0", level=1, time=0)
    region = Region((0, 0, 0), (5, 6, 8))
    refused(path, "region 0:5,0:6,0:8 is not inside", ConfigError, time=0, region=region)
    for bad in ((0, 1, 1), (1, float("nan"), 1), (1, 1), (1, 1, -1)):
        refused(path, "three numbers above 0", ConfigError, time=0, voxel_size=bad)
    volume = open_volume(path, time=1, channel=2)
    with pytest.raises(ConfigError, match="not inside"):
        volume.read(Region((0, 0, -1), (1, 1, 1)))
    with pytest.raises(ConfigError, match="channel 3"):
        volume.read(Region.whole(SHAPE), channel=3)


@pytest.mark.parametrize("shape", [(4, 4), (1, 1, 1, 2, 2, 2), (3,)])
def test_other_dimensions(tmp_path, shape):
    zarr.save_array(tmp_path / "a", numbers(shape))
    refused(tmp_path / "a", f"{len(shape)} dimensions", voxel_size=ONE)
    refused(numbers(shape), "dimensions", voxel_size=ONE)


@pytest.mark.parametrize("dtype", ["complex64", "O", "U3", "M8[s]", "g"])
def test_types_in_memory_that_are_refused(dtype):
    refused(np.zeros((2, 2, 2), dtype), "data type", voxel_size=ONE)


# damaged chunks


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("damage", ["truncate", "empty", "garbage"])
def test_damaged_chunks_name_array_and_region(tmp_path, version, damage):
    array = numbers((4, 4, 64))
    path = image_store(tmp_path / "a", array, version=version, chunks=(4, 4, 32))
    names = [
        Path(where, name)
        for where, _, files in os.walk(path / "0")
        for name in files
        if not name.startswith(".z") and name != "zarr.json"
    ]
    chunk = max(names)
    content = chunk.read_bytes()
    bad = {"truncate": content[: len(content) // 2], "empty": b"", "garbage": b"\xff" * 50}
    chunk.write_bytes(bad[damage])
    volume = open_volume(path)
    np.testing.assert_array_equal(volume.read(Region((0, 0, 0), (4, 4, 32))), array[..., :32])
    with pytest.raises(VolumeError, match=r"a/0, region 0:4,0:4,30:40 cannot be read") as caught:
        volume.read(Region((0, 0, 30), (4, 4, 40)))
    assert "\n" not in str(caught.value)


def test_disk_errors_are_told_from_bad_bytes(tmp_path, monkeypatch):
    import errno

    import cellseg3d_dist.volumes.volume as module

    volume = open_volume(image_store(tmp_path / "a", numbers()))

    def failing(location):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(module, "open_zarr", failing)
    with pytest.raises(EnvironmentFailedError, match="Input/output error"):
        volume.read(Region.whole(SHAPE))


# URLs


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def served(tmp_path):
    handler = functools.partial(_Quiet, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_over_http(tmp_path, served, version):
    pytest.importorskip("aiohttp")
    array = numbers((10, 12, 14))
    image_store(tmp_path / "a.zarr", array, version=version, chunks=(4, 4, 4))
    volume = open_volume(f"{served}/a.zarr")
    assert volume.voxel_size == (3.0, 2.0, 1.0)
    region = Region((3, 2, 1), (9, 12, 14))
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(volume)).read(region), array[region.slices]
    )
    assert volume.fingerprint() == open_volume(f"{served}/a.zarr").fingerprint()
    refused(f"{served}/b.zarr", "holds no image")


def test_over_http_when_nothing_answers(served, tmp_path):
    pytest.importorskip("aiohttp")
    with pytest.raises((VolumeError, EnvironmentFailedError), match=r"127\.0\.0\.1:1/a") as caught:
        open_volume("http://127.0.0.1:1/a.zarr")
    assert "\n" not in str(caught.value)


def test_url_without_the_cloud_extra_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    refused("https://127.0.0.1/a.zarr", r"cellseg3d_dist\[cloud\]")


def test_bad_input_has_exit_code_2():
    assert VolumeError.exit_code == BadInputError.exit_code == 2
