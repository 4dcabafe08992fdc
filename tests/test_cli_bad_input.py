"""Stores, arrays and metadata that cannot be used: exit 2, one line, nothing created."""

import json
import subprocess
import sys

import pytest
import tifffile
import zarr
from command_line import QUICK
from test_volumes_open import (
    chunks_of,
    drop_scale,
    drop_units,
    edit_json,
    image_store,
    numbers,
    set_axis,
    set_scale,
    set_top,
)

SIZE = ("--voxel-size", "1,1,1")


@pytest.fixture
def image(tmp_path):
    return image_store(tmp_path / "image.zarr", numbers())


def refuses_image(cli, source, match, *options):
    """Refused alike by whatever opens an image; nothing is left where OUT would be."""
    line = cli.refuses("segment", source, "out", *QUICK, *options, match=match)
    assert cli.refuses("plan", source, *options, match=match) == line
    return line


# store


def test_paths_that_hold_no_image(cli, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("hello")
    (tmp_path / "scan.h5").write_bytes(b"\x89HDF")
    (tmp_path / "scan.ims").write_bytes(b"\x89HDF")
    (tmp_path / "bad.tif").write_bytes(b"II*\0")
    (tmp_path / "empty.tif").write_bytes(b"")
    for name, match in [
        ("missing", "/missing does not exist"),
        ("text.txt/inside", "does not exist"),
        ("empty", "/empty holds no image"),
        ("text.txt", "text.txt is a file, but no TIFF"),
        ("scan.h5", "is no HDF5 file"),
        ("scan.ims", "Convert it to OME-Zarr or TIFF"),
        ("bad.tif", "bad.tif cannot be opened as TIFF"),
        ("empty.tif", "empty.tif is a file, but no TIFF"),
        ("x" * 300, "x cannot be looked up .*File name too long"),
        ("ftp://host/a", "unknown scheme"),
        ("http://127.0.0.1:1/a.zarr", "127.0.0.1:1"),
        ("~nobody-of-that-name/a", "~nobody-of-that-name"),
        ("", "'' is not a path"),
        ("a\0b", r"'a\\x00b' is not a path"),
        ("a\udcff", r"'a\\udcff' is not valid UTF-8"),
    ]:
        code = 4 if name.startswith("http") else 2
        cli.refuses("segment", name, "out", *QUICK, *SIZE, match=match, code=code)


def test_group_without_multiscales(cli, tmp_path):
    group = zarr.open_group(tmp_path / "g", mode="w")
    refuses_image(cli, "g", "g is a Zarr group without multiscales")
    group.create_array("raw", shape=(4, 4, 4), dtype="u2")
    refuses_image(cli, "g", "give one with its voxel_size: .*/g/raw")
    plate = zarr.open_group(tmp_path / "p", mode="w", zarr_format=2)
    plate.attrs["plate"] = {}
    refuses_image(cli, "p", "p is a plate")


def test_plain_array_needs_its_voxel_size(cli, tmp_path):
    zarr.save_array(tmp_path / "a", numbers())
    refuses_image(cli, "a", r"a is an array without a voxel size. Give voxel_size \(z, y, x\)")


@pytest.mark.parametrize("name", ["zarr.json", "0/zarr.json"])
@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("", "zarr.json is empty; the store is damaged"),
        ('{"zarr_format": 3, "node', "zarr.json is not valid JSON .* truncated"),
        ("[" * 50_000, "zarr.json is (nested too deeply|not valid JSON)"),
        ('{"a":' * 50_000, "zarr.json is (nested too deeply|not valid JSON)"),
        ("[1]", "not an object"),
    ],
)
def test_damaged_metadata_files(cli, image, name, content, match):
    (image / name).write_text(content)
    refuses_image(cli, image, match)


