"""Published checkpoints: the layout is read off, every tensor is kept, and no code is run."""

from __future__ import annotations

import itertools
import math
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cellseg3d_dist.errors import BadInputError, OutputError, WeightsError
from cellseg3d_dist.networks.checkpoints import (
    brighter_class,
    convert_checkpoint,
    detect,
    read_checkpoint,
)
from cellseg3d_dist.networks.compat import cellseg3d_inference
from cellseg3d_dist.networks.registry import build
from cellseg3d_dist.networks.weights import load_model

WIDTHS = (8, 12, 16, 20)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def half_shapes(channels_in, channels_out, widths):
    """Names and shapes of one half of the published WNet3D."""
    w0, w1, w2, w3 = widths
    shapes = {}

    def convolution(name, inputs, outputs, side):
        shapes[f"{name}.weight"] = (outputs, inputs, side, side, side)
        shapes[f"{name}.bias"] = (outputs,)

    def norm(name, channels):
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (channels,)

    for name, inputs in (("in_b", channels_in), ("out_b", 2 * w0)):
        convolution(f"{name}.module.0", inputs, w0, 3)
        norm(f"{name}.module.3", w0)
        convolution(f"{name}.module.4", w0, w0, 3)
        norm(f"{name}.module.7", w0)
    convolution("out_b.module.8", w0, channels_out, 1)
    blocks = {"conv1": (w0, w1), "conv2": (w1, w2), "bot": (w2, w3), "deconv2": (2 * w2, w2),
              "deconv3": (2 * w1, w1)}  # fmt: skip
    for name, (inputs, outputs) in blocks.items():
        convolution(f"{name}.module.0", inputs, inputs, 3)
        convolution(f"{name}.module.1", inputs, outputs, 1)
        norm(f"{name}.module.4", outputs)
        convolution(f"{name}.module.5", outputs, outputs, 3)
        convolution(f"{name}.module.6", outputs, outputs, 1)
        norm(f"{name}.module.9", outputs)
    for name, inputs, outputs in (("2", w3, w2), ("3", w2, w1), ("_out", w1, w0)):
        shapes[f"conv_trans{name}.weight"] = (inputs, outputs, 2, 2, 2)
        shapes[f"conv_trans{name}.bias"] = (outputs,)
    return shapes


def published_wnet(widths=WIDTHS, classes=2):
    """Random tensors by the published names."""
    generator = torch.Generator().manual_seed(1)
    halves = (("encoder", (1, classes)), ("decoder", (classes, 1)))
    return {
        f"{half}.{name}": torch.randn(shape, generator=generator) / 4
        for half, channels in halves
        for name, shape in half_shapes(*channels, widths).items()
    }


def saved(path, content, **options):
    torch.save(content, path, **options)
    return path


def test_the_published_layout_has_the_published_number_of_parameters():
    counts = [
        sum(math.prod(shape) for shape in half_shapes(*channels, (64, 128, 256, 512)).values())
        for channels in ((1, 2), (2, 1))
    ]
    assert counts == [25_265_090, 25_266_753]
    with torch.device("meta"):
        layout = detect(build("wnet3d").state_dict(), "a.pth")
    assert layout.options == {"widths": (64, 128, 256, 512)}


