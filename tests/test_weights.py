"""Weights and cards: they come back as they were, and what is wrong is one line."""

from __future__ import annotations

import hashlib
import json
import pickle
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors.numpy import load_file

from cellseg3d_dist.errors import EnvironmentFailedError, WeightsError
from cellseg3d_dist.networks import cards, hub
from cellseg3d_dist.networks.cards import Card, make_card, read_card, read_weights, resolve
from cellseg3d_dist.networks.registry import build, for_inference
from cellseg3d_dist.networks.weights import load_model, save_model
from cellseg3d_dist.representations import representation

SMALL = {
    "wnet3d": {"widths": (8, 8, 12, 16)},
    "unet": {"widths": (8, 16)},
    "residual_unet": {"widths": (8, 8, 16, 16, 16)},
    "segresnet": {"init_filters": 8},
}


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def card_of(architecture="unet", meaning="boundary", **more):
    options = {"architecture_options": SMALL[architecture]} | more
    return Card(
        name="a", architecture=architecture, representation=meaning, voxel_size=(2, 1, 1), **options
    )


def network_of(card):
    n_outputs = representation(card.representation, **card.representation_options).n_outputs
    return build(card.architecture, 1, n_outputs, **card.architecture_options)


@pytest.fixture
def saved(tmp_path):
    """A small network as files; path of the weights."""
    card = card_of()
    save_model(tmp_path / "a", network_of(card), card)
    return tmp_path / "a.safetensors"


def rewrite(path, state=None, card=None, content=None):
    """Other tensors, bytes or keys of the card; the card tells of what is there."""
    if state is not None:
        safetensors.torch.save_file(state, path)
    if content is not None:
        path.write_bytes(content)
    values = json.loads(path.with_suffix(".json").read_text())
    values["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_suffix(".json").write_text(json.dumps(values | (card or {})))


@pytest.mark.parametrize("architecture", SMALL)
def test_a_network_comes_back(tmp_path, architecture):
    card = card_of(architecture)
    network = network_of(card)
    written = save_model(tmp_path / "sub" / "a.safetensors", network, card)
    model = load_model(tmp_path / "sub")
    assert model.card == written
    assert written == card.model_copy(update={"sha256": model.digest})
    content = (tmp_path / "sub" / "a.safetensors").read_bytes()
    assert model.digest == hashlib.sha256(content).hexdigest()
    assert model.representation == representation("boundary")
    assert not any(module.training for module in model.network.modules())
    image = torch.rand(1, 1, 16, 32, 16)
    with torch.inference_mode():
        expected = for_inference(network).eval()(image)
        assert torch.equal(model.network(image), expected)
    # and once more from what was loaded
    assert save_model(tmp_path / "b", model.network, card).sha256 == model.digest


def test_swinunetr_comes_back(tmp_path):
    pytest.importorskip("einops")
    card = card_of("unet", architecture_options={"feature_size": 12, "legacy_merging": True})
    card = card.model_copy(update={"architecture": "swinunetr"})
    network = network_of(card)
    save_model(tmp_path / "a", network, card)
    loaded = load_model(tmp_path / "a").network.state_dict()
    assert list(loaded) == list(network.state_dict())
    assert all(torch.equal(loaded[name], value) for name, value in network.state_dict().items())


def test_a_wnet_keeps_its_encoder_only(tmp_path):
    card = card_of("wnet3d", "foreground", representation_options={"classes": 2})
    network = network_of(card)
    save_model(tmp_path / "a", network, card)
    stored = load_file(tmp_path / "a.safetensors")
    assert set(stored) == set(network.encoder.state_dict())


def test_half_precision_is_half_the_size_and_comes_back_as_float32(tmp_path):
    card = card_of()
    network = network_of(card)
    save_model(tmp_path / "whole", network, card)
    save_model(tmp_path / "half", network, card, half=True)
    stored = load_file(tmp_path / "half.safetensors")
    assert {array.dtype for array in stored.values()} == {np.dtype(np.float16)}
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("half", "whole")]
    assert sizes[0] < 0.6 * sizes[1]
    for name, parameter in load_model(tmp_path / "half").network.state_dict().items():
        assert parameter.dtype == torch.float32
        np.testing.assert_array_equal(parameter.numpy(), stored[name].astype(np.float32))