@pytest.mark.parametrize("name", [".zattrs", "0/.zarray"])
@pytest.mark.parametrize("content", ["", "{", "[" * 50_000, "3"])
def test_damaged_metadata_files_of_zarr_2(cli, tmp_path, name, content):
    path = image_store(tmp_path / "v2", numbers(), version="0.4")
    (path / name).write_text(content)
    refuses_image(cli, path, f"{name} (is|holds)")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"zarr_format": 9}, "unknown format"),
        ({"codecs": [{"name": "warp"}]}, "unknown codec 'warp'. Install"),
        ({"codecs": [{"name": "numcodecs.pickle"}]}, "codec 'pickle', refused"),
        ({"codecs": [{"name": "vlen-utf8"}]}, "refused"),
        ({"codecs": [{"name": "zstd"}]}, "cannot be opened"),
        ({"shape": [2**62, 2**62, 2**62]}, "impossible shape"),
        ({"shape": [5, 6, -7]}, "at least 0"),
        ({"shape": "big"}, "no list 'shape'"),
        ({"chunk_grid": chunks_of(0, 2, 2)}, "chunk_shape .* at least 1"),
        ({"chunk_grid": chunks_of(2**12, 2**12, 2**12)}, "chunks .* over the limit of 2 GiB"),
        ({"data_type": "complex64"}, "data type 'complex64'"),
        ({"data_type": "string"}, "data type 'string'"),
    ],
)
def test_array_metadata(cli, image, changes, match):
    edit_json(image / "0" / "zarr.json", **changes)
    refuses_image(cli, image, match)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"compressor": {"id": "pickle"}}, "'pickle', refused"),
        ({"filters": [{"id": "pickle"}]}, "'pickle', refused"),
        ({"compressor": {"id": "warp"}}, "unknown codec 'warp'"),
        ({"dtype": "|O"}, "data type '|O'"),
        ({"dtype": "<U4"}, "data type '<U4'"),
        ({"dtype": "<c16"}, "data type '<c16'"),
        ({"chunks": [0, 2, 2]}, "at least 1"),
    ],
)
def test_array_metadata_of_zarr_2(cli, tmp_path, changes, match):
    path = image_store(tmp_path / "v2", numbers(), version="0.4")
    edit_json(path / "0" / ".zarray", **changes)
    refuses_image(cli, path, match.replace("|O", r"\|O"))


@pytest.mark.parametrize("bad", ["../b", "/etc", "a/../../b"])
def test_multiscales_path_out_of_the_store(cli, tmp_path, bad):
    def change(multiscale, attributes):
        multiscale["datasets"][0]["path"] = bad

    path = image_store(tmp_path / "a", numbers(), change=change)
    refuses_image(cli, path, f"names the path '{bad}'.*only paths inside the store")


def test_link_out_of_the_store(cli, tmp_path, image):
    other = image_store(tmp_path / "other", numbers())
    (image / "0").rename(tmp_path / "old")
    (image / "0").symlink_to(other / "0")
    refuses_image(cli, image, "is a link out of the store")


def test_chunks_over_the_memory_limit(cli, tmp_path):
    zarr.create_array(
        tmp_path / "a", shape=(1024, 1024, 1024), chunks=(1024, 1024, 512), dtype="u2"
    )
    line = cli.refuses(
        "segment", "a", "out", *QUICK, *SIZE, "--memory-limit", "1GB",
        "--block-shape", "64,64,64", match=r"a block of \(64, 64, 64\) needs \d.* over 80% of",
    )  # fmt: skip
    assert "smaller stored chunks than (1024, 1024, 512)" in line


# array


@pytest.mark.parametrize("shape", [(4, 4), (1, 1, 1, 2, 2, 2)])
def test_other_dimensions(cli, tmp_path, shape):
    zarr.save_array(tmp_path / "a", numbers(shape))
    refuses_image(cli, "a", f"{len(shape)} dimensions .*only 3D images", *SIZE)
    tifffile.imwrite(tmp_path / "a.tif", numbers((4, 5)))
    refuses_image(cli, "a.tif", "a.tif has axes .*only 3D images", *SIZE)


