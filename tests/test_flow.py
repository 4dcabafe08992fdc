"""Flows, voxels followed to their sinks, and that no cut shows in where they end."""

import itertools
import math

import numpy as np
import pytest
import scipy.ndimage as ndi
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cellseg3d_dist.errors import ConfigError
from cellseg3d_dist.grid import BlockGrid, Region
from cellseg3d_dist.instances.spots import names_of_seeds
from cellseg3d_dist.representations import representation
from cellseg3d_dist.representations.diffusion import flows
from cellseg3d_dist.representations.flow import Flow
from cellseg3d_dist.representations.following import FlowParameters, follow, reach
from cellseg3d_dist.representations.sinks import (
    Arrivals,
    arrivals,
    assign,
    merge_arrivals,
    number,
    sinks,
)

torch.set_num_threads(1)

BOX = np.ones((3, 3, 3), bool)
FLOW = Flow()
LENIENT = FlowParameters(min_arrivals=1, min_voxels=1)
SEEDS = st.integers(0, 2**32 - 1)


def stored(target):
    """Targets as a perfect network's stored prediction."""
    activated = np.concatenate([target[:1], (target[1:] + 1) / 2])
    return np.floor(255 * activated + 0.5).astype(np.uint8)


def ellipsoids(rng, shape, n, voxel_size=(1.0, 1.0, 1.0), radii=(4, 9)):
    """Touching ellipsoids, each voxel of the nearest one; ids have gaps."""
    size = np.array(voxel_size) / min(voxel_size)
    at = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1) * size
    nearest = np.ones(shape)
    labels = np.zeros(shape, np.int32)
    found = []
    for _ in range(100 * n):
        centre, radius = rng.random(3) * np.array(shape) * size, rng.uniform(*radii, 3)
        apart = [
            np.linalg.norm((centre - other) / np.minimum(radius, r)) > 1.5 for other, r in found
        ]
        if len(found) < n and all(apart):
            found.append((centre, radius))
            distance = (((at - centre) / radius) ** 2).sum(-1)
            labels[distance < nearest] = 7 * len(found)
            nearest = np.minimum(nearest, distance)
    # what another one cut off is nothing one could find
    for label in np.unique(labels)[1:]:
        parts, n_parts = ndi.label(labels == label)
        sizes = np.bincount(parts.ravel())[1:]
        if n_parts > 1 or sizes[0] < 40:
            largest = 1 + sizes.argmax() if sizes.max() >= 40 else 0
            labels[(parts > 0) & (parts != largest)] = 0
    return labels


def random_prediction(rng, shape, density=0.5):
    """Random foreground and a smooth random flow: sinks, circles and ways out everywhere."""
    values = ndi.gaussian_filter(rng.normal(size=(4, *shape)), (0, 1, 1, 1))
    values[1:] = np.tanh(values[1:] * rng.choice([1, 4, 30]))
    values[0] = values[0] > np.quantile(values[0], 1 - density)
    return stored(values)


# --- encode ---------------------------------------------------------------------------


def heat_plain(mask, centre, weights, n):
    """n steps of diffusion by convolution; everything outside the mask stays cold."""
    kernel = np.zeros((3, 3, 3))
    for axis, weight in enumerate(weights):
        for side in (0, 2):
            at = [1, 1, 1]
            at[axis] = side
            kernel[tuple(at)] = weight
    heat = np.zeros(mask.shape)
    for _ in range(n):
        heat[centre] += 1
        heat = ndi.convolve(heat, kernel / kernel.sum(), mode="constant") * mask
    heat[centre] += 1
    return heat


