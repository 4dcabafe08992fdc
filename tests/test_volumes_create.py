"""What is written: blocks are shards, the metadata are valid, corruption is found."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import ome_zarr_models.v04.image
import ome_zarr_models.v04.image_label
import ome_zarr_models.v05.image
import ome_zarr_models.v05.image_label
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from ome_zarr.io import parse_url
from ome_zarr.reader import Label, Multiscales, Reader

from cellseg3d_dist.errors import ConfigError, OutputError, VolumeError
from cellseg3d_dist.grid import BlockGrid, Region
from cellseg3d_dist.volumes import (
    create_image,
    create_scratch,
    level_factors,
    open_volume,
    plan_image,
)
from cellseg3d_dist.volumes.create import chunk_shape_for

SIZE = (2.0, 1.0, 1.0)


def write_all(image, array):
    for block in image.levels[0].grid.blocks():
        image.levels[0].write(block.write_region, array[(..., *block.write_region.slices)])
    for number in range(1, len(image.levels)):
        for block in image.levels[number].grid.blocks():
            image.write_level_block(number, block.write_region)


def files_of(folder):
    return {
        Path(where, name)
        for where, _, names in os.walk(folder)
        for name in names
        if not name.startswith(".z") and name != "zarr.json"
    }


lengths = st.integers(1, 40)


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(lengths, lengths, lengths),
    block=st.tuples(lengths, lengths, lengths),
    zarr_format=st.sampled_from(["0.5", "0.4"]),
)
def test_no_file_belongs_to_two_blocks(tmp_path_factory, shape, block, zarr_format):
    path = tmp_path_factory.mktemp("store") / "a.ome.zarr"
    array = np.arange(1, np.prod(shape) + 1, dtype=np.uint32).reshape(shape)
    image = create_image(
        path,
        shape=shape,
        dtype="uint32",
        block_shape=block,
        voxel_size=SIZE,
        n_levels=1,
        format=zarr_format,
    )
    level = image.levels[0]
    seen = set()
    times = {}
    for block_ in level.grid.blocks():
        level.write(block_.write_region, array[block_.write_region.slices])
        new = files_of(path) - seen
        assert new, "a written block has files"
        if zarr_format == "0.5":
            assert len(new) == 1, "one block is one shard"
        for name, mtime in times.items():
            assert name.stat().st_mtime_ns == mtime, "another block's file was written again"
        seen |= new
        times |= {name: name.stat().st_mtime_ns for name in new}
    assert not level.missing()
    np.testing.assert_array_equal(level.read(Region.whole(shape)), array)
    np.testing.assert_array_equal(zarr.open_array(path / "0", mode="r")[:], array)
    np.testing.assert_array_equal(open_volume(path).read(Region.whole(shape)), array)


@pytest.mark.parametrize(
    ("shape", "block", "chunk"),
    [
        ((512, 512, 512), (128, 256, 64), (64, 64, 64)),
        ((512, 512, 512), (100, 96, 97), (50, 48, 97)),
        ((512, 512, 512), (32, 7, 1), (32, 7, 1)),
        ((20, 30, 500), (64, 128, 192), (20, 30, 64)),
        ((0, 5, 5), (4, 4, 4), (1, 4, 4)),
    ],
)
def test_chunks_divide_the_block(shape, block, chunk):
    assert chunk_shape_for(shape, block) == chunk


@pytest.mark.parametrize("channels", [None, ("foreground", "boundary")])
@pytest.mark.parametrize("zarr_format", ["0.5", "0.4"])
@pytest.mark.parametrize("kind", ["labels", "image"])
def test_metadata_are_valid_and_read_by_ome_zarr(tmp_path, kind, zarr_format, channels):
    path = tmp_path / "a.ome.zarr"
    shape = (10, 30, 260)
    leading = () if channels is None else (2,)
    array = np.random.default_rng(0).integers(0, 200, (*leading, *shape), dtype=np.uint16)
    image = create_image(
        path,
        shape=shape,
        dtype=np.uint16,
        block_shape=(8, 16, 128),
        voxel_size=SIZE,
        origin=(5.0, 6.0, 7.0),
        kind=kind,
        format=zarr_format,
        channels=channels,
    )
    write_all(image, array)
    group = zarr.open_group(path, mode="r")
    models = {
        ("0.5", "image"): ome_zarr_models.v05.image.Image,
        ("0.5", "labels"): ome_zarr_models.v05.image_label.ImageLabel,
        ("0.4", "image"): ome_zarr_models.v04.image.Image,
        ("0.4", "labels"): ome_zarr_models.v04.image_label.ImageLabel,
    }
    models[zarr_format, kind].from_zarr(group)
    attributes = group.attrs.asdict()
    ome = attributes["ome"] if zarr_format == "0.5" else attributes
    if kind == "labels":
        assert set(ome["image-label"]) == {"version"}
    else:
        assert all(len(item["color"]) == 6 for item in ome["omero"]["channels"])
    node = next(iter(Reader(parse_url(str(path)))()))
    assert any(isinstance(spec, Multiscales) for spec in node.specs)
    assert any(isinstance(spec, Label) for spec in node.specs) == (kind == "labels")
    assert len(node.data) == len(image.levels) == 3
    np.testing.assert_array_equal(np.asarray(node.data[0]), array)
    assert group["0"].metadata.zarr_format == (3 if zarr_format == "0.5" else 2)
    if zarr_format == "0.5":
        names = ("z", "y", "x") if channels is None else ("c", "z", "y", "x")
        assert group["1"].metadata.dimension_names == names
    for number in range(3):
        volume = open_volume(path, level=number, channel=0)
        size, origin = image.level_geometry(number)
        assert volume.voxel_size == size
        assert volume.origin == origin
        assert volume.shape == image.levels[number].shape
        assert volume.is_label == (kind == "labels")


def test_mean_levels_move_by_half_a_voxel(tmp_path):
    """A ramp of physical position stays a ramp: the voxel centres are where the metadata say."""
    path = tmp_path / "a.ome.zarr"
    shape = (4, 8, 260)
    image = create_image(
        path,
        shape=shape,
        dtype="float32",
        block_shape=(4, 8, 64),
        voxel_size=(1.0, 1.0, 0.5),
        origin=(0.0, 0.0, 10.0),
        kind="image",
    )
    ramp = np.broadcast_to(10.0 + 0.5 * np.arange(260, dtype=np.float32), shape)
    write_all(image, ramp)
    assert len(image.levels) == 3
    for number in range(3):
        volume = open_volume(path, level=number)
        row = volume.read(Region.whole(volume.shape))[0, 0]
        places = volume.origin[2] + volume.voxel_size[2] * np.arange(volume.shape[2])
        np.testing.assert_allclose(row, places)


def test_plan_is_the_same_handle_and_survives_pickling(tmp_path):
    wanted = {"shape": (5, 6, 7), "dtype": "uint8", "block_shape": (4, 4, 4)}
    wanted |= {"voxel_size": SIZE, "kind": "image"}
    planned = plan_image(tmp_path / "a.zarr", **wanted)
    assert not list(tmp_path.iterdir())
    image = create_image(tmp_path / "a.zarr", **wanted)
    assert planned == image == pickle.loads(pickle.dumps(image))


def test_writing_part_of_a_shard_is_refused(tmp_path):
    image = create_image(
        tmp_path / "a.zarr",
        shape=(10, 10, 10),
        dtype="uint32",
        block_shape=(4, 4, 4),
        voxel_size=SIZE,
    )
    level = image.levels[0]
    level.write(Region((8, 4, 0), (10, 10, 10)), np.ones((2, 6, 10), np.uint32))
    for start, stop in [((1, 0, 0), (4, 4, 4)), ((0, 0, 0), (4, 4, 3)), ((0, 0, 8), (4, 4, 9))]:
        region = Region(start, stop)
        with pytest.raises(VolumeError, match="part of a shard"):
            level.write(region, np.zeros(region.shape, np.uint32))
    with pytest.raises(VolumeError, match="without loss"):
        level.write(Region((0, 0, 0), (4, 4, 4)), np.zeros((4, 4, 4), np.uint64))
    with pytest.raises(VolumeError, match="needs an array of shape"):
        level.write(Region((0, 0, 0), (4, 4, 4)), np.zeros((4, 4, 3), np.uint32))
    with pytest.raises(ConfigError, match="not inside"):
        level.read(Region((0, 0, 0), (4, 4, 11)))


@pytest.mark.parametrize("zarr_format", ["0.5", "0.4"])
def test_background_blocks_are_written_and_lost_ones_are_found(tmp_path, zarr_format):
    image = create_image(
        tmp_path / "a.zarr",
        shape=(8, 8, 8),
        dtype="uint32",
        block_shape=(4, 8, 8),
        voxel_size=SIZE,
        format=zarr_format,
    )
    level = image.levels[0]
    first, second = (block.write_region for block in level.grid.blocks())
    level.write(first, np.zeros(first.shape, np.uint32))
    assert level.missing() == [second]
    assert not level.read(first, missing="fail").any()
    assert not level.read(second).any()
    with pytest.raises(VolumeError, match="was not written or is lost"):
        level.read(Region.whole(level.shape), missing="fail")


@pytest.mark.parametrize("zarr_format", ["0.5", "0.4"])
def test_flipped_bits_are_found(tmp_path, zarr_format):
    shape = (16, 16, 16)
    image = create_image(
        tmp_path / "a.zarr",
        shape=shape,
        dtype="uint32",
        block_shape=shape,
        voxel_size=SIZE,
        format=zarr_format,
    )
    level = image.levels[0]
    rng = np.random.default_rng(1)
    array = np.repeat(rng.integers(0, 9, (16, 16, 4), dtype=np.uint32), 4, axis=2)
    level.write(Region.whole(shape), array)
    (name,) = files_of(tmp_path)
    good = name.read_bytes()
    silent, messages = 0, []
    for bit in rng.choice(len(good) * 8, 150, replace=False):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << (bit % 8)
        name.write_bytes(bad)
        try:
            silent += not np.array_equal(level.read(Region.whole(shape)), array)
        except VolumeError as error:
            messages.append(str(error))
    assert silent == 0
    assert len(messages) > 100
    assert all("region 0:16,0:16,0:16" in text and "\n" not in text for text in messages)


def test_existing_paths_and_odd_requests_are_refused(tmp_path):
    wanted = {"shape": (4, 4, 4), "dtype": "uint32", "block_shape": (4, 4, 4)}
    wanted |= {"voxel_size": SIZE}
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "precious").write_text("x")
    with pytest.raises(OutputError, match="exists already"):
        create_image(tmp_path / "there", **wanted)
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OutputError, match="exists already"):
        create_scratch(tmp_path / "link", shape=(4, 4, 4), dtype="u4", block_shape=(4, 4, 4))
    with pytest.raises(OutputError, match="URL"):
        create_image("s3://bucket/a.zarr", **wanted)
    for change, message in [
        ({"dtype": "int32"}, "unsigned"),
        ({"shape": (2**20, 2**20, 2**20)}, "limit"),
        ({"block_shape": (0, 4, 4)}, "at least 1"),
        ({"shape": (4001, 4001, 4001), "block_shape": (1009, 1009, 1009)}, "GiB"),
        ({"voxel_size": (1.0, 0.0, 1.0)}, "above 0"),
        ({"n_levels": 0}, "n_levels"),
    ]:
        with pytest.raises(ConfigError, match=message):
            create_image(tmp_path / "new", **{**wanted, **change})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "there"]


def test_failed_creation_leaves_nothing(tmp_path, monkeypatch):
    import errno

    import cellseg3d_dist.volumes.create as create
    from cellseg3d_dist.errors import EnvironmentFailedError

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(create, "_create_array", full)
    with pytest.raises(EnvironmentFailedError, match=r"a\.zarr.*No space left"):
        create_image(
            tmp_path / "a.zarr",
            shape=(4, 4, 4),
            dtype="uint32",
            block_shape=(4, 4, 4),
            voxel_size=SIZE,
        )
    assert not list(tmp_path.iterdir())


def test_scratch_is_one_chunk_per_block(tmp_path):
    scratch = create_scratch(
        tmp_path / "s.zarr", shape=(5, 6, 70), dtype="uint8", block_shape=(5, 4, 64), n_channels=3
    )
    array = np.random.default_rng(0).integers(0, 255, (3, 5, 6, 70), dtype=np.uint8)
    for block in scratch.grid.blocks():
        scratch.write(block.write_region, array[(..., *block.write_region.slices)])
    assert len(files_of(tmp_path)) == 4
    region = Region((1, 2, 3), (5, 6, 66))
    np.testing.assert_array_equal(scratch.read(region), array[(..., *region.slices)])
    np.testing.assert_array_equal(scratch.read(region, channel=1), array[1][region.slices])
    assert json.loads((tmp_path / "s.zarr" / "zarr.json").read_text())["node_type"] == "array"


@settings(max_examples=30, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 3000)] * 3),
    size=st.tuples(*[st.floats(0.1, 10)] * 3),
)
def test_levels_end_small_and_never_grow_less_cubic(shape, size):
    factors = level_factors(shape, size)
    ratio = max(size) / min(size)
    for factor in factors:
        assert set(factor) <= {1, 2}
        assert 2 in factor
        shape = tuple(-(-n // f) for n, f in zip(shape, factor, strict=True))
        size = tuple(v * f for v, f in zip(size, factor, strict=True))
    assert max(shape) <= 128
    if min(shape) > 1:
        assert max(size) / min(size) <= max(2.0, ratio) * 1.0001


def test_grid_of_a_level_covers_it():
    image = plan_image(
        "x", shape=(300, 200, 100), dtype="uint8", block_shape=(64, 64, 64), voxel_size=SIZE
    )
    for number in range(1, len(image.levels)):
        covered = np.zeros(image.levels[number - 1].shape, np.uint8)
        for block in BlockGrid(image.levels[number].shape, (64, 64, 64)).blocks():
            covered[image.source_region(number, block.write_region).slices] += 1
        assert (covered == 1).all()
