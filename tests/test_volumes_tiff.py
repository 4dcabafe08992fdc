"""TIFF in all its forms gives tifffile's own voxels; conversion copies them exactly."""

import pickle

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from cellseg3d_dist.errors import ConfigError, MemoryLimitError, VolumeError
from cellseg3d_dist.grid import BlockGrid, Region
from cellseg3d_dist.volumes import create_conversion, open_volume
from cellseg3d_dist.volumes.convert import conversion_shape

ONE = (1.0, 1.0, 1.0)
SHAPE = (5, 40, 50)


def numbers(shape=SHAPE, dtype=np.uint16):
    return np.random.default_rng(0).integers(0, 200, shape).astype(dtype)


@settings(max_examples=30, deadline=None)
@given(
    data=st.data(),
    options=st.sampled_from(
        [
            {},
            {"compression": "zlib"},
            {"compression": "zlib", "rowsperstrip": 7},
            {"compression": "zlib", "predictor": True, "rowsperstrip": 9},
            {"compression": "lzw"},
            {"tile": (16, 32)},
            {"tile": (32, 16), "compression": "zlib"},
            {"bigtiff": True},
            {"byteorder": ">"},
            {"byteorder": ">", "compression": "zlib"},
            {"imagej": True, "metadata": {"axes": "ZYX"}},
            {"ome": True, "metadata": {"axes": "ZYX"}},
            {"photometric": "minisblack", "metadata": None},
        ]
    ),
)
def test_any_layout_and_region(tmp_path_factory, data, options):
    path = tmp_path_factory.mktemp("t") / "a.tif"
    array = numbers()
    tifffile.imwrite(path, array, **options)
    bounds = [sorted(data.draw(st.lists(st.integers(0, n), min_size=2, max_size=2))) for n in SHAPE]
    region = Region(tuple(a for a, _ in bounds), tuple(b for _, b in bounds))
    volume = pickle.loads(pickle.dumps(open_volume(path, voxel_size=ONE)))
    assert volume.kind == "tiff"
    assert volume.shape == SHAPE
    got = volume.read(region)
    np.testing.assert_array_equal(got, array[region.slices])
    assert got.dtype == np.uint16
    assert got.dtype.isnative
    assert got.flags.c_contiguous
    assert got.flags.writeable


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize(
    ("options", "axes"),
    [
        ({"imagej": True}, "TZCYX"),
        ({"ome": True}, "TCZYX"),
        ({"ome": True}, "CZYX"),
        ({"ome": True}, "ZCYX"),
        ({"imagej": True}, "ZCYX"),
    ],
)
def test_channels_and_times(tmp_path, options, axes, compression):
    lengths = {"T": 2, "C": 3, "Z": 4, "Y": 10, "X": 12}
    array = numbers(tuple(lengths[axis] for axis in axes))
    if compression and "imagej" in options:
        options = {**options, "rowsperstrip": 4}
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, array, metadata={"axes": axes}, compression=compression, **options)
    time = 1 if "T" in axes else None
    if time:
        with pytest.raises(ConfigError, match="2 time points; give time"):
            open_volume(path, voxel_size=ONE)
    volume = open_volume(path, voxel_size=ONE, channel=2, time=time)
    assert len(volume.channels) == 3
    index = tuple({"T": 1, "C": 2}.get(axis, slice(None)) for axis in axes)
    region = Region((1, 2, 3), (4, 10, 11))
    np.testing.assert_array_equal(volume.read(region), array[index][region.slices])
    with pytest.raises(ConfigError, match="channel 3"):
        open_volume(path, voxel_size=ONE, channel=3, time=time)


