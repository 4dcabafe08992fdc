"""The network architectures against published names, plain formulas and MONAI's own classes."""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import pickle
import subprocess
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import pytest
import torch
from functorch.einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F  # noqa: N812

from cellseg3d_dist.errors import BadInputError, ConfigError, EnvironmentFailedError
from cellseg3d_dist.networks import monai_networks
from cellseg3d_dist.networks.monai_networks import (
    LEGACY_OFFSETS,
    LegacyPatchMerging,
    segresnet_state,
)
from cellseg3d_dist.networks.registry import (
    ARCHITECTURES,
    architecture_options,
    build,
    divisor,
    for_inference,
)

NARROW: dict[str, dict[str, Any]] = {
    "wnet3d": {"widths": [4, 8, 12, 16]},
    "unet": {"widths": [4, 8, 16]},
    "residual_unet": {"widths": [4, 8, 12, 16], "anisotropic_levels": 1},
    "segresnet": {},
    "swinunetr": {"feature_size": 12},
    "vnet": {},
}
OURS = ("wnet3d", "unet", "residual_unet")
MONAIS = ("segresnet", "swinunetr", "vnet")

# modules of one half of a published WNet3D in the order of its state, with the shape of the
# weight; input and output channels are filled in
PUBLISHED_WNET_HALF = """
in_b.module.0 64 {image} 3 3 3
in_b.module.3 64
in_b.module.4 64 64 3 3 3
in_b.module.7 64
conv1.module.0 64 64 3 3 3
conv1.module.1 128 64 1 1 1
conv1.module.4 128
conv1.module.5 128 128 3 3 3
conv1.module.6 128 128 1 1 1
conv1.module.9 128
conv2.module.0 128 128 3 3 3
conv2.module.1 256 128 1 1 1
conv2.module.4 256
conv2.module.5 256 256 3 3 3
conv2.module.6 256 256 1 1 1
conv2.module.9 256
bot.module.0 256 256 3 3 3
bot.module.1 512 256 1 1 1
bot.module.4 512
bot.module.5 512 512 3 3 3
bot.module.6 512 512 1 1 1
bot.module.9 512
deconv2.module.0 512 512 3 3 3
deconv2.module.1 256 512 1 1 1
deconv2.module.4 256
deconv2.module.5 256 256 3 3 3
deconv2.module.6 256 256 1 1 1
deconv2.module.9 256
deconv3.module.0 256 256 3 3 3
deconv3.module.1 128 256 1 1 1
deconv3.module.4 128
deconv3.module.5 128 128 3 3 3
deconv3.module.6 128 128 1 1 1
deconv3.module.9 128
out_b.module.0 64 128 3 3 3
out_b.module.3 64
out_b.module.4 64 64 3 3 3
out_b.module.7 64
out_b.module.8 {classes} 64 1 1 1
conv_trans2 512 256 2 2 2
conv_trans3 256 128 2 2 2
conv_trans_out 128 64 2 2 2
"""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _einops(monkeypatch: pytest.MonkeyPatch) -> None:
    """MONAI's SwinUNETR takes `rearrange` from einops; torch has the same function."""
    try:
        import einops  # type: ignore[import-not-found, unused-ignore]  # noqa: F401
    except ImportError:
        from monai.networks.nets import swin_unetr

        # found by the check for it; already looked for in vain by MONAI
        stand_in = ModuleType("einops")
        stand_in.__spec__ = ModuleSpec("einops", None)
        monkeypatch.setitem(sys.modules, "einops", stand_in)
        monkeypatch.setattr(swin_unetr, "rearrange", rearrange)


def narrow(name: str, **options: Any) -> torch.nn.Module:
    return build(name, **(NARROW[name] | options))


def on_meta(name: str, options: dict[str, Any]) -> torch.nn.Module:
    """The network without numbers: its forward pass computes shapes only."""
    # MONAI's SwinUNETR reads numbers while it is built
    with torch.device("cpu" if name == "swinunetr" else "meta"):
        network = build(name, **options)
    return for_inference(network).to("meta").eval()


def accepts(network: torch.nn.Module, sizes: tuple[int, ...]) -> bool:
    """Whether a network gives an output of its input's size."""
    try:
        output = network(torch.empty(1, 1, *sizes, device="meta"))
    except (RuntimeError, ValueError):
        return False
    return tuple(output.shape[2:]) == sizes


