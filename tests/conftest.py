"""Fixtures shared by all tests."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from command_line import CommandLine
    from distributed import Client

# as many processes as cores run tests: a thread each, also in what they start
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real volumes beside the checkout; tests that need it are skipped without."""
    folder = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the folder of real volumes (../shared/data) is not here")
    return folder.resolve()


@pytest.fixture(scope="session")
def client_of() -> Iterator[Callable[[int], Client]]:
    """Clients of local clusters by their number of workers, each started once a session."""
    from cellseg3d_dist.engine.clusters import connect

    with contextlib.ExitStack() as stack, tempfile.TemporaryDirectory() as scratch:
        started: dict[int, Client] = {}

        def client(workers: int) -> Client:
            if workers not in started:
                folder = str(Path(scratch) / str(workers))
                own = connect(None, None, workers, 4 * 2**30, folder)
                started[workers] = stack.enter_context(own)
            return started[workers]

        yield client


@pytest.fixture
def cli(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> CommandLine:
    """The command line, run in this process with an empty folder as its working folder."""
    from command_line import CommandLine

    monkeypatch.chdir(tmp_path)
    return CommandLine(tmp_path, capsys)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an image and a finished run of it."""
    from command_line import cells_image
    from test_volumes_open import image_store

    from cellseg3d_dist import segment

    root = tmp_path_factory.mktemp("finished")
    image_store(root / "image.zarr", cells_image((10, 12, 14)))
    options = {"model": "intensity", "spot_sigma": 1, "outline_sigma": 1}
    segment(root / "image.zarr", root / "run", executor="serial", **options)
    return root


@pytest.fixture
def run_folder(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, whose image lies elsewhere."""
    return Path(shutil.copytree(finished / "run", tmp_path / "run"))