def test_colour_planes_are_channels(tmp_path):
    array = numbers((4, 10, 12, 3), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb", metadata={"axes": "ZYXS"})
    volume = open_volume(tmp_path / "a.tif", voxel_size=ONE, channel=1)
    region = Region((1, 2, 3), (4, 9, 12))
    np.testing.assert_array_equal(volume.read(region), array[region.slices][..., 1])
    tifffile.imwrite(
        tmp_path / "b.tif",
        array,
        photometric="rgb",
        compression="zlib",
        metadata={"axes": "ZYXS"},
    )
    volume = open_volume(tmp_path / "b.tif", voxel_size=ONE, channel=2)
    np.testing.assert_array_equal(volume.read(region), array[region.slices][..., 2])


def test_voxel_size_comes_from_ome_alone(tmp_path):
    metadata = {"axes": "ZYX", "PhysicalSizeZ": 2.5, "PhysicalSizeY": 0.5, "PhysicalSizeX": 0.4}
    units = {f"PhysicalSize{axis}Unit": "µm" for axis in "ZY"}
    units["PhysicalSizeXUnit"] = "nm"
    tifffile.imwrite(tmp_path / "a.ome.tif", numbers(), ome=True, metadata={**metadata, **units})
    assert open_volume(tmp_path / "a.ome.tif").voxel_size == pytest.approx((2.5, 0.5, 0.0004))
    assert open_volume(tmp_path / "a.ome.tif", voxel_size=ONE).voxel_size == ONE
    del metadata["PhysicalSizeZ"]
    tifffile.imwrite(tmp_path / "b.ome.tif", numbers(), ome=True, metadata=metadata)
    with pytest.raises(VolumeError, match="Give voxel_size"):
        open_volume(tmp_path / "b.ome.tif")
    tifffile.imwrite(
        tmp_path / "c.tif",
        numbers(),
        imagej=True,
        resolution=(2, 2),
        metadata={"axes": "ZYX", "spacing": 3, "unit": "um"},
    )
    with pytest.raises(VolumeError, match="resolution tags are not"):
        open_volume(tmp_path / "c.tif")


def test_folder_of_planes_in_natural_order(tmp_path):
    array = numbers((12, 20, 30))
    for z, plane in enumerate(array):
        tifffile.imwrite(tmp_path / f"plane_{z}.tif", plane, compression="zlib", rowsperstrip=6)
    (tmp_path / "notes.txt").write_text("x")
    volume = pickle.loads(pickle.dumps(open_volume(tmp_path, voxel_size=ONE)))
    region = Region((1, 5, 2), (11, 17, 30))
    np.testing.assert_array_equal(volume.read(region), array[region.slices])
    before = volume.fingerprint()
    tifffile.imwrite(tmp_path / "plane_3.tif", array[0, :10])
    assert open_volume(tmp_path, voxel_size=ONE).fingerprint() != before
    with pytest.raises(VolumeError, match=r"plane_3\.tif cannot be read.*plane is uint16"):
        volume.read(region)
    tifffile.imwrite(tmp_path / "plane_11.tif", array[0, :10])
    with pytest.raises(VolumeError, match="planes that differ"):
        open_volume(tmp_path, voxel_size=ONE)


def test_folder_of_volumes_is_not_guessed(tmp_path):
    for name in "ab":
        tifffile.imwrite(tmp_path / f"{name}.tif", numbers())
    with pytest.raises(VolumeError, match=r"give one of its 2 files, such as a\.tif"):
        open_volume(tmp_path, voxel_size=ONE)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_truncated_files(tmp_path, compression):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, numbers(), compression=compression)
    content = path.read_bytes()
    with tifffile.TiffFile(path) as file:
        last = file.pages[-1]
        end = last.dataoffsets[-1] + last.databytecounts[-1]
    for size in (0, 3, 6, 20, 400, len(content) // 2, end - 1):
        path.write_bytes(content[:size])
        with pytest.raises(VolumeError, match=r"a\.tif") as caught:
            open_volume(path, voxel_size=ONE).read(Region.whole(SHAPE))
        assert "\n" not in str(caught.value)


def test_a_damaged_strip_names_the_region(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, numbers(), compression="zlib", rowsperstrip=10)
    with tifffile.TiffFile(path) as file:
        offset = file.pages[2].dataoffsets[1]
    with path.open("r+b") as raw:
        raw.seek(offset)
        raw.write(b"\xff" * 20)
    volume = open_volume(path, voxel_size=ONE)
    volume.read(Region((2, 0, 0), (3, 10, 50)))
    with pytest.raises(VolumeError, match="region 2:3,10:12,0:50 cannot be read"):
        volume.read(Region((2, 10, 0), (3, 12, 50)))


@pytest.mark.parametrize(
    ("array", "options", "match"),
    [
        (np.zeros((4, 5), "u2"), {}, "axes 'YX'"),
        (np.zeros((4, 5, 6), "c8"), {}, "data type"),
        (np.zeros((4, 5, 6), "u2"), {"metadata": {"axes": "TYX"}}, "axes 'TYX'"),
        (np.zeros((4, 5, 6), "u2"), {"imagej": True, "metadata": {"axes": "CYX"}}, "axes 'CYX'"),
        (np.zeros((2, 3, 4, 5), "u2"), {"metadata": {"axes": "QQYX"}}, "axes"),
    ],
)
def test_what_is_no_volume(tmp_path, array, options, match):
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="minisblack", **options)
    with pytest.raises(VolumeError, match=match):
        open_volume(tmp_path / "a.tif", voxel_size=ONE)
    with pytest.raises(VolumeError, match="no level 2"):
        open_volume(tmp_path / "a.tif", voxel_size=ONE, level=2)