@pytest.mark.parametrize("nested", [None, "model_state_dict", "state_dict"])
@pytest.mark.parametrize("prefix", ["", "module.", "module.module."])
def test_a_wnet_is_converted_with_every_tensor(tmp_path, nested, prefix):
    state = published_wnet()
    content = {prefix + name: tensor for name, tensor in state.items()}
    content = {nested: content, "epoch": 3, "loss": [0.5]} if nested else content
    source = saved(tmp_path / "wnet.pth", content)
    card = convert_checkpoint(
        source, tmp_path / "wnet", foreground_channel=1, voxel_size=(4, 2, 2), licence="MIT",
        threshold=0.6,
    )  # fmt: skip
    encoder = {k.removeprefix("encoder."): v for k, v in state.items() if k.startswith("encoder.")}
    stored = load_file(tmp_path / "wnet.safetensors")
    assert set(stored) == set(encoder)
    assert all(torch.equal(stored[name], encoder[name]) for name in encoder)
    assert card.architecture_options == {"widths": list(WIDTHS)}
    assert (card.voxel_size, card.licence, card.threshold) == ((4, 2, 2), "MIT", 0.6)
    assert card.training == {"converted_from": "wnet.pth"}
    model = load_model(tmp_path / "wnet")
    assert model.card == card
    # there, images are (x, y, z) and 0..100
    reference = build("wnet3d", widths=WIDTHS)
    reference.load_state_dict(state)
    image = torch.rand(1, 1, 8, 16, 8)
    with torch.inference_mode():
        expected = reference.eval().encoder(100 * image.transpose(2, 4)).transpose(2, 4)
        torch.testing.assert_close(model.network(image), expected)
        shown = model.representation.activate(model.network(image))
        torch.testing.assert_close(shown, expected.softmax(1)[:, 1:])


def test_an_encoder_alone_is_enough(tmp_path):
    state = {k: v for k, v in published_wnet().items() if k.startswith("encoder.")}
    source = saved(tmp_path / "wnet.pth", state, _use_new_zipfile_serialization=False)
    card = convert_checkpoint(source, tmp_path / "a.safetensors", foreground_channel=0, half=True)
    assert card.foreground_channel == 0
    assert load_model(tmp_path / "a").representation.foreground_channel == 0


def test_a_segresnet_is_recognised(tmp_path):
    from monai.networks.nets import SegResNetVAE

    network = SegResNetVAE((16, 16, 16), out_channels=1, dropout_prob=0.3).eval()
    source = saved(tmp_path / "a.pth", network.state_dict())
    card = convert_checkpoint(source, tmp_path / "a")
    assert (card.architecture, card.representation_options) == ("segresnet", {"classes": 1})
    assert not any(key.startswith("vae") for key in load_file(tmp_path / "a.safetensors"))
    image = torch.rand(1, 1, 16, 16, 16)
    with torch.inference_mode():
        expected = network(image.transpose(2, 4))[0].transpose(2, 4)
        result = load_model(tmp_path / "a").network(image)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_a_vnet_is_recognised(bias):
    from monai.networks.nets import VNet

    # its 45 million numbers are not needed
    with torch.device("meta"):
        state = VNet(in_channels=1, out_channels=2, bias=bias).state_dict()
        layout = detect(state, "a")
        known = build(layout.architecture, 1, layout.outputs, **layout.options).state_dict()
    assert (layout.architecture, layout.options) == ("vnet", {"bias": bias})
    assert {name: t.shape for name, t in layout.state.items()} == {
        name: t.shape for name, t in known.items()
    }


def test_a_swinunetr_is_recognised(tmp_path):
    pytest.importorskip("einops")
    from monai.networks.nets import SwinUNETR

    network = SwinUNETR(1, 1, feature_size=12, use_v2=True)
    source = saved(tmp_path / "a.pth", network.state_dict())
    card = convert_checkpoint(source, tmp_path / "a", architecture="swinunetr")
    assert card.architecture_options["feature_size"] == 12
    assert card.architecture_options["legacy_merging"] is True
    # trained with MONAI 1.5 or later
    convert_checkpoint(
        source,
        tmp_path / "b",
        architecture_options={"legacy_merging": False, "checkpointing": False},
    )
    image = torch.rand(1, 1, 64, 64, 64)
    with torch.inference_mode():
        expected = network.eval()(image.transpose(2, 4)).transpose(2, 4)
        torch.testing.assert_close(load_model(tmp_path / "b").network(image), expected)