def without_check(network: torch.nn.Module) -> torch.nn.Module:
    network._forward_pre_hooks.clear()
    return network


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_output_has_the_size_of_the_input(name: str) -> None:
    z, y, x = divisor(name, NARROW[name])
    network = on_meta(name, NARROW[name])
    for sizes in ((z, y, 3 * x), (3 * z, y, 2 * x), (z, 5 * y, x * 2)):
        image = torch.empty(2, 1, *sizes, device="meta")
        assert network(image).shape == (2, 2, *sizes)
    other = on_meta(name, NARROW[name] | {"in_channels": 2, "out_channels": 3})
    assert other(torch.empty(1, 2, z, y, 3 * x, device="meta")).shape == (1, 3, z, y, 3 * x)


def test_wnet_rebuilds_as_many_channels_as_it_gets() -> None:
    with torch.device("meta"):
        network = narrow("wnet3d", in_channels=2, out_channels=3)
        classes, reconstruction = network(torch.empty(1, 2, 8, 16, 24))
    assert classes.shape == (1, 3, 8, 16, 24)
    assert reconstruction.shape == (1, 2, 8, 16, 24)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_divisors_are_the_smallest(name: str) -> None:
    """Beside multiples of the divisor nothing works, even with the check taken away."""
    least = divisor(name, NARROW[name])
    network = on_meta(name, NARROW[name])
    for axis, size in ((0, least[0] - 1), (1, least[1] // 2), (2, 3 * least[2] + 1)):
        sizes = tuple(size if n == axis else 2 * least[n] for n in range(3))
        with pytest.raises(BadInputError, match="multiples of"):
            network(torch.empty(1, 1, *sizes, device="meta"))
    bare = without_check(network)
    for axis, factor in itertools.product(range(3), (0.5, 1, 1.5, 3)):
        size = int(factor * least[axis])
        sizes = tuple(size if n == axis else 2 * least[n] for n in range(3))
        assert accepts(bare, sizes) == (size % least[axis] == 0), sizes


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["residual_unet", "unet"]),
    st.integers(2, 5),
    st.integers(0, 5),
    st.integers(0, 2),
    st.integers(1, 64),
)
def test_divisors_by_trial(name: str, levels: int, anisotropic: int, axis: int, size: int) -> None:
    """A U-Net takes a size along an axis if, and only if, it is a multiple."""
    options: dict[str, Any] = {"widths": [2] * levels}
    if name == "residual_unet":
        options["anisotropic_levels"] = min(anisotropic, levels)
    least = divisor(name, options)
    sizes = tuple(size if n == axis else 2 * least[n] for n in range(3))
    works = accepts(without_check(on_meta(name, options)), sizes)
    assert works == (size % least[axis] == 0)


def test_published_wnet_names_and_shapes() -> None:
    expected: list[tuple[str, tuple[int, ...]]] = []
    for half, image, classes in (("encoder", 1, 2), ("decoder", 2, 1)):
        for line in PUBLISHED_WNET_HALF.format(image=image, classes=classes).split("\n")[1:-1]:
            module, *numbers = line.split()
            shape = tuple(int(number) for number in numbers)
            bias = shape[1] if "conv_trans" in module else shape[0]
            expected += [(f"{half}.{module}.weight", shape), (f"{half}.{module}.bias", (bias,))]
    with torch.device("meta"):
        state = build("wnet3d").state_dict()
    assert [(name, tuple(value.shape)) for name, value in state.items()] == expected
    assert all(value.dtype == torch.float32 for value in state.values())
    numbers = {half: sum(v.numel() for n, v in state.items() if n.startswith(half))
               for half in ("encoder", "decoder")}  # fmt: skip
    assert numbers == {"encoder": 25_265_090, "decoder": 25_266_753}


def test_published_swinunetr_names_and_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """167 names, shapes and types, as a digest of their list."""
    linspace = torch.linspace
    # MONAI reads its drop-path rates off a tensor, which has no numbers on the meta device
    monkeypatch.setattr(torch, "linspace", lambda *a, **k: linspace(*a, **k, device="cpu"))
    with torch.device("meta"):
        states = [
            build("swinunetr", out_channels=1, legacy_merging=legacy).state_dict()
            for legacy in (False, True)
        ]
    lines = [
        [f"{name} {list(value.shape)} {value.dtype}" for name, value in state.items()]
        for state in states
    ]
    assert len(lines[0]) == 167
    assert lines[0][0] == "swinViT.patch_embed.proj.weight [48, 1, 2, 2, 2] torch.float32"
    digest = hashlib.sha256("\n".join(lines[0]).encode()).hexdigest()
    assert digest == "b946d37cc75f9e1cc152475b1c3ef0204a9f56cae9650b8fa5324dcc5e9df3b9"
    assert sorted(lines[0]) == sorted(lines[1])