@pytest.mark.parametrize("voxel_size", [(1, 1, 1), (2.0, 0.5, 1.0)])
def test_flows_are_gradients_of_diffused_heat(voxel_size):
    labels = np.pad(ellipsoids(np.random.default_rng(5), (12, 20, 20), 4), 1)
    found = flows(labels, voxel_size)
    ratio = np.array(voxel_size) / min(voxel_size)
    for label in np.unique(labels)[1:]:
        mask = labels == label
        at = np.argwhere(mask)
        nearest = (((at - at.mean(0)) * ratio) ** 2).sum(1).argmin()
        n = 2 * (np.ptp(at, 0) + 1).sum()
        heat = np.log1p(heat_plain(mask, tuple(at[nearest]), 1 / ratio**2, n))
        expected = np.stack(np.gradient(heat, *ratio))
        expected /= np.linalg.norm(expected, axis=0) + 1e-300
        np.testing.assert_allclose(found[:, mask], expected[:, mask], atol=1e-5)
    assert (found[:, labels == 0] == 0).all()


def test_flows_point_to_the_centre_of_a_ball_whatever_the_voxel_size():
    size = np.array((3.0, 1.0, 1.0))
    at = np.stack(np.meshgrid(*map(np.arange, (9, 27, 27)), indexing="ij"), -1) * size
    towards = np.array((4, 13, 13)) * size - at
    distance = np.linalg.norm(towards, axis=-1)
    found = flows((distance < 12).astype(int), tuple(size))
    ring = (distance < 12) & (distance > 4)
    cosine = (found * np.moveaxis(towards, -1, 0)).sum(0)[ring] / distance[ring]
    assert cosine.mean() > 0.97
    assert cosine.min() > 0.8


def test_flows_do_not_depend_on_ids_and_are_of_unit_length():
    labels = ellipsoids(np.random.default_rng(2), (16, 32, 32), 8)
    found = flows(labels, (1, 1, 1))
    renamed = np.where(labels > 0, 10_000_000 - labels.astype(np.int64), -1)
    np.testing.assert_array_equal(found, flows(renamed, (2.5, 2.5, 2.5)))
    length = np.linalg.norm(found, axis=0)
    assert (np.isclose(length, 1, atol=1e-5) | (length == 0)).all()
    assert (length[labels > 0] == 0).sum() <= np.unique(labels).size - 1


def test_parts_of_a_label_flow_each_to_its_own_centre():
    labels = np.zeros((5, 5, 20), np.uint16)
    labels[:, :, :7] = labels[:, :, 12:] = 3
    apart = np.where(np.arange(20) < 10, labels, 2 * labels)
    np.testing.assert_array_equal(flows(labels, (1, 1, 1)), flows(apart, (1, 1, 1)))
    assert np.abs(flows(labels, (1, 1, 1))).max() == 1


def test_with_its_halo_a_patch_has_the_flows_of_the_whole():
    labels = ellipsoids(np.random.default_rng(4), (40, 48, 48), 40, radii=(3, 6))
    whole = FLOW.encode(labels, (1, 1, 1))
    halo = FLOW.encode_halo
    patch = Region((14, 16, 18), (26, 32, 30))
    read = patch.expand((halo,) * 3, labels.shape)
    found = FLOW.encode(labels[read.slices], (1, 1, 1))
    inner = patch.within(read)
    np.testing.assert_array_equal(
        found[(slice(None), *inner.slices)], whole[(slice(None), *patch.slices)]
    )


@pytest.mark.parametrize("shape", [(0, 4, 4), (1, 1, 1), (3, 4, 5)])
def test_nothing_is_encoded_and_decoded_as_nothing(shape):
    target = FLOW.encode(np.zeros(shape, np.uint8), (1, 1, 1))
    assert target.dtype == np.float32
    assert target.shape == (4, *shape)
    assert not target.any()
    labels = FLOW.decode(stored(target), (1, 1, 1), FLOW.parameters)
    assert labels.dtype == np.uint32
    assert labels.shape == shape
    assert not labels.any()


# --- round trip -----------------------------------------------------------------------


