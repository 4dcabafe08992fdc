"""Options and config files: the key, what it must be, exit 2; help that helps."""

import os
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import yaml
import zarr
from command_line import QUICK
from test_volumes_open import image_store, numbers

from cellseg3d_dist.config import SegmentConfig


@pytest.fixture
def image(tmp_path):
    return image_store(tmp_path / "image.zarr", numbers())


@pytest.fixture
def refuses(cli, image):
    """Refuses options, alike on the command line and in a config file."""

    def refuses(*arguments, match, code=2):
        return cli.refuses("segment", image, "out", *arguments, match=match, code=code)

    return refuses


WRONG = [
    ("workers", "0", "workers '?0'? must be a whole number of processes from 1 to 4096"),
    ("workers", "99999", "from 1 to 4096"),
    ("flood_halo", "-3", "flood_halo '?-3'? must be a whole number of voxels from 1"),
    ("flood_halo", "0", "from 1 to 4096"),
    ("channel", "-1", "channel '?-1'? must be"),
    ("time", "-1", "time '?-1'? must be"),
    ("level", "-1", "level '?-1'? must be"),
    ("connectivity", "7", "connectivity '?7'? must be 6, 18 or 26"),
    ("threshold", "high", "threshold 'high' must be otsu, or a number in the image's units"),
    ("threshold", "nan", "threshold"),
    ("threshold", "inf", "threshold"),
    ("threshold", "-1", "threshold -1 is outside the range of uint16, 0 to 65535"),
    ("threshold", "65536", "outside the range of uint16"),
    ("spot_sigma", "-1um", "spot_sigma '-1um' must be a length of at least 0 such as 3.2um"),
    ("outline_sigma", "2 parsec", "outline_sigma '2 parsec' must be a length"),
    ("spot_sigma", "1e9", "spot_sigma 1e.09 is 1e.09 voxels along one axis .* limit of 256"),
    ("min_volume", "5um", "min_volume '5um' must be a volume .* 200um3"),
    ("voxel_size", "1,1", "voxel_size '1,1' must be three numbers above 0, z,y,x in micrometres"),
    ("voxel_size", "0,1,1", "voxel_size"),
    ("voxel_size", "1,1,nan", "voxel_size"),
    ("block_shape", "0,8,8", "block_shape '0,8,8' must be three whole numbers of at least 1"),
    ("block_shape", "8", "block_shape '?8'? must be three"),
    ("region", "0:2,0:2", "region '0:2,0:2' must be z0:z1,y0:y1,x0:x1"),
    ("region", "3:1,0:2,0:2", "with 0 <= start < stop"),
    ("region", "0:6,0:6,0:7", r"region 0:6,0:6,0:7 is not inside .* shape \(5, 6, 7\)"),
    ("memory_limit", "2XB", "memory_limit '2XB' must be bytes per worker .* 2GB"),
    ("memory_limit", "0", "memory_limit '?0'? must be"),
    ("memory_limit", "1MB", "needs .* GiB .* over 80% of memory_limit .* Use"),
    ("executor", "slurm", "executor 'slurm' must be dask or serial"),
    ("instances", "magic", "instances 'magic' must be"),
    ("backend", "cuda", "backend 'cuda' must be"),
    ("device", "cuda", "device 'cuda' is for networks"),
    ("ome_zarr", "0.6", "ome_zarr '?0.6'? must be 0.5 or 0.4"),
]


@pytest.mark.parametrize(("key", "value", "match"), WRONG)
def test_wrong_values(refuses, tmp_path, key, value, match):
    option = f"--{key.replace('_', '-')}"
    refuses(option, value, match=match)
    # whatever YAML makes of it
    (tmp_path / "run.yaml").write_text(f"{key}: {value}\n")
    refuses("--config", "run.yaml", match=match)


def test_several_wrong_values_are_one_line(refuses):
    line = refuses("--channel", "-1", "--threshold", "x", match="channel '?-1'? must be")
    assert "threshold 'x' must be" in line


def test_volumes_the_wrong_way_round(refuses):
    refuses("--min-volume", "9", "--max-volume", "1um3", match="min_volume 9 is above max_volume")


def test_halo_as_large_as_the_block(cli, image, refuses):
    halo = ("--flood-halo", "4", "--block-shape", "5,4,4")
    refuses(*halo, match=r"flood_halo 4 is not below block_shape \(5, 4, 4\) along y")
    # an axis that is not cut has no halo, and a halo chosen here is always legal
    cli.does("plan", image, "--flood-halo", "4", "--block-shape", "1000,5,7")
    cli.does("plan", image, "--block-shape", "1,1,1")


def test_more_blocks_than_the_driver_can_hold(cli, tmp_path):
    zarr.create_array(tmp_path / "large", shape=(2000, 2000, 2000), chunks=(64,) * 3, dtype="u1")
    cli.refuses(
        "plan", "large", "--voxel-size", "1,1,1", "--block-shape", "1,1,1",
        match=r"block_shape \(1, 1, 1\) .* 8000000000 blocks, over the limit",
    )  # fmt: skip