@pytest.mark.parametrize("widths", [(1, 2, 3, 4), (6, 10, 15, 21), (8, 16, 32, 64)])
def test_groups_divide_any_width(widths: tuple[int, ...]) -> None:
    network = build("wnet3d", widths=list(widths))
    norms = [m for m in network.modules() if isinstance(m, torch.nn.GroupNorm)]
    assert len(norms) == 28
    assert all(n.num_channels % n.num_groups == 0 and n.num_groups in (1, 2, 4) for n in norms)
    assert {n.num_groups for n in norms if n.num_channels % 4 == 0} <= {4}
    classes, _ = network(torch.rand(1, 1, 16, 16, 8))
    torch.testing.assert_close(classes.sum(1), torch.ones(1, 16, 16, 8))


def wnet_half(state: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """One half of a WNet3D from its parameters alone, as its paper draws it."""

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.group_norm(F.relu(x), 4, state[f"{name}.weight"], state[f"{name}.bias"])

    def conv(x: torch.Tensor, name: str) -> torch.Tensor:
        weight = state[f"{name}.weight"]
        return F.conv3d(x, weight, state[f"{name}.bias"], padding=weight.shape[-1] // 2)

    def block(x: torch.Tensor, name: str) -> torch.Tensor:
        m = f"{name}.module"
        x = norm(conv(conv(x, f"{m}.0"), f"{m}.1"), f"{m}.4")
        return norm(conv(conv(x, f"{m}.5"), f"{m}.6"), f"{m}.9")

    def outer(x: torch.Tensor, name: str) -> torch.Tensor:
        m = f"{name}.module"
        return norm(conv(norm(conv(x, f"{m}.0"), f"{m}.3"), f"{m}.4"), f"{m}.7")

    def raised(skip: torch.Tensor, x: torch.Tensor, name: str) -> torch.Tensor:
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        return torch.cat([skip, F.conv_transpose3d(x, weight, bias, stride=2)], 1)

    fine = outer(x, "in_b")
    middle = block(F.max_pool3d(fine, 2), "conv1")
    coarse = block(F.max_pool3d(middle, 2), "conv2")
    x = block(F.max_pool3d(coarse, 2), "bot")
    x = block(raised(coarse, x, "conv_trans2"), "deconv2")
    x = block(raised(middle, x, "conv_trans3"), "deconv3")
    return conv(outer(raised(fine, x, "conv_trans_out"), "out_b"), "out_b.module.8")


def test_wnet_computes_what_its_parameters_say() -> None:
    network = narrow("wnet3d").eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    halves = [
        {n.removeprefix(half): v for n, v in network.state_dict().items() if n.startswith(half)}
        for half in ("encoder.", "decoder.")
    ]
    image = torch.rand(2, 1, 16, 8, 24)
    with torch.no_grad():
        logits = wnet_half(halves[0], image)
        torch.testing.assert_close(network.encoder(image), logits, rtol=1e-5, atol=1e-5)
        classes, reconstruction = network(image)
        expected = wnet_half(halves[1], torch.softmax(logits, 1))
    torch.testing.assert_close(classes, torch.softmax(logits, 1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(reconstruction, expected, rtol=1e-5, atol=1e-4)


def unet(state: dict[str, torch.Tensor], x: torch.Tensor, levels: int) -> torch.Tensor:
    def double(x: torch.Tensor, name: str) -> torch.Tensor:
        for conv, norm in ((0, 1), (4, 5)):
            x = F.conv3d(x, state[f"{name}.{conv}.weight"], padding=1)
            scale, shift = state[f"{name}.{norm}.weight"], state[f"{name}.{norm}.bias"]
            x = F.relu(F.group_norm(x, min(8, len(scale)), scale, shift))
        return x

    skips = [double(x, "first")]
    for n in range(levels - 1):
        skips.append(double(F.max_pool3d(skips[-1], 2), f"down.{n}"))
    x = skips.pop()
    for n in range(levels - 1):
        up = F.conv_transpose3d(x, state[f"up.{n}.weight"], state[f"up.{n}.bias"], stride=2)
        x = double(torch.cat([skips.pop(), up], 1), f"join.{n}")
    return F.conv3d(x, state["last.weight"], state["last.bias"])


def residual_unet(
    state: dict[str, torch.Tensor], x: torch.Tensor, levels: int, anisotropic: int
) -> torch.Tensor:
    def padded(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return F.conv3d(x, weight, padding=[size // 2 for size in weight.shape[2:]])

    def normed(x: torch.Tensor, name: str) -> torch.Tensor:
        scale, shift = state[f"{name}.weight"], state[f"{name}.bias"]
        groups = max(g for g in (1, 2, 4, 8) if len(scale) % g == 0)
        return F.group_norm(x, groups, scale, shift)

    def block(x: torch.Tensor, name: str) -> torch.Tensor:
        y = F.elu(normed(padded(x, state[f"{name}.body.0.weight"]), f"{name}.body.1"))
        y = normed(padded(y, state[f"{name}.body.4.weight"]), f"{name}.body.5")
        shortcut = state.get(f"{name}.shortcut.weight")
        return F.elu(y + (x if shortcut is None else F.conv3d(x, shortcut)))

    steps = [(1, 2, 2) if n < anisotropic else (2, 2, 2) for n in range(levels - 1)]
    assert state["down.0.body.0.weight"].shape[2] == (1 if anisotropic else 3)
    x = padded(x, state["first.weight"]) + state["first.bias"].view(1, -1, 1, 1, 1)
    skips = [block(x, "down.0")]
    for n, step in enumerate(steps):
        skips.append(block(F.max_pool3d(skips[-1], step), f"down.{n + 1}"))
    x = skips.pop()
    for n, step in enumerate(reversed(steps)):
        up = F.conv_transpose3d(x, state[f"up.{n}.weight"], state[f"up.{n}.bias"], stride=step)
        x = block(up + skips.pop(), f"join.{n}")
    return F.conv3d(x, state["last.weight"], state["last.bias"])


@pytest.mark.parametrize("anisotropic", [0, 2, 4])
def test_residual_unet_computes_what_its_parameters_say(anisotropic: int) -> None:
    network = narrow("residual_unet", anisotropic_levels=anisotropic).eval()
    image = torch.rand(2, 1, 8, 16, 24)
    with torch.no_grad():
        expected = residual_unet(network.state_dict(), image, 4, anisotropic)
        torch.testing.assert_close(network(image), expected, rtol=1e-5, atol=1e-5)
    assert any(key.endswith("shortcut.weight") for key in network.state_dict())


def test_unet_computes_what_its_parameters_say() -> None:
    network = narrow("unet").eval()
    image = torch.rand(2, 1, 8, 12, 4)
    with torch.no_grad():
        expected = unet(network.state_dict(), image, 3)
        torch.testing.assert_close(network(image), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_gradient_reaches_every_parameter(name: str) -> None:
    network = narrow(name, dropout=0.0, **({"attention_dropout": 0.0} if "swin" in name else {}))
    z, y, x = divisor(name, NARROW[name])
    output = network.train()(torch.rand(1, 1, z, y, 2 * x))
    parts = output if isinstance(output, tuple) else (output,)
    torch.stack([(part * torch.randn_like(part)).sum() for part in parts]).sum().backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
        assert name not in OURS or parameter.grad.abs().max() > 1e-7, key


def monai_reference(name: str) -> torch.nn.Module:
    from monai.networks import nets

    if name == "segresnet":
        made = nets.SegResNet(
            init_filters=8, out_channels=2, norm=("GROUP", {"num_groups": 8}), dropout_prob=0.3
        )
    elif name == "swinunetr":
        made = nets.SwinUNETR(
            1, 2, feature_size=12, drop_rate=0.5, attn_drop_rate=0.5, use_v2=True
        )  # fmt: skip
    else:
        made = nets.VNet(out_channels=2, bias=True)
    reference: torch.nn.Module = made
    return reference


@pytest.mark.parametrize("name", MONAIS)
def test_same_numbers_as_monais_own_class(name: str) -> None:
    network, reference = narrow(name).eval(), monai_reference(name).eval()
    reference.load_state_dict(network.state_dict(), strict=True)
    z, y, x = divisor(name, {})
    image = torch.rand(1, 1, z, y, 2 * x)
    with torch.no_grad():
        expected = reference(image)
        torch.testing.assert_close(network(image), expected, rtol=1e-5, atol=1e-5)
    dropouts = [type(m) for m in network.modules() if "Dropout" in type(m).__name__ and m.p > 0]
    rates = [m.p for m in network.modules() if "Dropout" in type(m).__name__]
    assert dropouts
    assert rates == [m.p for m in reference.modules() if "Dropout" in type(m).__name__]


@pytest.mark.parametrize("sizes", [(4, 2, 6), (3, 4, 5)])
def test_legacy_merging_by_the_voxel(sizes: tuple[int, int, int]) -> None:
    channels = 3
    merging = LegacyPatchMerging(channels)
    for parameter in merging.parameters():
        torch.nn.init.normal_(parameter)
    tokens = torch.rand(2, *sizes, channels)
    half = [-(-size // 2) for size in sizes]
    expected = torch.zeros(2, *half, 2 * channels)
    # (z, y, x) of a 2x2x2 cell, by hand: one corner, its three neighbours, then a face
    # diagonal, two neighbours once more and the far corner
    order = ["000", "100", "010", "001", "101", "010", "001", "111"]
    for n, z, y, x in itertools.product(range(2), *(range(size) for size in half)):
        taken = torch.zeros(8, channels)
        for place, corner in enumerate(order):
            at = [2 * cell + int(bit) for cell, bit in zip((z, y, x), corner, strict=True)]
            if all(p < size for p, size in zip(at, sizes, strict=True)):
                taken[place] = tokens[n, at[0], at[1], at[2]]
        row = taken.flatten()
        row = (row - row.mean()) / torch.sqrt(row.var(correction=0) + 1e-5)
        row = row * merging.norm.weight + merging.norm.bias
        expected[n, z, y, x] = merging.reduction.weight @ row
    with torch.no_grad():
        torch.testing.assert_close(merging(tokens), expected.detach(), rtol=1e-5, atol=1e-5)


def test_legacy_merging_equals_monais_where_the_voxels_are_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With today's offsets in its list the legacy module is MONAI's: only the voxels differ."""
    from monai.networks.nets.swin_unetr import PatchMerging

    merging, reference = LegacyPatchMerging(4), PatchMerging(4)
    reference.load_state_dict(merging.state_dict(), strict=True)
    tokens = torch.rand(1, 4, 5, 6, 4)
    with torch.no_grad():
        assert not torch.allclose(merging(tokens), reference(tokens), atol=1e-3)
        today = (*LEGACY_OFFSETS[:4], (1, 1, 0), (1, 0, 1), (0, 1, 1), (1, 1, 1))
        monkeypatch.setattr(monai_networks, "LEGACY_OFFSETS", today)
        torch.testing.assert_close(merging(tokens), reference(tokens), rtol=1e-6, atol=1e-6)


def test_legacy_merging_is_used_in_all_stages_and_changes_the_output() -> None:
    modern, legacy = narrow("swinunetr").eval(), narrow("swinunetr", legacy_merging=True).eval()
    legacy.load_state_dict(modern.state_dict(), strict=True)
    assert sum(isinstance(m, LegacyPatchMerging) for m in legacy.modules()) == 4
    image = torch.rand(1, 1, 32, 32, 64)
    with torch.no_grad():
        assert not torch.allclose(modern(image), legacy(image), atol=1e-3)


def test_segresnet_from_one_with_an_autoencoder() -> None:
    from monai.networks.nets import SegResNetVAE

    size = (16, 16, 24)
    published = SegResNetVAE(size, out_channels=1, dropout_prob=0.3).eval()
    network = build("segresnet", out_channels=1).eval()
    network.load_state_dict(segresnet_state(published.state_dict()), strict=True)
    image = torch.rand(1, 1, *size)
    with torch.no_grad():
        torch.testing.assert_close(network(image), published(image)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_evaluation_is_deterministic(name: str) -> None:
    outputs = []
    z, y, x = divisor(name, NARROW[name])
    image = torch.rand(1, 1, z, y, 2 * x)
    for _ in range(2):
        torch.manual_seed(7)
        network = for_inference(narrow(name)).eval()
        with torch.inference_mode():
            outputs.append(network(image))
    assert torch.equal(*outputs)


def test_inference_of_a_wnet_is_its_encoder() -> None:
    wnet, other = narrow("wnet3d"), narrow("unet")
    assert for_inference(wnet) is wnet.encoder
    assert for_inference(other) is other
    assert for_inference(for_inference(wnet)) is wnet.encoder


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_options_survive_json(name: str) -> None:
    plain = json.loads(json.dumps(architecture_options(name, NARROW[name]).model_dump(mode="json")))
    assert architecture_options(name, plain) == architecture_options(name, NARROW[name])
    assert divisor(name, plain) == divisor(name, NARROW[name])
    assert plain.items() >= NARROW[name].items()
    one, two = narrow(name).state_dict(), build(name, **plain).state_dict()
    assert {k: v.shape for k, v in one.items()} == {k: v.shape for k, v in two.items()}
    defaults = architecture_options(name, {}).model_dump(mode="json")
    assert architecture_options(name, json.loads(json.dumps(defaults))).model_dump() == (
        architecture_options(name, {}).model_dump()
    )


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("residual-unet", {}, r"'residual-unet' \(did you mean residual_unet\?\)"),
        ("transformer", {}, r"\(known are wnet3d, unet, residual_unet, .*vnet\)"),
        ("unet", {"width": [1, 2]}, r"unknown option 'width' \(did you mean widths\?\)"),
        ("vnet", {"filters": 3}, r"unknown option 'filters' \(known are dropout, bias\)"),
        ("unet", {"widths": [0, 4]}, r"widths \[0, 4\] must be two to eight numbers"),
        ("unet", {"widths": [True, 4]}, r"widths \[True, 4\] must be"),
        ("unet", {"widths": 8}, r"widths 8 must be"),
        ("wnet3d", {"widths": [1, 2, 3]}, r"widths \[1, 2, 3\] must be four numbers"),
        ("wnet3d", {"dropout": 1.0}, r"dropout 1.0 must be a fraction"),
        ("residual_unet", {"anisotropic_levels": 6}, r"anisotropic_levels 6 must be"),
        ("residual_unet", {"anisotropic_levels": -1}, r"anisotropic_levels -1 must be"),
        ("swinunetr", {"feature_size": 20}, r"feature_size 20 must be a multiple of 12"),
        ("swinunetr", {"legacy_merging": 1}, r"legacy_merging 1 must be true or false"),
        ("segresnet", {"init_filters": 12, "x": 1}, r"init_filters 12 must be .*; unknown option"),
        ("unet", {"widths": [4] * 5000}, r"^.{0,250}$"),
    ],
)
def test_bad_options_get_one_line(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        build(name, **options)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match=message):
        divisor(name, options)


def test_bad_channels_get_one_line() -> None:
    with pytest.raises(ConfigError, match="out_channels 0 must be at least 1"):
        build("unet", out_channels=0)
    with pytest.raises(ConfigError, match="in_channels 3 must divide 16"):
        build("vnet", in_channels=3)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_bad_inputs_get_one_line(name: str) -> None:
    network = on_meta(name, NARROW[name])
    for shape in ((1, 2, 32, 32, 64), (1, 32, 32, 64), (32, 32, 64)):
        with pytest.raises(BadInputError, match=rf"{name} got an input of shape"):
            network(torch.empty(shape, device="meta"))
    with pytest.raises(BadInputError, match="got 0x32x64 voxels"):
        network(torch.empty(1, 1, 0, 32, 64, device="meta"))


def test_swinunetr_needs_two_voxels_at_its_coarsest_level() -> None:
    network = narrow("swinunetr").eval()
    with pytest.raises(BadInputError, match="leaves 1 at its coarsest level"):
        network(torch.rand(1, 1, 32, 32, 32))
    with pytest.raises(ValueError, match="more than 1 spatial element"):
        without_check(network)(torch.rand(1, 1, 32, 32, 32))


def test_swinunetr_without_einops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monai_networks, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentFailedError, match="pip install einops"):
        build("swinunetr")


@pytest.mark.parametrize("name", OURS)
def test_networks_can_be_copied_and_pickled(name: str) -> None:
    network = narrow(name)
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        for key, value in network.state_dict().items():
            assert torch.equal(value, twin.state_dict()[key])
        with pytest.raises(BadInputError, match="multiples"):
            twin(torch.rand(1, 1, 16, 16, 17))


def test_monai_is_imported_only_for_its_networks() -> None:
    code = (
        "import sys; from cellseg3d_dist.networks import registry as r; "
        "r.build('unet', widths=[2, 4]); r.divisor('swinunetr', {}); "
        "assert 'monai' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