@pytest.mark.parametrize("voxel_size", [(1, 1, 1), (1.75, 0.8, 0.8), (4, 1, 1)])
@pytest.mark.parametrize("seed", range(4))
def test_round_trip_gives_touching_objects_back(seed, voxel_size):
    rng = np.random.default_rng(seed)
    labels = ellipsoids(rng, (24, 48, 48), 16, voxel_size)
    n = np.unique(labels).size - 1
    prediction = stored(FLOW.encode(labels, voxel_size))
    found = FLOW.decode(prediction, voxel_size, FlowParameters())
    assert found.max() == n > 5
    np.testing.assert_array_equal(found > 0, labels > 0)
    indices = np.unique(labels, return_inverse=True)[1].reshape(labels.shape)
    both = np.histogram2d(indices.ravel(), found.ravel(), bins=np.arange(n + 2))[0]
    iou = both / (both.sum(0) + both.sum(1)[:, None] - both)
    assert iou[1:].max(1).min() > 0.9


def test_single_voxels_and_slivers_come_back():
    labels = np.zeros((6, 7, 30), np.int64)
    labels[2, 2, 3] = 9
    labels[5, 6, 29] = 4
    labels[3, 3, 8:14] = 2**40
    labels[0, :, 20] = 1
    found = FLOW.decode(stored(FLOW.encode(labels, (1, 1, 1))), (1, 1, 1), LENIENT)
    pairs = np.unique(np.stack([labels.ravel(), found.ravel()]), axis=1)
    assert pairs.shape[1] == 5
    # in the order of first voxels, x slowest
    assert found[3, 3, 8] == 2
    assert [found[2, 2, 3], found[0, 0, 20], found[5, 6, 29]] == [1, 3, 4]


def test_small_objects_are_dropped_and_the_others_keep_their_order():
    labels = np.zeros((8, 8, 40), np.uint8)
    labels[2:6, 2:6, 2:6], labels[3:5, 3:5, 12:14], labels[1:7, 1:7, 20:26] = 1, 2, 3
    prediction = stored(FLOW.encode(labels, (1, 1, 1)))
    found = FLOW.decode(prediction, (1, 1, 1), FlowParameters(min_arrivals=1, min_voxels=9))
    np.testing.assert_array_equal(found, np.array([0, 1, 0, 2])[labels])
    found = FLOW.decode(prediction, (1, 1, 1), FlowParameters(min_arrivals=9, min_voxels=1))
    np.testing.assert_array_equal(found, np.array([0, 1, 0, 2])[labels])


# --- follow ---------------------------------------------------------------------------


def whole_follow(prediction, voxel_size, parameters):
    whole = Region.whole(prediction.shape[1:])
    return follow(prediction, whole, whole, whole.stop, voxel_size, parameters)


@pytest.mark.parametrize("voxel_size", [(1, 1, 1), (2.0, 1.0, 0.5)])
def test_ways_are_those_of_linear_interpolation(voxel_size):
    prediction = random_prediction(np.random.default_rng(3), (12, 14, 16))
    parameters = FlowParameters(n_iterations=5, step=0.7)
    followed = whole_follow(prediction, voxel_size, parameters)
    flow = (prediction[1:] / 127.5 - 1) * (prediction[0] > 127)
    at = np.argwhere(prediction[0] > 127).astype(float)
    for _ in range(5):
        moved = [ndi.map_coordinates(part, at.T, order=1) for part in flow]
        at += 0.7 * min(voxel_size) / np.array(voxel_size) * np.stack(moved, 1)
        at = np.clip(at, 0, np.array(flow.shape[1:]) - 1)
    ends = np.stack(np.unravel_index(followed.ends, flow.shape[1:]), 1)
    # half a voxel, and what rounding to 1/1024 adds up to
    assert np.abs(ends - at).max() < 0.52


