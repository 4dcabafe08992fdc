"""A network over patches: every region as if the whole had been predicted in one piece."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from predicting import RESIDUAL, WNET, model_of
from scipy import ndimage
from test_lattice import regions

from cellseg3d_dist.errors import BadInputError, ConfigError, EnvironmentFailedError
from cellseg3d_dist.grid import Region
from cellseg3d_dist.networks.lattice import weights
from cellseg3d_dist.networks.normalisation import normalise, percentiles
from cellseg3d_dist.networks.predictor import Forward, Tiling, predict_array

CONSTANTS = (100.0, 900.0)
TINY = model_of(RESIDUAL)
ENCODER = model_of(WNET)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def picture(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 1000, shape, dtype=np.uint16)


def forward_of(model, batch=1, flips=False):
    return Forward.of(model, "cpu", batch, flips)


def whole_of(tiling, image, forward, constants=CONSTANTS):
    whole = Region.whole(image.shape)
    return tiling.predict(lambda region: image[region.slices], whole, constants, forward)


class Counted(torch.nn.Module):
    """Calls of a network, and how it fails on the way."""

    def __init__(self, network, fits=None, gives=None):
        super().__init__()
        self.network, self.fits, self.gives, self.calls = network, fits, gives, []

    def forward(self, image):
        self.calls.append(tuple(image.shape))
        if self.fits is not None and image.shape[0] > self.fits:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        output = self.network(image)
        return output if self.gives is None else torch.full_like(output, self.gives)


@st.composite
def cases(draw, side, finer):
    shape = draw(st.tuples(*[st.integers(1, side)] * 3))
    sizes = st.sampled_from([1.0, 1.0, finer, 2.0])
    voxel_size = draw(st.tuples(sizes, sizes, sizes))
    blending = draw(st.sampled_from(["crop", "gaussian"]))
    return shape, voxel_size, blending, draw(regions(shape)), draw(st.sampled_from([1, 3]))


def assert_crop_of_the_whole(model, case, flips=False):
    shape, voxel_size, blending, region, batch = case
    card = model.card.model_copy(update={"blending": blending})
    tiling = Tiling.from_card(card, shape, voxel_size)
    image = picture(shape)
    expected = whole_of(tiling, image, forward_of(model, batch, flips))[(..., *region.slices)]
    # nothing but the source is there to be read
    held = tiling.source(region)
    hidden = np.full(shape, 1000, np.uint16)
    hidden[held.slices] = image[held.slices]
    found = tiling.predict(
        lambda wanted: hidden[wanted.slices], region, CONSTANTS, forward_of(model, batch, flips)
    )
    assert found.dtype == np.uint8
    assert found.shape == (len(model.representation.channels), *region.shape)
    np.testing.assert_array_equal(found, expected)


@settings(max_examples=20, deadline=None)
@given(cases(10, 0.6))
def test_any_region_is_the_crop_of_the_whole(case):
    assert_crop_of_the_whole(TINY, case)


@settings(max_examples=4, deadline=None)
@given(cases(9, 0.6))
def test_any_region_is_the_crop_of_the_whole_with_flips(case):
    assert_crop_of_the_whole(TINY, case, flips=True)


@settings(max_examples=5, deadline=None)
@given(cases(20, 0.8))
def test_any_region_is_the_crop_of_the_whole_for_an_encoder(case):
    assert_crop_of_the_whole(ENCODER, case)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 1), (1, 13, 7), (5, 11, 13)])
@pytest.mark.parametrize("blending", ["crop", "gaussian"])
def test_the_whole_is_a_plain_loop_over_the_reflected_volume(shape, blending):
    model = model_of(RESIDUAL, TINY.network, blending=blending)
    image = picture(shape)
    padded = normalise(image, *CONSTANTS)
    for axis, n in enumerate(shape):
        width = [(16, 16) if a == axis else (0, 0) for a in range(3)]
        padded = np.pad(padded, width, mode="reflect" if n > 1 else "edge")
    patch, halo, core = 8, 2, 4
    total, sums = np.zeros((3, *padded.shape)), np.zeros(padded.shape)
    weight = np.zeros((patch,) * 3)
    weight[(slice(halo, -halo),) * 3] = 1
    if blending == "gaussian":
        weight = weights((patch,) * 3)
    for start in itertools.product(*(range(0, n, core) for n in shape)):
        at = tuple(slice(s + 16 - halo, s + 16 - halo + patch) for s in start)
        with torch.inference_mode():
            output = model.network(torch.from_numpy(padded[at].copy())[None, None])
            result = model.representation.activate(output)[0].numpy()
        total[(slice(None), *at)] += result * weight
        sums[at] += weight
    inside = tuple(slice(16, 16 + n) for n in shape)
    expected = np.floor((total / np.maximum(sums, 1e-9))[(slice(None), *inside)] * 255 + 0.5)
    found = predict_array(model, image, (1, 1, 1), constants=CONSTANTS)
    # another layout and order of sums: at most a last bit, seen where it rounds
    assert np.abs(found - expected).max() <= 1
    assert (found != expected).mean() <= 0.01


def test_flips_are_the_mean_of_flipped_predictions():
    image = picture((8, 8, 8))
    tiling = Tiling.of(model_of(RESIDUAL, patch=(8, 8, 8), halo=(0, 0, 0)), (8, 8, 8), (1, 1, 1))
    found = whole_of(tiling, image, forward_of(TINY, flips=True))
    total = np.zeros(found.shape)
    for axes in itertools.chain.from_iterable(
        itertools.combinations(range(3), k) for k in range(4)
    ):
        flipped = whole_of(tiling, np.flip(image, axes), forward_of(TINY))
        total += np.flip(flipped, tuple(a + 1 for a in axes))
    np.testing.assert_allclose(found, total / 8, atol=1)


def test_flips_of_directions_are_refused():
    with pytest.raises(ConfigError, match="flow"):
        Forward.of(model_of(RESIDUAL, TINY.network, representation="flow"), "cpu", flips=True)


# empty space


def test_patches_of_zeros_are_computed_once():
    image = np.zeros((9, 20, 40), np.uint16)
    image[2:5, 3:9, 30:38] = picture((3, 6, 8)) + 100
    counted, whole = Counted(TINY.network), Region.whole(image.shape)
    given_to_it = normalise(image, *CONSTANTS)
    tiling = Tiling.of(TINY, image.shape, (1, 1, 1))
    expected = predict_array(TINY, image, (1, 1, 1), constants=CONSTANTS)
    for batch in (1, 3):
        counted.calls.clear()
        forward = Forward(counted, TINY.representation, torch.device("cpu"), batch)
        for region in (Region((0, 0, 0), (9, 20, 20)), whole):
            found = tiling.predict(lambda r: image[r.slices], region, CONSTANTS, forward)
            assert np.abs(found.astype(int) - expected[(..., *region.slices)]).max() <= 1
        n_full = sum(
            bool(tiling.lattice.cut(given_to_it, whole, start).any())
            for start in tiling.lattice.starts(whole)
        )
        assert 0 < n_full < tiling.lattice.n_patches / 3
        assert len(counted.calls) == 1 + -(-n_full // batch)


def test_zeros_between_others_come_back_in_order():
    rng = np.random.default_rng(0)
    patches = [rng.random((8, 8, 8), np.float32) * (k % 3 == 0) for k in range(11)]
    plain = [next(forward_of(TINY)._computed([patch])) for patch in patches]
    for batch in (1, 2, 4):
        for found, expected in zip(forward_of(TINY, batch)(patches), plain, strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("value", [0, 7, 65535])
def test_a_constant_image_is_zeros_to_the_network(value):
    image = np.full((9, 10, 11), value, np.uint16)
    counted = Counted(TINY.network)
    found = predict_array(model_of(RESIDUAL, counted), image, (1, 1, 1))
    expected = predict_array(TINY, np.zeros_like(image), (1, 1, 1))
    assert np.abs(found.astype(int) - expected).max() <= 1


# what goes wrong


def test_a_network_that_gives_no_numbers_is_named():
    model = model_of(RESIDUAL, Counted(TINY.network, gives=float("nan")))
    with pytest.raises(BadInputError, match="not finite"):
        predict_array(model, picture((8, 8, 8)), (1, 1, 1), constants=CONSTANTS)


def test_a_full_gpu_halves_the_batch_and_goes_on():
    network = Counted(TINY.network, fits=3)
    image = picture((8, 12, 16))
    forward = Forward(network, TINY.representation, torch.device("cpu"), batch=8)
    tiling = Tiling.of(TINY, image.shape, (1, 1, 1))
    found = whole_of(tiling, image, forward)
    assert (forward.batch, forward.halved) == (2, 2)
    assert [shape[0] for shape in network.calls[:4]] == [8, 4, 2, 2]
    assert {shape[0] for shape in network.calls[2:]} == {2}
    plain = Forward(TINY.network, TINY.representation, torch.device("cpu"), batch=2)
    np.testing.assert_array_equal(found, whole_of(tiling, image, plain))


def test_a_gpu_that_is_too_small_for_a_patch_is_named():
    network = Counted(TINY.network, fits=0)
    forward = Forward(network, TINY.representation, torch.device("cpu"), batch=4)
    tiling = Tiling.of(TINY, (8, 8, 8), (1, 1, 1))
    with pytest.raises(EnvironmentFailedError, match=r"\(8, 8, 8\).*--device cpu"):
        whole_of(tiling, picture((8, 8, 8)), forward)
    assert [shape[0] for shape in network.calls] == [4, 2, 1]


# seams


def steps_at_planes(prediction, core):
    """Mean step along x across lattice planes, over that of all other neighbours."""
    profile = np.abs(np.diff(prediction.astype(float), axis=3)).mean(axis=(0, 1, 2))
    planes = np.arange(core - 1, profile.size, core)
    return profile[planes].mean() / np.delete(profile, planes).mean()


def test_blended_patches_leave_no_seams():
    noise = np.random.default_rng(1).random((16, 16, 72))
    smooth = ndimage.gaussian_filter(noise, 4)
    image = (1000 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.uint16)
    found = {}
    # the second one shows that seams would be seen
    for blending, halo in (("gaussian", 4), ("crop", 2)):
        changes = {"patch": (16,) * 3, "halo": (halo,) * 3, "blending": blending}
        model = model_of(RESIDUAL, TINY.network, **changes)
        predicted = predict_array(model, image, (1, 1, 1), constants=(0, 1000))
        found[blending] = steps_at_planes(predicted, core=16 - 2 * halo)
    assert found["gaussian"] < 1.1
    assert found["crop"] > 1.5


# constants


@settings(deadline=None)
@given(st.integers(1, 400), st.sampled_from(["u1", "i1", "u2", "i2", "u4", "f4", "f8"]),
       st.integers(0, 99))  # fmt: skip
def test_percentiles_are_values_of_voxels_at_their_ranks(n, dtype, seed):
    values = np.random.default_rng(seed).integers(0, 120, n).astype(dtype)
    ordered = np.sort(values)
    expected = tuple(float(ordered[int(p / 100 * (n - 1))]) for p in (1, 99.8))
    assert percentiles(values.reshape(1, 1, n), 1, 99.8) == expected


def test_voxels_that_are_not_finite_count_as_zero():
    image = picture((8, 9, 10)).astype(np.float64)
    zeroed = image.copy()
    image[0, 0, 0], image[4, 4, 4], image[7, 8, 9] = np.nan, np.inf, 1e300
    zeroed[0, 0, 0] = zeroed[4, 4, 4] = zeroed[7, 8, 9] = 0
    np.testing.assert_array_equal(
        predict_array(TINY, image, (1, 1, 1)), predict_array(TINY, zeroed, (1, 1, 1))
    )
