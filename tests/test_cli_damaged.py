"""Images with a chunk that cannot be read: exit 3, its blocks are 0 and listed, the rest is done.

Once it is mended, ``resume`` ends in the bytes of a run without the fault.
"""

import json
import shutil

import numpy as np
import pytest
import tifffile
import zarr
from command_line import QUICK, cells_image, listing
from test_volumes_open import edit_json, image_store
from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec, ZstdCodec

SHAPE = (12, 14, 96)
WIDTH = 8
BLOCKS = ("--block-shape", f"12,14,{WIDTH}", "--voxel-size", "1,1,1")
OPTIONS = (*QUICK, *BLOCKS, "--threshold", "20")
BAD = 5


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    """Most of a small report's time; its slices are still read."""
    for name in ("projections_figure", "density_figure", "_pair_figure"):
        monkeypatch.setattr(f"cellseg3d_dist.report.panels.{name}", lambda *given: b"")


@pytest.fixture
def image():
    return cells_image(SHAPE)


def chunk_files(folder):
    """Chunks of an array, along x."""
    found = [p for p in folder.rglob("*") if p.is_file() and p.name[-1].isdigit()]
    return sorted(found, key=lambda path: int(path.name.rpartition(".")[2]))


def labels_of(folder):
    return zarr.open_array(folder / "labels.ome.zarr" / "0", mode="r")[...]


def status_of(folder):
    return json.loads((folder / "run.json").read_text())


def same_results(one, other):
    """The same files with the same bytes."""
    for part in ("labels.ome.zarr", "cells.parquet"):
        names = [
            sorted(
                p.relative_to(run) for p in [run / part, *(run / part).rglob("*")] if p.is_file()
            )
            for run in (one, other)
        ]
        assert names[0] == names[1]
        for name in names[0]:
            assert (one / name).read_bytes() == (other / name).read_bytes(), name


def flip(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 8]) + content[middle + 1 :]