def test_circles_are_left_at_the_same_place_as_by_going_round():
    # a wheel of four voxels
    prediction = np.full((4, 1, 2, 2), 128, np.uint8)
    prediction[0] = 255
    wheel = {(0, 0): (0, 1), (0, 1): (1, 0), (1, 1): (0, -1), (1, 0): (-1, 0)}
    for (y, x), (fy, fx) in wheel.items():
        prediction[2, 0, y, x], prediction[3, 0, y, x] = 127.5 + 127.5 * fy, 127.5 + 127.5 * fx
    turn = [0, 1, 3, 2]
    for n in (1, 2, 3, 4, 5, 30, 31, 999):
        ends = whole_follow(prediction, (1, 1, 1), FlowParameters(n_iterations=n)).ends
        assert ends.tolist() == [turn[(turn.index(k) + n) % 4] for k in range(4)]


def blocks_follow(prediction, block_shape, halo, voxel_size, parameters):
    """Ends and openness of all foreground, block by block: index in the volume, end, open."""
    shape = prediction.shape[1:]
    grid = BlockGrid(shape, block_shape)
    for block in grid.blocks():
        region = grid.read_region(block, halo)
        known = prediction[(slice(None), *region.slices)]
        found = follow(known, region, block.write_region, shape, voxel_size, parameters)
        at = np.unravel_index(found.voxels, block.write_region.shape)
        start = block.write_region.start
        at = tuple(a + s for a, s in zip(at, start, strict=True))
        yield block, np.ravel_multi_index(at, shape), found


CUTS = st.tuples(
    st.tuples(*[st.integers(1, 12)] * 3),
    st.tuples(*[st.integers(1, 12)] * 3),
    st.tuples(*[st.integers(0, 5)] * 3),
    SEEDS,
    st.sampled_from([(1.0, 1.0, 1.0), (4.0, 1.0, 1.0), (1.75, 0.8, 0.8), (0.3, 0.5, 0.7)]),
    st.integers(1, 12),
    st.sampled_from([0.1, 0.37, 1.0]),
)


@given(CUTS)
@settings(max_examples=150, deadline=None)
def test_a_voxel_that_is_not_open_ends_as_in_the_whole_volume(cut):
    shape, block_shape, halo, seed, voxel_size, n, step = cut
    prediction = random_prediction(np.random.default_rng(seed), shape)
    before = prediction.copy()
    parameters = FlowParameters(n_iterations=n, step=step)
    ends = np.full(math.prod(shape), -1)
    followed = whole_follow(prediction, voxel_size, parameters)
    assert not followed.is_open.any()
    ends[followed.voxels] = followed.ends
    enough = reach(voxel_size, parameters)
    for given_halo in (halo, enough):
        seen = []
        for _, at, found in blocks_follow(
            prediction, block_shape, given_halo, voxel_size, parameters
        ):
            np.testing.assert_array_equal(found.ends[~found.is_open], ends[at][~found.is_open])
            assert (found.ends[found.is_open] == -1).all()
            assert not (found.is_open.any() and given_halo == enough)
            seen.append(at)
        np.testing.assert_array_equal(np.sort(np.concatenate(seen)), followed.voxels)
    np.testing.assert_array_equal(prediction, before)


def test_reach_is_the_longest_way_and_no_more():
    # a straight flow: with one voxel less the farthest voxel is open
    prediction = np.full((4, 3, 3, 30), 255, np.uint8)
    prediction[1:3] = 128
    for n, step, voxel_size, expected in (
        (1, 1.0, (1, 1, 1), (0, 0, 0)),
        (9, 1.0, (4, 1, 1), (2, 8, 8)),
        (9, 0.5, (1, 1, 1), (4, 4, 4)),
    ):
        parameters = FlowParameters(n_iterations=n, step=step)
        halo = reach(voxel_size, parameters)
        assert halo == expected
        write = Region((0, 0, 0), (3, 3, 5))
        for less in (0, 1):
            read = Region((0, 0, 0), (3, 3, 5 + halo[2] - less))
            if read.stop[2] < 5:
                continue
            known = prediction[..., : read.stop[2]]
            found = follow(known, read, write, (3, 3, 30), voxel_size, parameters)
            assert found.is_open.any() == bool(less)