def test_what_the_parser_refuses(cli, image):
    for arguments, match in [
        (["segment"], "Missing argument 'IMAGE'.* See: cellseg3d-dist segment --help"),
        (["segment", image], "Missing argument 'OUT'"),
        (["segment", image, "out", "more"], "unexpected extra argument"),
        (["segment", image, "out", "--treshold", "5"], "No such option: --treshold.*--threshold"),
        (["segment", image, "out", "--workers", "two"], "workers 'two' must be a whole number"),
        (["segment", image, "out", "--threshold"], "--threshold.* requires an argument"),
        (["segmnt", image, "out"], "No such command 'segmnt'"),
        (["phantom", "p", "--shape", "8,8"], "--shape '8,8' must be three whole numbers"),
        (["phantom", "p", "--shape", "8,0,8"], "--shape '8,0,8' must be three whole numbers"),
        (["phantom", "p", "--shape", "8,8,8", "--block-shape", "a,1,1"], "--block-shape 'a,1,1'"),
        (["phantom", "p", "--voxel-size", "1,1"], "--voxel-size '1,1' must be three numbers"),
        (["phantom", "p", "--seed", "-1"], "'--seed'"),
        (["phantom", "p", "--dtype", "int8"], "dtype 'int8' must be one of uint8, uint16"),
        (["phantom", "p", "--density", "2"], "density 2 must be at least 0 and at most 1"),
        (["phantom", "p", "--spacing", "nan"], "spacing nan must be"),
        (["phantom", "p", "--workers", "0"], "--workers '0' must be a whole number"),
        (["phantom", "p", "--shape", "99999999,99999999,99999999"], "99999999"),
        (["convert", image, "new", "--ome-zarr", "0.6"], "--ome-zarr '0.6' must be 0.5 or 0.4"),
        (["convert", image, "new", "--voxel-size", "a,1,1"], "--voxel-size 'a,1,1' must be three"),
        (["convert", image, "new", "--voxel-size", "0,1,1"], "voxel_size .* above 0"),
        (["convert", image, "new", "--workers", "a"], "--workers 'a' must be"),
        (["info", image, "--voxel-size", "1"], "--voxel-size '1' must be three numbers"),
        (["demo", "d", "--shape", "x"], "--shape 'x' must be three"),
    ]:
        cli.refuses(*arguments, match=match)


# config files


def test_config_files_that_are_none(refuses, tmp_path):
    bomb = "a: &a [1, 1]\n" + "".join(f"b{i}: [*a, *a]\n" for i in range(9))
    for content, match in [
        (b"threshold: !!python/object/apply:os.system ['touch hacked']\n", "YAML tags or aliases"),
        (b"!!python/name:os.system\n", "YAML tags or aliases"),
        (b"threshold: !!int 'x'\n", "YAML tags or aliases"),
        (bomb.encode(), "YAML tags or aliases. Write plain values"),
        (b"threshold: [1, 2\n", "is no plain YAML"),
        (b"\x00\x01", "is no plain YAML"),
        (b"\xff\xfe\xff", "is no plain YAML"),
        (b"[" * 5_000, "nested too deeply"),
        (b"channel: " + b"9" * 6_000, "is no plain YAML"),
        (b"- threshold\n", "must be a mapping of option names to values"),
        (b"3\n", "must be a mapping"),
        (b"1: 2\n", "must be a mapping"),
        (b"#" * 70_000, "is larger than 64 KiB"),
        (b"spot_sgima: 3\n", r"config run.yaml: unknown option 'spot_sgima' \(did you mean spot_"),
        (b"spot-sgima: 3\n", "did you mean spot_sigma"),
        (b"qqq: 3\n", "unknown option 'qqq' .*known are image, model, "),
        (b"overwrite: true\n", "unknown option 'overwrite'"),
        (b"channel: yes\n", "config run.yaml: channel True must be a whole number"),
        (b"threshold: on\n", "threshold True must be"),
        (b"voxel_size: {z: 1}\n", "voxel_size .* must be three numbers"),
        (b"mask: [a]\n", r"mask \['a'\] must be a path or URL"),
        (b"csv: maybe\n", "csv 'maybe' must be true or false"),
        (b"spot_sigma: {value: -1, in_micrometres: true}\n", "spot_sigma .* must be a length"),
    ]:
        (tmp_path / "run.yaml").write_bytes(content)
        refuses("--config", "run.yaml", match=match)
    assert not (tmp_path / "hacked").exists()
    refuses("--config", "gone.yaml", match="config gone.yaml cannot be read: No such file")
    (tmp_path / "folder").mkdir()
    refuses("--config", "folder", match="config folder cannot be read: Is a directory")


