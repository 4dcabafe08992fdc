"""Where output may go, and folders that are no run: exit 2, and nothing is lost."""

import json

import pytest
import tifffile
import zarr
from command_line import QUICK, cells_image
from test_volumes_open import image_store, numbers

from cellseg3d_dist.engine.folder import RunFolder

SIZE = ("--voxel-size", "1,1,1")


@pytest.fixture
def image(tmp_path):
    return image_store(tmp_path / "image.zarr", numbers())


# where output may go


def test_output_in_on_or_around_an_input(cli, tmp_path, image):
    tifffile.imwrite(tmp_path / "a.tif", numbers(), metadata={"axes": "ZYX"})
    truth = image_store(tmp_path / "truth" / "truth.zarr", numbers())
    outer = tmp_path / "outer.zarr"
    zarr.open_group(outer, mode="w")
    image_store(outer / "tile", numbers())
    (tmp_path / "link").symlink_to(image)
    for source, out, match, options in [
        (image, image, "output .*image.zarr is the input", ()),
        (image, image / "run", "output .*run lies in the input .*image.zarr", ()),
        (image, image / "0" / "c" / "run", "lies in the input", ()),
        (image, tmp_path, "output .* holds the input", ()),
        (image, "image.zarr", "is the input", ()),
        (image, "x/../image.zarr/run", "lies in the input", ()),
        ("link", image / "run", "lies in the input", ()),
        (image, "link/run", "lies in the input", ()),
        (f"file://{image}", image / "run", "lies in the input", ()),
        (outer, outer / "run", "lies in the input .*outer.zarr", ()),
        ("a.tif", "a.tif", "is the input", SIZE),
        ("a.tif", "a.tif/run", "lies in the input", SIZE),
        (image, truth / "run", "lies in the input .*truth.zarr", ("--labels-true", truth)),
        (image, tmp_path / "truth", "holds the input", ("--mask", truth)),
    ]:
        for overwrite in ((), ("--overwrite",)):
            cli.refuses("segment", source, out, *QUICK, *options, *overwrite, match=match)
    cli.refuses("convert", image, image / "new", match="lies in the input")
    cli.refuses("convert", image, image, match="is the input")


def test_output_that_is_not_ours(cli, tmp_path, image):
    (tmp_path / "file").write_text("precious")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_text("x")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "run.json").write_text('{"program": "other", "status": "complete"}')
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "run.json").write_text("[" * 5_000)
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name, match in [
        ("file", "file exists and is a file. Choose another folder"),
        ("file/run", "cannot be created: .*file is a file"),
        ("full", "not empty and not the output of an earlier run. Choose another"),
        ("foreign", "not empty and not the output of an earlier run"),
        ("odd", "not empty and not the output of an earlier run"),
        ("link", "is a link"),
        ("dangling", "is a link"),
        ("loop", "is a link|cannot be used"),
        ("loop/run", "cannot be used"),
        ("x" * 300, "File name too long|Shorten"),
        ("y/" * 2500, "File name too long|Shorten"),
        ("/", "is a mount point|is or holds|holds the input"),
        ("/proc", "is a mount point"),
        ("", "is not a path|working folder|holds the input"),
        ("a\udcff", "is not valid UTF-8"),
    ]:
        for overwrite in ((), ("--overwrite",)):
            cli.refuses("segment", image, name, *QUICK, *overwrite, match=match)
    cli.does("segment", image, "empty", *QUICK)
    cli.refuses("segment", image, "link", *QUICK, "--overwrite", match="is a link")


def test_home_and_working_folder(cli, tmp_path, run_folder, monkeypatch):
    """Not even where they are the output of an earlier run."""
    image = image_store(tmp_path / "elsewhere" / "image.zarr", numbers())
    (run_folder / "deeper").mkdir()
    monkeypatch.chdir(run_folder / "deeper")
    for out in (run_folder, ".."):
        cli.refuses("segment", image, out, "--overwrite", match="is or holds the working folder")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(run_folder))
    for out in (run_folder, "~"):
        cli.refuses("segment", image, out, "--overwrite", match="is or holds the home folder")


def test_an_earlier_run_is_replaced_only_when_asked(cli, tmp_path, image, run_folder):
    line = cli.refuses("segment", image, "run", *QUICK, match="run exists. To go on with it")
    assert f"cellseg3d-dist resume {run_folder}; --overwrite replaces it" in line
    # not for options that are wrong
    cli.refuses("segment", image, "run", "--overwrite", "--channel", "5", match="channel 5")
    (run_folder / "note").write_text("in our folder")
    cli.does("segment", image, "run", "--config", "run/run.yaml", "--overwrite")
    assert not (run_folder / "note").exists()
    assert json.loads((run_folder / "run.json").read_text())["plan"]["shape"] == [5, 6, 7]


def test_odd_names_of_folders(cli, tmp_path):
    name = "a [bold]b[/] :cat: <script>alert(1)</script> $(x) '\"\n\tü 細胞"
    path = tmp_path / f"in {name.replace('/', '_')}"
    out = tmp_path / f"out {name.replace('/', '_')}"
    image_store(path, cells_image((10, 12, 14)))
    said = cli.does("segment", path, out, *QUICK)
    assert str(out) in said.out
    page = (out / "report.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert str(out) in cli.does("status", out).out
    line = cli.refuses("segment", path, out, *QUICK, match="exists. To go on with it")
    assert "\\n\\tü 細胞" in line
    cli.does("resume", out)
    cli.does("report", out)


@pytest.mark.parametrize("length", [240, 255])
def test_long_names_of_folders(cli, tmp_path, image, length):
    cli.does("segment", image, "r" * length, *QUICK)
    assert (tmp_path / ("r" * length) / "report.html").exists()


# convert and phantom


def test_destinations_of_convert_and_phantom(cli, tmp_path, image):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_text("x")
    (tmp_path / "mine.progress").mkdir()
    (tmp_path / "mine.progress" / "precious").write_text("x")
    (tmp_path / "file").write_text("x")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name, match in [
        ("full", "full exists. Choose another name or remove it"),
        ("file", "file exists"),
        ("file/new", "cannot be created: .*file is a file"),
        ("dangling", "dangling exists"),
        ("mine", "mine.progress is not the output of a run"),
        ("x" * 250, "File name too long|Shorten"),
    ]:
        cli.refuses("convert", image, name, match=match)
        cli.refuses("phantom", name, "--shape", "16,16,16", match=match)
    cli.refuses("convert", image, "s3://bucket/new", match="is a URL; a path on this machine")
    cli.refuses("segment", image, "s3://bucket/new", *QUICK, match="is a URL; a path on this")
    zarr.save_array(tmp_path / "real", numbers().astype("f4"))
    cli.refuses("convert", "real", "new", "--labels", *SIZE, match="labels cannot be stored as f")
    cli.refuses("demo", "full", match="full exists and is not empty")
    cli.refuses("demo", "file", match="file exists and is not empty")


def test_convert_does_not_go_on_with_other_options(cli, tmp_path, image):
    folder = RunFolder(tmp_path / "new.progress", same_command=True)
    folder.path.mkdir()
    folder.write_status({"status": "running", "decides": {"kind": "labels"}})
    cli.refuses("convert", image, "new", match="new was begun with other options or another source")