def test_some_voxels_only_can_be_followed_again():
    prediction = random_prediction(np.random.default_rng(8), (9, 9, 9))
    parameters = FlowParameters(n_iterations=20)
    write, read, shape = Region((3, 3, 3), (6, 6, 6)), Region((2, 2, 2), (7, 7, 7)), (9, 9, 9)
    known = prediction[(slice(None), *read.slices)]
    first = follow(known, read, write, shape, (1, 1, 1), parameters)
    again = first.voxels[first.is_open]
    assert 0 < again.size < first.voxels.size
    whole = Region.whole(shape)
    redone = follow(prediction, whole, write, shape, (1, 1, 1), parameters, again)
    np.testing.assert_array_equal(redone.voxels, again)
    both = first.ends.copy()
    both[first.is_open] = redone.ends
    expected = follow(prediction, whole, write, shape, (1, 1, 1), parameters)
    np.testing.assert_array_equal(both, expected.ends)


def test_a_prediction_with_channels_last_is_left_as_it_is():
    prediction = np.moveaxis(np.full((3, 4, 5, 4), 200, np.uint8), -1, 0)
    FLOW.decode(prediction, (1, 1, 1), LENIENT)
    assert (prediction == 200).all()


# --- sinks ----------------------------------------------------------------------------


def sinks_plain(counts, t):
    """Name of each end on the dense grid, with scipy's labels and a search of every box."""
    shape = counts.shape
    mass = ndi.convolve(counts, BOX.astype(int), mode="constant")
    strong = (counts > 0) & (mass >= t)
    groups, _ = ndi.label(strong, BOX)
    every = names_of_seeds(np.arange(counts.size), Region.whole(shape), shape).reshape(shape)
    names = np.zeros(shape, np.uint64)
    for group in range(1, groups.max() + 1):
        names[groups == group] = every[groups == group].min()
    found = names.copy()
    for at in np.argwhere((counts > 0) & ~strong):
        best = (4, 0)
        for shift in itertools.product((-1, 0, 1), repeat=3):
            near = at + shift
            if (near < 0).any() or (near >= shape).any() or not names[tuple(near)]:
                continue
            candidate = (np.square(shift).sum(), names[tuple(near)])
            best = min(best, candidate)
        found[tuple(at)] = best[1]
    return found


@given(st.tuples(*[st.integers(1, 9)] * 3), SEEDS, st.integers(1, 12))
@settings(max_examples=100, deadline=None)
def test_sinks_are_groups_of_strong_ends(shape, seed, t):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(2, shape) * (rng.random(shape) < rng.choice([0.1, 0.3]))
    positions = np.flatnonzero(counts)
    record = Arrivals(positions, counts.ravel()[positions])
    found = sinks(record, shape, FlowParameters(min_arrivals=t))
    expected = sinks_plain(counts, t).ravel()
    np.testing.assert_array_equal(found.positions, np.flatnonzero(expected))
    np.testing.assert_array_equal(found.names, expected[expected > 0])
    np.testing.assert_array_equal(assign(np.arange(counts.size), found), expected)


@given(CUTS)
@settings(max_examples=60, deadline=None)
def test_labels_of_blocks_are_those_of_the_whole(cut):
    shape, block_shape, halo, seed, voxel_size, n, step = cut
    rng = np.random.default_rng(seed)
    prediction = random_prediction(rng, shape)
    parameters = FlowParameters(
        n_iterations=n, step=step, min_arrivals=int(rng.integers(1, 9)), min_voxels=2
    )
    ends = np.full(math.prod(shape), -1)
    records = []
    enough = reach(voxel_size, parameters)
    grid = BlockGrid(shape, block_shape)
    for block, at, found in blocks_follow(prediction, block_shape, halo, voxel_size, parameters):
        region = grid.read_region(block, enough)
        redone = follow(
            prediction[(slice(None), *region.slices)],
            region,
            block.write_region,
            shape,
            voxel_size,
            parameters,
            found.voxels[found.is_open],
        )
        found.ends[found.is_open] = redone.ends
        ends[at] = found.ends
        records.append(arrivals(found.ends))
    rng.shuffle(records)
    merged = merge_arrivals([merge_arrivals(records[:2]), merge_arrivals(records[2:])])
    whole = arrivals(ends[ends >= 0])
    np.testing.assert_array_equal(merged.positions, whole.positions)
    np.testing.assert_array_equal(merged.counts, whole.counts)
    grouped = sinks(merged, shape, parameters)
    labels = number(assign(ends, grouped), grouped, parameters).reshape(shape)
    np.testing.assert_array_equal(labels, FLOW.decode(prediction, voxel_size, parameters))