def test_every_option_is_a_key_and_the_command_line_wins(cli, image, tmp_path):
    keys = {"threshold": 300, "flood-halo": 3, "spot_sigma": "1.5um", "voxel_size": "1,2,3",
            "region": "0:4,0:4,0:4", "ome_zarr": 0.4, "connectivity": 26}  # fmt: skip
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(keys))
    cli.does("segment", image, "one", "--config", "a.yaml", *QUICK, "--threshold", "20")
    resolved = yaml.safe_load((tmp_path / "one" / "run.yaml").read_text())
    assert resolved["threshold"] == 20.0
    assert resolved["spot_sigma"] == "1"
    assert resolved["ome_zarr"] == "0.4"
    assert resolved["region"] == "0:4,0:4,0:4"
    assert resolved["voxel_size"] == [1.0, 2.0, 3.0]
    assert resolved["image"] == str(image)
    # and what was resolved is a config again
    cli.does("segment", image, "two", "--config", "one/run.yaml")
    assert yaml.safe_load((tmp_path / "two" / "run.yaml").read_text()) == resolved
    shown = cli.does("segment", "--help").out
    # relabel alone sets earlier_run
    for key in set(SegmentConfig.model_fields) - {"image", "earlier_run"}:
        assert f"--{key.replace('_', '-')} " in shown


# help


@pytest.mark.parametrize(
    "command",
    ["segment", "resume", "status", "plan", "info", "convert", "report", "phantom", "demo"],
)
def test_help_of_commands(cli, command):
    listed = cli.does("--help").out
    shown = cli.does(command, "--help").out
    assert cli.does(command, "-h").out == shown
    assert f"Usage: cellseg3d-dist {command} [OPTIONS]" in shown
    (line,) = [line for line in listed.splitlines() if line.startswith(f"  {command} ")]
    assert not line.endswith("...")
    # types of Python are no help
    options = [line for line in shown.splitlines() if line.startswith("  --")]
    assert not [line for line in options if "<" in line]


def test_no_arguments_show_the_help(cli):
    said = cli()
    assert said.code == 2
    assert said.err == ""
    assert said.out == cli.does("--help").out
    assert "Exit codes: 0 done, 2 bad input" in " ".join(said.out.split())
    assert cli.does("--version").out.startswith("cellseg3d-dist 0.")


def test_plan_tells_and_creates_nothing(cli, image):
    said = cli.does("plan", image, "--workers", "1", "--block-shape", "5,6,4")
    assert said.out.startswith("2 blocks of 5x6x4 voxels in a volume of 5x6x7, 1 worker\n")
    assert [path.name for path in image.parent.iterdir()] == ["image.zarr"]


def test_names_are_not_markup(cli, tmp_path):
    """What rich would take for markup or an emoji is printed as it is."""
    path = image_store(tmp_path / "a[bold]b :cat: c", numbers())
    assert str(path) in cli.does("info", path).out


def test_a_closed_pipe_is_no_error(image):
    """As in ``cellseg3d-dist info image | true``."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "cellseg3d_dist", "info", str(image)]
    done = subprocess.run(
        command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60, check=False
    )
    os.close(writing)
    assert done.returncode == 0
    assert done.stderr == ""


# schedulers


def test_unreachable_scheduler(refuses, tmp_path, monkeypatch):
    match = "scheduler {} cannot be reached within . s. Check the address"
    began = time.monotonic()
    refuses("--scheduler", "tcp://127.0.0.1:1", match=match.format("tcp://127.0.0.1:1"), code=4)
    assert time.monotonic() - began < 10
    monkeypatch.setattr("cellseg3d_dist.engine.clusters._CONNECT_SECONDS", 1)
    (tmp_path / "scheduler.json").write_text("{}")
    for address in ("no-such-host.invalid:8786", "nonsense", "scheduler.json"):
        refuses("--scheduler", address, match=match.format(f".*{address}"), code=4)
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", "tcp://127.0.0.1:2")
    refuses("--channel", "0", match=match.format("tcp://127.0.0.1:2"), code=4)


@pytest.mark.parametrize("banner", [b"", b"SSH-2.0-something\r\n", b"\0" * 64])
def test_something_else_answers(refuses, banner, monkeypatch):
    """The dashboard's port, or any other server, given for the scheduler's."""
    monkeypatch.setattr("cellseg3d_dist.engine.clusters._CONNECT_SECONDS", 1)
    server = socket.create_server(("127.0.0.1", 0))
    held = []

    def serve():
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            connection.sendall(banner)
            held.append(connection)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    began = time.monotonic()
    address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
    refuses("--scheduler", address, match=f"scheduler {address} cannot be reached", code=4)
    assert time.monotonic() - began < 10
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join()
    for connection in held:
        connection.close()


def test_other_versions_on_workers(client_of, tmp_path, monkeypatch):
    from cellseg3d_dist import segment
    from cellseg3d_dist.errors import EnvironmentFailedError

    client = client_of(1)
    found = client.get_versions(packages=["cellseg3d_dist", "numpy"])
    worker = next(iter(found["workers"].values()))
    worker["packages"]["numpy"] = "1.0"
    monkeypatch.setattr(client, "get_versions", lambda **options: found)
    monkeypatch.setattr("cellseg3d_dist.engine.clusters._SAME", ("cellseg3d_dist", "numpy"))
    with pytest.raises(EnvironmentFailedError, match=r"has numpy 1\.0, this process .* Install"):
        segment(
            np.zeros((2, 2, 2), "u1"),
            tmp_path / "out",
            voxel_size=(1, 1, 1),
            client=client,
            model="intensity",
        )
    assert not (tmp_path / "out").exists()