@pytest.mark.parametrize(("value", "half"), [(np.nan, False), (np.inf, False), (1e6, True)])
def test_what_is_not_finite_is_not_written(tmp_path, value, half):
    card = card_of()
    network = network_of(card)
    with torch.no_grad():
        next(network.parameters()).flatten()[3] = value
    with pytest.raises(WeightsError, match="not finite"):
        save_model(tmp_path / "a", network, card, half=half)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentFailedError, match="cannot be written"):
        save_model(tmp_path / "file" / "a", network_of(card_of()), card_of())


def test_a_network_gets_its_input_as_in_its_training(tmp_path):
    card = card_of(input_scale=100.0, axes="xyz")
    network = network_of(card)
    save_model(tmp_path / "a", network, card)
    model = load_model(tmp_path / "a")
    image = torch.rand(1, 1, 8, 16, 32)
    with torch.inference_mode():
        expected = network.eval()(100 * image.transpose(2, 4)).transpose(2, 4)
        torch.testing.assert_close(model.network(image), expected)
    assert save_model(tmp_path / "b", model.network, card).sha256 == model.digest


@pytest.mark.parametrize("name", ["a.safetensors", "a.json", "a", ""])
def test_paths_that_lead_to_a_model(saved, monkeypatch, name):
    monkeypatch.chdir(saved.parent)
    for given in (saved.parent / name, name or "."):
        assert resolve(given) == cards.Located(saved, saved.with_suffix(".json"))


def test_bundled_weights_go_by_name(saved, monkeypatch):
    monkeypatch.setattr(cards, "BUNDLED", saved.parent)
    saved.rename(saved.with_name("nuclei-fast.safetensors"))
    saved.with_suffix(".json").rename(saved.with_name("nuclei-fast.json"))
    assert cards.bundled() == ("nuclei-fast",)
    assert load_model("nuclei-fast").card.name == "a"
    with pytest.raises(WeightsError, match=r"no model 'nuclei'. Did you mean nuclei-fast\?"):
        resolve("nuclei")


def test_every_bundled_model_is_whole():
    for name in cards.bundled():
        found = resolve(name)
        read_weights(found, read_card(found.card))


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("os:system", "there is no model 'os:system'. Known are intensity"),
        ("intensty", "Did you mean intensity"),
        ("", "there is no model ''"),
        ("a\nb", "there is no model 'a b'"),
        ("https://example.org/a.safetensors", "there is no model 'https"),
        ("missing.safetensors", "weights .*missing.safetensors cannot be found"),
        ("alone.safetensors", "their card .*alone.json cannot be found"),
        ("published.pth", "Convert it first: cellseg3d-dist models convert published.pth"),
        (".", "holds 0 .safetensors files where one is needed"),
        ("hub:owner/name@main/a.safetensors", "commit hash"),
        ("hub:owner/name/a.safetensors", "must have the form hub:"),
        (f"hub:owner/../name@{'0' * 40}/a.safetensors", "must have the form hub:"),
        (f"hub:owner/name@{'0' * 40}/../a.safetensors", "must have the form hub:"),
    ],
)
def test_names_that_lead_nowhere(tmp_path, monkeypatch, name, match):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "alone.safetensors").write_text("")
    name = f"sub/{name}" if name.startswith("alone") else name
    with pytest.raises(WeightsError, match=match) as caught:
        resolve(name)
    assert "\n" not in str(caught.value)


def test_a_folder_with_two_models(saved):
    saved.with_name("b.safetensors").write_bytes(saved.read_bytes())
    with pytest.raises(WeightsError, match=r"holds 2 \.safetensors files"):
        resolve(saved.parent)


class Code:
    def __reduce__(self):
        return (eval, ("1",))