def test_float64_is_read_as_float32_and_bool_as_uint8(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", numbers(dtype=np.float64), compression="zlib")
    volume = open_volume(tmp_path / "a.tif", voxel_size=ONE)
    assert volume.dtype == volume.read(Region.whole(SHAPE)).dtype == np.float32
    tifffile.imwrite(tmp_path / "b.tif", numbers() > 100)
    volume = open_volume(tmp_path / "b.tif", voxel_size=ONE)
    got = volume.read(Region((0, 3, 5), (5, 30, 41)))
    np.testing.assert_array_equal(got, numbers()[:, 3:30, 5:41] > 100)
    assert got.dtype == np.uint8


def test_real_volumes(shared_data):
    for name in ("mouse_brain_mesospim/c5image.tif", "c_elegans_embryo/WT-EMB01_t60.tif"):
        path = shared_data / name
        with pytest.raises(VolumeError, match="Give voxel_size"):
            open_volume(path)
        volume = open_volume(path, voxel_size=ONE)
        region = Region((3, 5, 7), (20, 60, 80))
        np.testing.assert_array_equal(volume.read(region), tifffile.imread(path)[region.slices])


# conversion


@settings(max_examples=15, deadline=None)
@given(
    block=st.tuples(st.integers(1, 8), st.integers(8, 50), st.integers(8, 60)),
    memory=st.integers(100_000, 400_000),
)
def test_conversion_blocks_are_whole_write_blocks_within_memory(tmp_path_factory, block, memory):
    path = tmp_path_factory.mktemp("t")
    array = numbers()
    tifffile.imwrite(path / "a.tif", array, compression="zlib", rowsperstrip=8)
    volume = open_volume(path / "a.tif", voxel_size=(2.0, 1.0, 1.0))
    conversion = create_conversion(volume, path / "a.zarr", block_shape=block, memory_limit=memory)
    assert all(a % b == 0 for a, b in zip(conversion.grid.block_shape, block, strict=True))
    conversion = pickle.loads(pickle.dumps(conversion))
    for part in reversed(list(conversion.grid.blocks())):
        written = conversion.run(part.write_region)
        assert 2 * written.nbytes <= memory
    converted = open_volume(path / "a.zarr")
    assert converted.voxel_size == (2.0, 1.0, 1.0)
    np.testing.assert_array_equal(converted.read(Region.whole(SHAPE)), array)


def test_conversion_keeps_channels_and_the_region(tmp_path):
    array = numbers((2, 6, 10, 12))
    tifffile.imwrite(tmp_path / "a.tif", array, ome=True, metadata={"axes": "CZYX"})
    region = Region((1, 2, 3), (6, 10, 12))
    volume = open_volume(tmp_path / "a.tif", voxel_size=(2.0, 1.0, 1.0), region=region)
    conversion = create_conversion(volume, tmp_path / "a.zarr", block_shape=(4, 4, 4))
    for block in conversion.grid.blocks():
        conversion.run(block.write_region)
    converted = open_volume(tmp_path / "a.zarr", channel=1)
    assert converted.origin == (2.0, 2.0, 3.0)
    assert converted.channels == volume.channels
    np.testing.assert_array_equal(
        converted.read(Region.whole(converted.shape)), array[1][region.slices]
    )


def test_conversion_over_the_memory_limit_is_refused(tmp_path):
    volume = open_volume(numbers(), voxel_size=ONE)
    with pytest.raises(MemoryLimitError, match="smaller block_shape"):
        create_conversion(volume, tmp_path / "a", block_shape=(5, 40, 50), memory_limit=1000)
    assert not list(tmp_path.iterdir())
    assert conversion_shape(volume, (5, 8, 8), 10**6) == (5, 8, 8)
    assert BlockGrid(SHAPE, conversion_shape(volume, (9, 90, 90), 10**6)).n_blocks == 1