def test_swinunetr_names_are_read_off():
    names = ["swinViT.patch_embed.proj.weight", "out.conv.conv.weight"]
    state = {names[0]: torch.zeros(24, 1, 2, 2, 2), names[1]: torch.zeros(1, 24, 1, 1, 1)}
    layout = detect(state, "a")
    assert (layout.architecture, layout.outputs) == ("swinunetr", 1)
    assert layout.options["feature_size"] == 24
    assert layout.options["residual_stages"] is False
    more = {"swinViT.layers1c.0.norm.weight": torch.zeros(3)}
    assert detect(state | more, "a").options["residual_stages"] is True


def test_any_other_architecture_is_taken_by_name(tmp_path):
    network = build("unet", 1, 3, widths=(8, 16))
    source = saved(tmp_path / "a.pth", {"state_dict": network.state_dict()})
    card = convert_checkpoint(
        source, tmp_path / "a", architecture="unet", architecture_options={"widths": [8, 16]},
        representation="bcd", voxel_size=(1, 1, 1),
    )  # fmt: skip
    assert (card.axes, card.input_scale, card.threshold) == ("zyx", 1.0, None)
    image = torch.rand(1, 1, 8, 8, 8)
    with torch.inference_mode():
        assert torch.equal(load_model(tmp_path / "a").network(image), network.eval()(image))


class Brightness(torch.nn.Module):
    """Logits of two classes, of which one is bright voxels."""

    def __init__(self, channel, gain=8.0):
        super().__init__()
        self.channel, self.gain = channel, gain

    def forward(self, image):
        logits = self.gain * (image - 0.5)
        return torch.cat([logits, -logits] if self.channel == 0 else [-logits, logits], dim=1)


@pytest.mark.parametrize("channel", [0, 1])
def test_the_foreground_is_what_is_bright(channel):
    assert brighter_class(Brightness(channel)) == channel
    with pytest.raises(WeightsError, match="Give --foreground-channel"):
        brighter_class(Brightness(channel, gain=0.0))


class Code:
    def __init__(self, done):
        self.done = done

    def __reduce__(self):
        return (open, (self.done, "w"))


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_code_is_refused_and_not_run(tmp_path, form):
    content = {"encoder.in_b.module.0.weight": torch.zeros(1), "x": Code(str(tmp_path / "ran"))}
    path = tmp_path / "a.pth"
    if form == "pickle":
        path.write_bytes(pickle.dumps({"x": content["x"]}, protocol=2))
    else:
        saved(path, content, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(WeightsError, match=r"more than tensors: \w*io\.open\. That could run"):
        convert_checkpoint(path, tmp_path / "out")
    assert [item.name for item in tmp_path.iterdir()] == ["a.pth"]


def test_a_whole_network_is_refused(tmp_path):
    path = saved(tmp_path / "a.pth", torch.nn.Linear(2, 2))
    with pytest.raises(WeightsError, match=r"more than tensors: torch\.nn.*Save the state_dict"):
        read_checkpoint(path)


@pytest.mark.parametrize("kept", [0.0, 1, 10, 100, 0.5, 0.99])
@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_truncated_checkpoints(tmp_path, kept, form):
    path = tmp_path / "a.pth"
    saved(path, published_wnet((8, 8, 8, 8)), _use_new_zipfile_serialization=form == "zip")
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if kept < 1 else kept])
    match = "truncated or damaged|no tensors by name" if kept else "are empty"
    with pytest.raises(WeightsError, match=match):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer"),
        (b"no checkpoint at all", "truncated or damaged, or no checkpoint"),
        (np.random.default_rng(0).bytes(1000), "truncated or damaged, or no checkpoint"),
    ],
)
def test_files_that_are_no_checkpoint(tmp_path, content, match):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=match):
        read_checkpoint(tmp_path / "a.pth")