# --- loss -----------------------------------------------------------------------------


def a_target():
    labels = ellipsoids(np.random.default_rng(1), (12, 20, 20), 5, radii=(3, 5))
    return labels, torch.from_numpy(FLOW.encode(labels, (1, 1, 1)))[None]


def test_an_output_fitted_to_the_loss_decodes_to_the_labels():
    labels, target = a_target()
    output = torch.zeros_like(target, requires_grad=True)
    optimiser = torch.optim.Adam([output], 0.3)
    losses = []
    for _ in range(60):
        loss = FLOW.loss(output, target, None)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 20
    activated = FLOW.activate(output.detach())[0].numpy()
    assert activated.min() >= 0
    assert activated.max() <= 1
    found = FLOW.decode(np.floor(255 * activated + 0.5).astype(np.uint8), (1, 1, 1), LENIENT)
    pairs = np.unique(np.stack([labels.ravel(), found.ravel()]), axis=1)
    assert pairs.shape[1] == np.unique(labels).size == found.max() + 1


def test_what_is_not_annotated_counts_for_nothing():
    _, target = a_target()
    generator = torch.Generator().manual_seed(0)
    output = torch.randn(target.shape, generator=generator)
    valid = (torch.rand((1, 1, *target.shape[2:]), generator=generator) < 0.5).float()
    expected = FLOW.loss(output, target, valid)
    hidden = (valid == 0).expand_as(output)
    other = torch.where(hidden, torch.nan, output).requires_grad_()
    loss = FLOW.loss(other, torch.where(hidden, torch.nan, target), valid)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert other.grad is not None
    assert (other.grad[hidden] == 0).all()
    assert other.grad.isfinite().all()
    nothing = FLOW.loss(output.requires_grad_(), target, torch.zeros_like(valid))
    assert nothing.item() == 0


def test_flow_outside_cells_and_in_a_patch_without_any_does_not_matter():
    _, target = a_target()
    output = torch.zeros_like(target)
    moved = output.clone()
    moved[:, 1:] = torch.where(target[:, :1] > 0, output[:, 1:], torch.tensor(3.0))
    assert FLOW.loss(moved, target, None) == FLOW.loss(output, target, None)
    assert FLOW.loss(moved, torch.zeros_like(target), None).isfinite()


# --- options --------------------------------------------------------------------------


def test_it_is_found_by_name():
    found = representation("flow", flow_weight=2.0, encode_halo=20)
    assert found.encode_halo == 20
    assert found.n_outputs == len(found.channels) == 4


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"threshold": 1.5}, "threshold 1.5"),
        ({"n_iterations": 0}, "n_iterations 0"),
        ({"n_iterations": 5000}, "n_iterations 5000 must be at most 1000"),
        ({"step": 2}, "step 2 must be above 0 and at most 1 voxel"),
        ({"step": float("nan")}, "step nan"),
        ({"min_arrivals": 0}, "min_arrivals 0"),
        ({"min_voxels": -1}, "min_voxels -1"),
    ],
)
def test_parameters_that_cannot_be_used_are_refused(wrong, match):
    with pytest.raises(ConfigError, match=match):
        FlowParameters(**wrong)


def test_a_negative_weight_is_refused():
    with pytest.raises(ConfigError, match="flow_weight -1"):
        Flow(flow_weight=-1)