def cut(content):
    return content[: len(content) * 2 // 3]


def empty(content):
    return b""


STORES = {
    "checksum": {"compressors": [ZstdCodec(), Crc32cCodec()]},
    "gzip": {"compressors": [GzipCodec()]},
    "blosc": {"compressors": [BloscCodec(cname="lz4")]},
    "none": {"compressors": None},
    "v2": {"version": "0.4"},
}


@pytest.mark.parametrize(
    ("store", "damage"),
    [("checksum", flip), ("checksum", cut), ("checksum", empty), ("gzip", flip), ("gzip", cut),
     ("blosc", cut), ("blosc", empty), ("none", cut), ("none", empty), ("v2", cut), ("v2", empty)],
)  # fmt: skip
def test_a_chunk_that_cannot_be_read(cli, tmp_path, image, store, damage):
    path = image_store(
        tmp_path / "image", image, chunks=(12, 14, WIDTH), **{"version": "0.5", **STORES[store]}
    )
    cli.does("segment", path, "sound", *OPTIONS)
    chunk = chunk_files(path / "0")[BAD]
    content = chunk.read_bytes()
    chunk.write_bytes(damage(content))
    said = cli("segment", path, "run", *OPTIONS)
    assert said.code == 3
    assert "run/run.json; Block (0, 0, " in said.error
    assert f"{path}/0, region " in said.error
    assert "resume with: cellseg3d-dist resume " in said.error

    status = status_of(tmp_path / "run")
    assert status["status"] == "blocks failed"
    halos = {stage["stage"]: stage["halo"][2] for stage in status["plan"]["stages"]}
    failed = {entry["block"][2]: entry["stage"] for entry in status["failed_blocks"]}
    assert BAD in failed
    for number, stage in failed.items():
        first, last = number * WIDTH - halos[stage], (number + 1) * WIDTH + halos[stage]
        assert first < (BAD + 1) * WIDTH
        assert last > BAD * WIDTH
    labels, sound = labels_of(tmp_path / "run"), labels_of(tmp_path / "sound")
    assert len(failed) < SHAPE[2] // WIDTH - 3
    for number in range(SHAPE[2] // WIDTH):
        part = np.s_[:, :, number * WIDTH : (number + 1) * WIDTH]
        if number in failed:
            assert not labels[part].any()
        else:
            np.testing.assert_array_equal(labels[part] > 0, sound[part] > 0)
    shown = cli.does("status", "run").out
    assert "blocks failed" in shown
    assert f"(0, 0, {BAD})" in shown

    # not yet mended: the same again, and nothing done twice
    again = cli("resume", "run")
    assert again.code == 3
    assert status_of(tmp_path / "run")["failed_blocks"] == status["failed_blocks"]
    chunk.write_bytes(content)
    said = cli.does("resume", "run")
    assert "compare " in said.err
    same_results(tmp_path / "run", tmp_path / "sound")
    assert status_of(tmp_path / "run")["failed_blocks"] == []


def test_otsu_and_components_of_a_damaged_image(cli, tmp_path, image):
    path = image_store(tmp_path / "image", image, chunks=(12, 14, WIDTH))
    chunk = chunk_files(path / "0")[BAD]
    content = chunk.read_bytes()
    for instances in ("voronoi-otsu", "components"):
        options = (*QUICK, *BLOCKS, "--instances", instances)
        cli.does("segment", path, f"sound {instances}", *options)
        chunk.write_bytes(cut(content))
        assert cli("segment", path, instances, *options).code == 3
        chunk.write_bytes(content)
        cli.does("resume", instances)
        same_results(tmp_path / instances, tmp_path / f"sound {instances}")


def test_every_chunk_damaged(cli, tmp_path, image):
    path = image_store(tmp_path / "image", image, chunks=(12, 14, WIDTH))
    sound = shutil.copytree(path, tmp_path / "copy")
    for chunk in chunk_files(path / "0"):
        chunk.write_bytes(b"")
    said = cli("segment", path, "run", *QUICK, *BLOCKS)
    assert said.code == 3
    assert "12 of 12 blocks failed" in said.error
    assert not labels_of(tmp_path / "run").any()
    shutil.rmtree(path)
    sound.rename(path)
    cli.does("resume", "run")
    assert labels_of(tmp_path / "run").any()


def test_type_that_does_not_fit_the_bytes(cli, tmp_path, image):
    path = image_store(tmp_path / "image", image, chunks=(12, 14, WIDTH))
    edit_json(path / "0" / "zarr.json", data_type="uint32")
    said = cli("segment", path, "run", *OPTIONS)
    assert said.code == 3
    assert "12 of 12 blocks failed" in said.error
    # the metadata are what was wrong, so what is mended is another image
    edit_json(path / "0" / "zarr.json", data_type="uint16")
    said = cli("resume", "run")
    assert said.code == 2
    assert "the metadata of the image have changed" in said.error


def test_a_chunk_of_another_channel(cli, tmp_path):
    """Labels depend on one channel, measurements on all: levels above and scores follow."""
    image = cells_image((12, 14, 300))
    both = np.stack([image, image[::-1]])
    path = image_store(tmp_path / "image", both, "czyx", chunks=(1, 12, 14, 25))
    truth = image_store(tmp_path / "truth", (image > 20).astype("u1"), chunks=(12, 14, 25))
    options = (*OPTIONS, "--labels-true", truth, "--block-shape", "12,14,25")
    cli.does("segment", path, "sound", *options)
    chunk = chunk_files(path / "0" / "c" / "1")[BAD]
    content = chunk.read_bytes()
    chunk.write_bytes(cut(content))
    assert cli("segment", path, "run", *options).code == 3
    failed = status_of(tmp_path / "run")["failed_blocks"]
    assert [(entry["block"][2], entry["stage"]) for entry in failed] == [(BAD, "relabel")]
    assert len([p for p in (tmp_path / "run" / "labels.ome.zarr").iterdir() if p.is_dir()]) > 1
    assert not labels_of(tmp_path / "run")[:, :, BAD * 25 : (BAD + 1) * 25].any()
    other = chunk_files(path / "0" / "c" / "1")[0]
    kept = other.read_bytes()
    chunk.write_bytes(content)
    zarr.open_array(path / "0", mode="r+")[1, 0, 0, 0] += 1
    said = cli("resume", "run")
    assert said.code == 2
    assert "has changed in 1 blocks that are done (Block (0, 0, 0))" in said.error
    other.write_bytes(kept)
    cli.does("resume", "run")
    same_results(tmp_path / "run", tmp_path / "sound")
    scores = [(tmp_path / name / "scores.json").read_bytes() for name in ("run", "sound")]
    assert scores[0] == scores[1]


@pytest.mark.parametrize("which", ["mask", "labels-true"])
def test_a_chunk_of_mask_or_truth(cli, tmp_path, image, which):
    path = image_store(tmp_path / "image", image, chunks=(12, 14, WIDTH))
    other = image_store(tmp_path / "other", (image > 8).astype("u1"), chunks=(12, 14, WIDTH))
    options = (*OPTIONS, f"--{which}", other)
    cli.does("segment", path, "sound", *options)
    chunk = chunk_files(other / "0")[BAD]
    content = chunk.read_bytes()
    chunk.write_bytes(cut(content))
    said = cli("segment", path, "run", *options)
    assert said.code == 3
    assert f"{other}/0, region" in said.error
    chunk.write_bytes(content)
    cli.does("resume", "run")
    same_results(tmp_path / "run", tmp_path / "sound")
    for name in ("scores.json",) if which == "labels-true" else ():
        runs = [(tmp_path / run / name).read_bytes() for run in ("run", "sound")]
        assert runs[0] == runs[1]


def test_a_damaged_tiff(cli, tmp_path, image):
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, image, compression="zlib", metadata={"axes": "ZYX"})
    cli.does("segment", path, "sound", *OPTIONS)
    content = path.read_bytes()
    with tifffile.TiffFile(path) as file:
        at, n = file.pages[7].dataoffsets[0], file.pages[7].databytecounts[0]
    path.write_bytes(content[:at] + bytes(n) + content[at + n :])
    said = cli("segment", path, "run", *OPTIONS)
    assert said.code == 3
    assert "image.tif, region " in said.error
    assert not (tmp_path / "run" / "report.html").exists()
    assert cli("resume", "run").code == 3
    path.write_bytes(content)
    cli.does("resume", "run")
    same_results(tmp_path / "run", tmp_path / "sound")


def test_convert_of_a_damaged_image(cli, tmp_path, image):
    """No half-made image is taken for a whole one; the same command goes on."""
    path = image_store(tmp_path / "image", image, chunks=(12, 14, WIDTH))
    chunk = chunk_files(path / "0")[BAD]
    content = chunk.read_bytes()
    chunk.write_bytes(cut(content))
    said = cli("convert", path, "new", "--workers", "1")
    assert said.code == 3
    assert "Give the same command again" in said.error
    chunk.write_bytes(content)
    before = listing(tmp_path)
    said = cli("convert", path, "new", "--workers", "1", "--labels")
    assert said.code == 2
    assert listing(tmp_path) == before
    cli.does("convert", path, "new", "--workers", "1")
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "new" / "0", mode="r")[...], image)
    assert not (tmp_path / "new.progress").exists()
