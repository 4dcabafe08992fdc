"""models list, show and convert: what they print, and what they refuse."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys

import pytest
import torch
from test_checkpoints import WIDTHS, published_wnet, saved
from test_weights import card_of, network_of

from cellseg3d_dist.networks import cards
from cellseg3d_dist.networks.weights import save_model


@pytest.fixture
def model(tmp_path):
    """A network in the working folder; its card as written."""
    card = card_of(scores={"f1": 0.6543211, "data": "validation"}, licence="CC BY 3.0")
    return save_model(tmp_path / "nuclei", network_of(card), card)


@pytest.fixture
def checkpoint(tmp_path):
    return saved(tmp_path / "wnet.pth", published_wnet())


def test_show_tells_what_is_on_the_card(cli, model, tmp_path):
    said = cli.does("models", "show", "nuclei.safetensors").out
    lines = dict(line.split(maxsplit=1) for line in said.splitlines())
    assert lines["architecture"] == "unet"
    assert lines["architecture_options"] == "widths 8,16"
    assert lines["voxel_size"] == "2,1,1"
    assert lines["scores"] == "f1 0.654321, data validation"
    assert lines["licence"] == "CC BY 3.0"
    assert lines["sha256"] == model.sha256
    assert lines["file"] == str(tmp_path / "nuclei.safetensors")
    assert lines["size"].endswith(" MB")
    # nothing to say
    assert "decoder" not in lines
    for name in ("nuclei", "nuclei.json", "."):
        assert cli.does("models", "show", name).out == said


def test_show_as_json_is_the_card(cli, model):
    assert json.loads(cli.does("models", "show", "nuclei", "--json").out) == json.loads(
        model.to_json()
    )


def test_list_is_a_table_of_what_is_bundled(cli, model, tmp_path, monkeypatch):
    monkeypatch.setattr(cards, "BUNDLED", tmp_path)
    heading, line = cli.does("models", "list").out.splitlines()
    assert heading.split()[:3] == ["name", "architecture", "represents"]
    assert line.split()[:4] == ["nuclei", "unet", "boundary", "2,1,1"]
    assert "f1 0.654321" in line
    (shown,) = json.loads(cli.does("models", "list", "--json").out)
    assert shown["name"] == "nuclei"
    assert shown["bytes"] == (tmp_path / "nuclei.safetensors").stat().st_size
    assert shown["card"] == json.loads(model.to_json())
    assert cli.does("models", "show", "nuclei").code == 0


def test_list_needs_no_torch():
    code = (
        "import sys; from cellseg3d_dist.cli import run; code = run(['models', 'list']); "
        "sys.exit(code or int('torch' in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


def test_convert_and_show(cli, checkpoint, tmp_path):
    said = cli.does(
        "models", "convert", "wnet.pth", "sub/wnet", "--licence", "MIT", "--voxel-size", "5,2,2",
        "--foreground-channel", "1", "--threshold", "0.6", "--half",
    )  # fmt: skip
    card = json.loads((tmp_path / "sub" / "wnet.json").read_text())
    assert card["architecture"] == "wnet3d"
    assert card["architecture_options"] == {"widths": list(WIDTHS)}
    assert card["representation_options"] == {"classes": 2, "foreground_channel": 1}
    assert (card["voxel_size"], card["threshold"]) == ([5, 2, 2], 0.6)
    assert (card["input_scale"], card["axes"], card["licence"]) == (100, "xyz", "MIT")
    shown = cli.does("models", "show", "sub").out
    assert shown.startswith(said.out)
    assert cli.refuses("models", "convert", "wnet.pth", "sub/wnet", match="exists. Choose another")
    cli.does("models", "convert", "wnet.pth", "sub/wnet", "--overwrite", "--foreground-channel", 0)


def test_options_of_the_architecture(cli, checkpoint):
    given = ("models", "convert", "wnet.pth", "a", "--foreground-channel", "1")
    cli.does(*given, "--architecture-option", "dropout=0.5")
    wrong = (
        ("dropout", "'dropout' must be NAME=VALUE"),
        ("dropout=often", "option dropout 'often' must be a fraction"),
        ("drop-out=0.5", "did you mean dropout"),
    )
    for text, match in wrong:
        cli.refuses(*given, "--overwrite", "--architecture-option", text, match=match)


class Code:
    def __reduce__(self):
        return (print, ("run",))


def test_what_convert_refuses(cli, checkpoint, tmp_path):
    (tmp_path / "code.pth").write_bytes(pickle.dumps({"x": Code()}, protocol=2))
    (tmp_path / "cut.pth").write_bytes(checkpoint.read_bytes()[:999])
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "pointer.pth").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    saved(tmp_path / "other.pth", {"weight": torch.zeros(2)})
    cases = (
        ("missing.pth", "missing.pth cannot be read"),
        ("code.pth", "That could run code, so it was not loaded"),
        ("cut.pth", "truncated or damaged"),
        ("empty.pth", "are empty"),
        ("pointer.pth", "git-lfs pointer"),
        ("other.pth", "of no known architecture"),
        ("os:system", "cannot be read"),
    )
    for name, match in cases:
        cli.refuses("models", "convert", name, "sub/out", match=match)
    convert = ("models", "convert", "wnet.pth")
    # random weights do not tell foreground from background
    cli.refuses(*convert, "out", "--architecture", "vnet", match="is not of the architecture vnet")
    cli.refuses(*convert, "out", "--voxel-size", "1,2", match="--voxel-size '1,2' must be three")
    cli.refuses(*convert, "out", "--threshold", "2", "--foreground-channel", "1", match="threshold")
    cli.refuses(*convert, "a:b", "--foreground-channel", "1", match="name 'a:b' must be")


def test_what_show_refuses(cli, model, tmp_path):
    cli.refuses("models", "show", "os:system", match="there is no model 'os:system'")
    cli.refuses("models", "show", "wnet.pth", match="Convert it first")
    content = bytearray((tmp_path / "nuclei.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "nuclei.safetensors").write_bytes(content)
    cli.refuses("models", "show", "nuclei", match="SHA-256")
    (tmp_path / "nuclei.json").unlink()
    cli.refuses("models", "show", "nuclei", match="their card .* cannot be found")


def test_help_of_models(cli):
    cli.refuses("models", match="Missing command.*cellseg3d-dist models --help")
    listed = cli.does("models", "--help").out
    for command in ("list", "show", "convert"):
        assert command in listed
        assert cli.does("models", command, "-h").out == cli.does("models", command, "--help").out