def test_checkpoints_that_are_not_there(tmp_path):
    with pytest.raises(WeightsError, match="cannot be read: No such file"):
        read_checkpoint(tmp_path / "a.pth")
    with pytest.raises(WeightsError, match="cannot be read: Is a directory"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("content", [[1, 2], {}, {"epoch": 3}, {"state_dict": {}}, 5])
def test_checkpoints_without_tensors(tmp_path, content):
    with pytest.raises(WeightsError, match="holds no tensors by name"):
        read_checkpoint(saved(tmp_path / "a.pth", content))


def refused(tmp_path, state, match, **options):
    """One line, and nothing is written."""
    source = saved(tmp_path / "a.pth", state)
    with pytest.raises(WeightsError, match=match) as caught:
        convert_checkpoint(source, tmp_path / "out", **options)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [source]


def test_checkpoints_that_do_not_fit(tmp_path):
    state = published_wnet()
    name = "encoder.bot.module.5.bias"
    fitting = {"foreground_channel": 1}
    refused(tmp_path, state, "is not of the architecture vnet: it lacks in_tr", architecture="vnet")
    refused(tmp_path, state, "36 missing.*unexpected", architecture="unet")
    refused(tmp_path, {"a": torch.zeros(1)}, r"of no known architecture: it has 1 tensors \(a,")
    less = {key: value for key, value in state.items() if key != name}
    refused(tmp_path, less, r"1 missing \(bot.module.5.bias\)", **fitting)
    more = state | {"encoder.more.weight": torch.zeros(1)}
    refused(tmp_path, more, r"1 unexpected \(more.weight\)", **fitting)
    other = state | {name: torch.zeros(7)}
    refused(tmp_path, other, r"bot.module.5.bias 7, not 20", **fitting)
    poisoned = state | {name: torch.full_like(state[name], torch.nan)}
    refused(tmp_path, poisoned, "bot.module.5.bias has values that are not finite", **fitting)
    flat = state | {"encoder.bot.module.1.weight": torch.zeros(3)}
    refused(tmp_path, flat, "has 1 dimensions, not 5", **fitting)
    refused(tmp_path, published_wnet(classes=3), "has 3 output channels, foreground has 1 or 2")
    refused(tmp_path, state, "foreground_channel 2", foreground_channel=2)
    refused(tmp_path, state, "voxel_size .* must be", voxel_size=(0, 1, 1), **fitting)
    refused(tmp_path, state, "did you mean widths", architecture_options={"width": 1}, **fitting)
    refused(tmp_path, state, "representation 'x' is unknown", representation="x")


def test_what_is_there_is_not_replaced(tmp_path):
    source = saved(tmp_path / "a.pth", published_wnet())
    convert_checkpoint(source, tmp_path / "out", foreground_channel=1)
    (tmp_path / "out.safetensors").unlink()
    with pytest.raises(OutputError, match=r"out\.json exists"):
        convert_checkpoint(source, tmp_path / "out", foreground_channel=0)
    convert_checkpoint(source, tmp_path / "out", foreground_channel=0, overwrite=True)
    assert load_model(tmp_path / "out").card.foreground_channel == 0


class Pointwise(torch.nn.Module):
    """Two channels from each voxel and its place in the window."""

    def __init__(self):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(3.0))

    def forward(self, image):
        ramp = torch.linspace(0, 1, image.shape[-1])
        return torch.cat([self.factor * image - ramp, image**2 + 1], dim=1)