CONTENTS = {
    "empty": (b"", "are empty"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-lfs pointer"),
    "pickle": (pickle.dumps(Code()), "are a checkpoint, not safetensors"),
    "zip": (b"PK\x03\x04rest", "are a checkpoint, not safetensors"),
    "text": (b"hello, world " * 9, "truncated or damaged, or no safetensors"),
    "short": (b"abc", "truncated or damaged, or no safetensors"),
    "header": (b"\xff" * 8 + b"{}", "truncated or damaged, or no safetensors"),
}


@pytest.mark.parametrize("kind", CONTENTS)
def test_files_that_are_no_weights(saved, kind):
    content, match = CONTENTS[kind]
    rewrite(saved, content=content)
    with pytest.raises(WeightsError, match=match) as caught:
        load_model(saved)
    assert str(saved) in str(caught.value)


@pytest.mark.parametrize("kept", [1, 9, 100, 0.5, -1])
def test_truncated_weights(saved, kept):
    content = saved.read_bytes()
    saved.write_bytes(content[: int(kept * len(content)) if kept == 0.5 else kept])
    with pytest.raises(WeightsError, match="truncated or damaged"):
        load_model(saved)
    # a card that was made for it does not help
    rewrite(saved)
    with pytest.raises(WeightsError, match="truncated or damaged, or no safetensors"):
        load_model(saved)


def test_weights_of_another_card(saved):
    content = bytearray(saved.read_bytes())
    content[-1] ^= 1
    saved.write_bytes(content)
    with pytest.raises(WeightsError, match=r"SHA-256 .*\.\.\., their card tells of [0-9a-f]{12}"):
        load_model(saved)
    card = json.loads(saved.with_suffix(".json").read_text())
    saved.with_suffix(".json").write_text(json.dumps(card | {"sha256": ""}))
    with pytest.raises(WeightsError, match="tells of none"):
        load_model(saved)


def test_a_file_too_large_to_be_weights(saved, monkeypatch):
    monkeypatch.setattr(cards, "_LARGEST_WEIGHTS", 100)
    with pytest.raises(WeightsError, match="larger than"):
        load_model(saved)


def state_without(state, *names):
    return {key: value for key, value in state.items() if key not in names}


def test_weights_that_do_not_fit_the_card(saved):
    state = safetensors.torch.load_file(saved)
    first, second, *_ = state
    cases = [
        (state_without(state, first), rf"1 missing \({first}\)"),
        (state | {"extra.weight": torch.zeros(1)}, r"1 unexpected \(extra.weight\)"),
        (state | {first: torch.zeros(3, 2)}, rf"1 of another shape \({first} 3x2, not "),
        ({}, rf"{len(state)} missing .* and {len(state) - 4} more\)"),
    ]
    for changed, match in cases:
        rewrite(saved, changed)
        with pytest.raises(WeightsError, match=f"architecture unet.*{match}"):
            load_model(saved)
    poisoned = state | {second: torch.full_like(state[second], torch.nan)}
    rewrite(saved, poisoned)
    with pytest.raises(WeightsError, match=f"{second} has values that are not finite"):
        load_model(saved)


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"architecture": "vnet", "architecture_options": {}}, "unexpected"),
        ({"architecture_options": {"widths": [8, 24]}}, "of another shape"),
        ({"architecture_options": {"widths": [4096, 4096]}}, "of another shape"),
        ({"architecture_options": {"width": [8, 16]}}, "did you mean widths"),
        ({"architecture": "unnet"}, "unknown architecture 'unnet' .did you mean unet"),
        ({"architecture": "os:system"}, "architecture 'os:system' must be the name"),
        ({"representation": "foreground"}, "of another shape"),
        ({"representation": "borders"}, "representation 'borders' is unknown"),
        ({"representation_options": {"x": 1}}, "no option 'x'"),
        ({"decoder": {"threshhold": 1}}, "no option 'threshhold'"),
        ({"in_channels": 3}, "in_channels 3 must be 1"),
        ({"patch": [63, 64, 64]}, r"patch \(63, 64, 64\) must be multiples of \(2, 2, 2\)"),
    ],
)
def test_cards_that_do_not_fit(saved, changed, match):
    rewrite(saved, card=changed)
    with pytest.raises(WeightsError, match=match) as caught:
        load_model(saved)
    assert "\n" not in str(caught.value)