def test_truncated_tiff(cli, tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", numbers((8, 40, 40)), compression="zlib")
    content = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(content[: len(content) // 3])
    refuses_image(cli, "a.tif", "a.tif (cannot be opened as TIFF|has axes)", *SIZE)


# metadata


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (drop_scale, "no scale"),
        (drop_units, "no unit"),
        (set_scale(0, 1, 1), "scale 0 along z .* above 0"),
        (set_scale(1, -2.0, 1), "scale -2 along y"),
        (set_scale(1, 1, float("nan")), "scale nan along x"),
        (set_axis(0, unit="parsec"), "unknown unit 'parsec' along z"),
    ],
)
def test_no_voxel_size_is_guessed(cli, tmp_path, change, match):
    path = image_store(tmp_path / "a", numbers(), change=change)
    line = refuses_image(cli, path, match)
    assert "Give voxel_size" in line
    cli.does("plan", path, "--voxel-size", "3,2,1")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (set_axis(0, name="y"), "duplicate axes 'yyx'"),
        (set_axis(0, name="depth"), "axis 'depth'"),
        (set_axis(0, name="t", type="time"), "without z"),
        (set_axis(0, type="channel"), "type 'channel'"),
        (set_top("axes", None), "no list of axes"),
        (set_top("axes", [{"name": "y"}, {"name": "x"}]), "without z"),
        (set_top("datasets", []), "no datasets"),
        (set_scale(1, 1), "scale .* for 3 axes"),
        (lambda multiscale, attributes: attributes.update(version="0.6"), "OME-Zarr '0.6'"),
    ],
)
def test_metadata_that_do_not_fit(cli, tmp_path, change, match):
    path = image_store(tmp_path / "a", numbers(), change=change)
    refuses_image(cli, path, match, *SIZE)


def test_axes_that_do_not_match_the_array(cli, tmp_path, image):
    image_store(tmp_path / "b", numbers((1, 5, 6, 7)), "czyx")
    (image / "0").rename(tmp_path / "old")
    (tmp_path / "b" / "0").rename(image / "0")
    refuses_image(cli, image, "metadata and array do not match")


def test_channel_time_and_level_out_of_range(cli, tmp_path):
    path = image_store(tmp_path / "a", numbers((2, 3, 5, 6, 7)), "tczyx")
    refuses_image(cli, path, "time 2 is not in .* 0 to 1", "--time", "2")
    refuses_image(cli, path, "time 1:3 is not in .* 0 to 1", "--time", "1:3")
    refuses_image(cli, path, "time '3:1' must be", "--time", "3:1")
    refuses_image(cli, path, "channel 3 is not in .* 0 to 2", "--time", "0", "--channel", "3")
    refuses_image(cli, path, "channel '-1' must be a whole number", "--channel", "-1")
    refuses_image(cli, path, "no level 4; its levels are 0 to 0", "--time", "0", "--level", "4")


def test_masks_and_truth_that_do_not_fit(cli, tmp_path, image):
    zarr.save_array(tmp_path / "small", numbers((4, 6, 7)))
    zarr.save_array(tmp_path / "real", numbers().astype("f4"))
    for options, match in [
        (("--mask", "gone"), "gone does not exist"),
        (("--mask", "small"), r"mask .*small has shape \(4, 6, 7\), the image \(5, 6, 7\)"),
        (("--labels-true", "gone"), "gone does not exist"),
        (("--labels-true", "small"), r"labels_true .*small has shape \(4, 6, 7\)"),
        (("--labels-true", "real"), "labels_true .*real is float32, not integer"),
    ]:
        cli.refuses("segment", image, "out", *QUICK, *options, match=match)


# the other commands that open an image


def test_info_and_convert_refuse_alike(cli, tmp_path):
    zarr.save_array(tmp_path / "plain", numbers())
    zarr.save_array(tmp_path / "flat", numbers((4, 4)))
    for name, match in [("gone", "does not exist"), ("plain", "Give voxel_size"),
                        ("flat", "2 dimensions")]:  # fmt: skip
        cli.refuses("info", name, match=match)
        cli.refuses("convert", name, "new.zarr", match=match)


def test_a_real_process_says_no_more(tmp_path):
    """Warnings and log messages of libraries do not reach the terminal."""
    tifffile.imwrite(tmp_path / "cut.tif", numbers((8, 40, 40)), compression="zlib")
    content = (tmp_path / "cut.tif").read_bytes()
    (tmp_path / "cut.tif").write_bytes(content[: len(content) // 3])
    image = image_store(tmp_path / "image.zarr", numbers())
    meta = json.loads((image / "0" / "zarr.json").read_text())
    meta["codecs"] = [{"name": "numcodecs.zfpy"}, {"name": "bytes"}]
    (image / "0" / "zarr.json").write_text(json.dumps(meta))
    before = sorted(tmp_path.iterdir())
    for name, *words in (("cut.tif", "info"), ("image.zarr", "info"), ("gone", "segment", "out")):
        words.insert(1, name)
        command = [sys.executable, "-m", "cellseg3d_dist", *words, *SIZE]
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 2, done.stderr
        assert done.stderr.startswith("error: ")
        assert name in done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert done.stdout == ""
    assert sorted(tmp_path.iterdir()) == before