def in_range(values):
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def by_hand(image, side, prepare):
    """Mean over windows that share a quarter; where windows weigh the same."""
    step = int(0.75 * side)
    starts = [sorted({min(s, n - side) for s in range(0, n, step)}) for n in image.shape]
    total, weight = np.zeros((2, *image.shape)), np.zeros(image.shape)
    fair = np.ones(image.shape, bool)
    ramp = np.linspace(0, 1, side)
    for start in itertools.product(*starts):
        cut = tuple(slice(s, s + side) for s in start)
        window = prepare(image[cut].astype(np.float64))
        if window.min() < window.max():
            total[(slice(None), *cut)] += in_range(np.stack([3 * window - ramp, window**2 + 1]))
        weight[cut] += 1
        fair[tuple(slice(s + side // 2 - 3, s + side // 2 + 3) for s in start)] = False
    return total / weight, fair


@pytest.mark.parametrize("kind", ["wnet3d", "wnet3d folder", "unet", "unet folder"])
def test_windows_as_in_cellseg3d(kind):
    architecture, _, source = kind.partition(" ")
    image = np.random.default_rng(0).gamma(2, 100, (20, 23, 31)).astype(np.uint16)
    image[:, :, :18] = 40
    low, high = np.quantile(image, (0.01, 0.99))

    def prepare(window):
        if source == "folder":
            window = window.clip(*np.quantile(window, (0.01, 0.99)))
        elif architecture == "unet":
            window = window.clip(low, high)
        return in_range(window) if architecture == "wnet3d" else window

    result = cellseg3d_inference(
        Pointwise(), image, architecture=architecture, source=source or "layer", window=16
    )
    assert result.dtype == np.float32
    assert result.shape == (2, *image.shape)
    assert np.isfinite(result).all()
    expected, fair = by_hand(image, 16, prepare)
    assert fair.mean() > 0.6
    np.testing.assert_allclose(result[:, fair], expected[:, fair], atol=2e-5)
    # windows that hold nothing but background
    assert not result[:, :, :, :12].any()


def test_windows_of_a_converted_wnet(tmp_path):
    state = published_wnet()
    source = saved(tmp_path / "a.pth", state)
    convert_checkpoint(source, tmp_path / "a", foreground_channel=1)
    image = np.random.default_rng(0).integers(0, 900, (16, 16, 16)).astype(np.uint16)
    result = cellseg3d_inference(load_model(tmp_path / "a").network, image, window=16)
    reference = build("wnet3d", widths=WIDTHS)
    reference.load_state_dict(state)
    there = torch.from_numpy(100 * in_range(image.astype(np.float32)).T.copy())[None, None]
    with torch.inference_mode():
        expected = in_range(reference.eval().encoder(there)[0].numpy())
    np.testing.assert_allclose(result, expected.transpose(0, 3, 2, 1), atol=1e-4)


def test_supervised_networks_see_grey_values(tmp_path):
    """The card's scale is for normalised images, not for these."""
    network = build("unet", 1, 1, widths=(8, 16)).eval()
    source = saved(tmp_path / "a.pth", network.state_dict())
    convert_checkpoint(
        source, tmp_path / "a", architecture="unet", architecture_options={"widths": [8, 16]},
        input_scale=50.0,
    )  # fmt: skip
    image = np.random.default_rng(0).integers(0, 200, (8, 8, 8)).astype(np.uint8)
    low, high = np.quantile(image, (0.01, 0.99))
    clipped = image.astype(np.float32).clip(low, high).astype(np.float32)
    with torch.inference_mode():
        expected = in_range(
            network(torch.from_numpy(clipped.astype(np.float32))[None, None]).numpy()
        )
    result = cellseg3d_inference(
        load_model(tmp_path / "a").network, image, architecture="unet", window=8
    )
    np.testing.assert_allclose(result, expected[0], atol=1e-4)


@pytest.mark.parametrize("shape", [(5, 6, 7), (40, 3, 20)])
@pytest.mark.parametrize("value", [0, 7])
def test_a_constant_volume_is_0(shape, value):
    image = np.full(shape, value, np.uint8)
    result = cellseg3d_inference(Pointwise(), image, window=16)
    assert result.shape == (2, *shape)
    assert not result.any()


@pytest.mark.parametrize(
    "image", [np.zeros((3, 3)), np.zeros((0, 3, 3)), np.full((3, 3, 3), np.nan)]
)
def test_images_that_have_no_windows(image):
    with pytest.raises(BadInputError, match="image"):
        cellseg3d_inference(Pointwise(), image)