GOOD = {"name": "a", "architecture": "unet", "representation": "bcd", "voxel_size": [1, 1, 1]}


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"name": None}, "name None must be"),
        ({"name": "../a"}, "must be a name of letters"),
        ({"licence": ""}, "licence '' must be"),
        ({"voxel_size": [1, 1]}, "voxel_size .* must be three numbers above 0"),
        ({"voxel_size": [1, 0, 1]}, "three numbers above 0"),
        ({"voxel_size": [1, float("nan"), 1]}, "three numbers above 0"),
        ({"patch": [0, 64, 64]}, "whole numbers from 1 to 2048"),
        ({"patch": [2048, 2048, 2048]}, "patch"),
        ({"halo": [32, 16, 16]}, "less than half of the patch"),
        ({"halo": [-1, 16, 16]}, "halo"),
        ({"threshold": 1.5}, "threshold 1.5 must be a number from 0 to 1"),
        ({"normalisation": {"low": 9, "high": 1}}, "two percentages low < high"),
        ({"normalisation": {"lo": 1}}, "two percentages"),
        ({"architecture_options": {"widths": [10**9]}}, "numbers up to 4096"),
        ({"decoder": {"a": float("inf")}}, "decoder"),
        ({"foreground_channel": 1}, "that of representation_options"),
        ({"axes": "yxz"}, "zyx or xyz"),
        ({"sha256": "12"}, "64 hexadecimal digits"),
        ({"version": 2}, "version 2 must be 1"),
        ({"thresold": 0.5}, "unknown option 'thresold' .did you mean threshold"),
    ],
)
def test_wrong_keys_of_a_card(changed, match):
    make_card(GOOD)
    with pytest.raises(WeightsError, match=f"^card x: .*{match}"):
        make_card(GOOD | changed, "x")


def test_missing_keys_of_a_card():
    for key in GOOD:
        with pytest.raises(WeightsError, match=f"option {key} is missing"):
            make_card({k: value for k, value in GOOD.items() if k != key})


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "is no JSON"),
        ('{"name": ', "is no JSON"),
        ("[1]", "must be a mapping"),
        ("[" * 100_000, "is no JSON"),
        (b"\xff\xfe\xff", "is no JSON"),
        (" " * (1 << 20) + "{}", "larger than 1 MiB"),
    ],
)
def test_files_that_are_no_card(saved, text, match):
    path = saved.with_suffix(".json")
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(WeightsError, match=match):
        load_model(saved)
    path.unlink()
    with pytest.raises(WeightsError, match="cannot be read: No such file"):
        read_card(path)


class FakeHub:
    """As much of huggingface_hub as is used."""

    class LocalEntryNotFoundError(FileNotFoundError, ValueError):
        pass

    class HfHubHTTPError(OSError):
        pass

    def __init__(self, folder, online=True):
        self.folder, self.online, self.calls = folder, online, []
        self.errors = types.SimpleNamespace(
            LocalEntryNotFoundError=self.LocalEntryNotFoundError, HfHubHTTPError=self.HfHubHTTPError
        )
        self.cached = set()

    def hf_hub_download(self, repo_id, filename, revision, local_files_only=False):
        if filename in self.cached:
            return str(self.folder / filename)
        if local_files_only or not self.online:
            raise self.LocalEntryNotFoundError("not cached")
        self.calls.append((repo_id, filename, revision))
        if not (self.folder / filename).exists():
            raise self.HfHubHTTPError("404: Entry\nNot Found")
        self.cached.add(filename)
        return str(self.folder / filename)


ADDRESS = f"hub:owner/cells@{'a1' * 20}/a.safetensors"


def test_weights_of_a_hub_are_pinned_and_cached(saved, monkeypatch):
    fake = FakeHub(saved.parent)
    monkeypatch.setattr(hub, "_client", lambda: fake)
    model = load_model(ADDRESS)
    assert fake.calls == [("owner/cells", f"a{s}", "a1" * 20) for s in (".safetensors", ".json")]
    # a node without a network finds what was loaded before
    fake.online = False
    assert load_model(ADDRESS).digest == model.digest
    assert len(fake.calls) == 2
    with pytest.raises(EnvironmentFailedError, match="not in the cache"):
        load_model(ADDRESS.replace("/a.", "/b."))
    fake.online = True
    with pytest.raises(WeightsError, match="404: Entry Not Found"):
        load_model(ADDRESS.replace("/a.", "/b."))


def test_a_hub_without_its_client(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(EnvironmentFailedError, match=r"Install cellseg3d_dist\[hub\]"):
        resolve(ADDRESS)


def test_bundled_weights_are_part_of_the_package():
    """The wheel takes every file of the package that git does not ignore."""
    root = Path(__file__).resolve().parents[1]
    ignored = (root / ".gitignore").read_text().splitlines()
    assert cards.BUNDLED.is_relative_to(root / "cellseg3d_dist")
    assert not {"weights", "weights/", "*.safetensors", "*.json"} & set(ignored)


def test_every_key_of_a_card_is_described():
    text = (Path(__file__).resolve().parents[1] / "docs" / "models.md").read_text(encoding="utf-8")
    table = text.split("## The card")[1].split("##")[0]
    for key in Card.model_fields:
        assert f"`{key}`" in table
