"""Foreground, boundary and bcd: targets of labels, and labels from targets."""

import dataclasses
import functools
import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
import scipy.ndimage as ndi
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import BOX, DIAMOND, flood_plain

from cellseg3d_dist.errors import ConfigError
from cellseg3d_dist.representations import (
    REPRESENTATIONS,
    decoding_parameters,
    representation,
)
from cellseg3d_dist.representations.bcd import BcdParameters
from cellseg3d_dist.representations.boundary import BoundaryParameters
from cellseg3d_dist.representations.foreground import ForegroundParameters
from cellseg3d_dist.representations.seeded import above, below, decode_seeded
from cellseg3d_dist.representations.touching import (
    as_indices,
    edges,
    relative_size,
    squared_distances,
)

torch.set_num_threads(1)
ISOTROPIC = (0.7, 0.7, 0.7)
ANISOTROPIC = (2.0, 0.8, 0.8)
OWN = ("foreground", "boundary", "bcd")
#: Every option that changes targets.
TIDIED = ("boundary", {"edge": "outer", "min_slice_area": 6, "smoothing": 1})
KINDS = [
    ("boundary", {"edge": "inner"}),
    ("boundary", {"edge": "outer"}),
    ("boundary", {"edge": "touching"}),
    ("bcd", {}),
    ("bcd", {"contour": "touching"}),
    ("bcd", {"distance": "paper"}),
]


@functools.cache
def touching_ellipsoids(seed, voxel_size=(1.0, 1.0, 1.0), extent=(26, 34, 34), radius=5.5):
    """Labels of ellipsoids on a jittered lattice, cut where they meet; lengths in one unit."""
    rng = np.random.default_rng(seed)
    lattice = [np.arange(0.6 * radius, e, 1.6 * radius) for e in extent]
    centres = np.array(list(itertools.product(*lattice)))
    centres = rng.permutation(centres + rng.uniform(-0.15, 0.15, centres.shape) * radius)
    shape = [int(np.ceil(e / size)) for e, size in zip(extent, voxel_size, strict=True)]
    labels = np.zeros(shape, int)
    nearest = np.ones(shape)
    for label, centre in enumerate(centres, 1):
        radii = rng.uniform(0.85, 1.1, 3) * radius
        low = np.maximum((centre - radii) / voxel_size, 0).astype(int)
        high = np.minimum((centre + radii) / voxel_size + 2, shape).astype(int)
        box = tuple(map(slice, low, high))
        at = np.stack(np.mgrid[box], -1) * voxel_size
        distance = (((at - centre) / radii) ** 2).sum(-1)
        closer = distance < nearest[box]
        labels[box][closer] = label
        nearest[box][closer] = distance[closer]
    labels.flags.writeable = False
    return labels


def random_labels(seed, shape, n):
    """Blobs of any form that touch, and single voxels."""
    rng = np.random.default_rng(seed)
    values = ndi.gaussian_filter(rng.random(shape), 0.8)
    labels = rng.integers(1, n + 1, shape)
    labels = ndi.maximum_filter(labels, 2)
    return np.where(values > np.median(values), labels, 0)


def stored(targets, name):
    """What a perfect network's prediction is stored as."""
    activated = targets.copy()
    if name == "bcd":
        activated[2] = (activated[2] + 1) / 2
    return np.floor(255 * activated + 0.5).astype(np.uint8)


def matched_ious(labels_true, labels_pred):
    """IoU of each true label with the label it overlaps most."""
    ious = []
    for label in np.unique(labels_true[labels_true > 0]):
        inside = labels_true == label
        best = np.bincount(labels_pred[inside]).argmax()
        both = (inside & (labels_pred == best)).sum() if best else 0
        ious.append(both / (inside | (labels_pred == best)).sum())
    return np.array(ious)


@pytest.mark.parametrize(("name", "options"), KINDS)
@pytest.mark.parametrize("voxel_size", [(1.0, 1.0, 1.0), (1.5, 1.0, 1.0), (2.5, 1.0, 1.0)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_labels_come_back_from_their_targets(name, options, voxel_size, seed):
    labels = touching_ellipsoids(seed, voxel_size)
    kind = representation(name, **options)
    # tanh(distance / 8) of so small cells is below a half
    given = {"seed_distance": 0.25} if options.get("distance") == "paper" else {}
    parameters = decoding_parameters(kind, {"min_seed_voxels": 1, "min_voxels": 1, **given})
    target = kind.encode(labels, voxel_size)
    found = kind.decode(stored(target, name), voxel_size, parameters)
    if options.get("edge") == "outer":
        # edges are the background around nuclei: what touches is not given back
        labels = np.where(target[2] > 0, labels, 0)
    assert found.dtype == np.uint32
    assert found.max() == np.unique(labels).size - 1
    np.testing.assert_array_equal(found > 0, labels > 0)
    ious = matched_ious(labels, found)
    assert ious.min() > 0.75
    assert ious.mean() > 0.93


def test_foreground_comes_back_as_voronoi_otsu_of_it():
    voxel_size = (1.0, 1.0, 1.0)
    labels = touching_ellipsoids(3, voxel_size)
    kind = representation("foreground")
    target = kind.encode(labels, voxel_size)
    np.testing.assert_array_equal(target, (labels > 0)[None].astype(np.float32))
    found = kind.decode(stored(target, "foreground"), voxel_size, ForegroundParameters(0.5, 2, 0))
    np.testing.assert_array_equal(found > 0, labels > 0)
    assert abs(int(found.max()) - labels.max()) <= 0.2 * labels.max()


def test_foreground_is_above_its_threshold_and_sigmas_are_micrometres():
    parameters = ForegroundParameters(threshold=0.4, spot_sigma=3.2, outline_sigma=0)
    spec = parameters.spec((2.0, 0.8, 0.8))
    assert spec.spot_sigma == pytest.approx((1.6, 4.0, 4.0))
    assert spec.outline_sigma == (0, 0, 0)
    image = np.zeros((1, 1, 3, 3), np.uint8)
    image[0, 0, 1] = 101, 102, 103  # 0.4 is 102
    found = representation("foreground").decode(image, (1.0, 1.0, 1.0), parameters)
    np.testing.assert_array_equal(found[0], [[0, 0, 0], [0, 0, 1], [0, 0, 0]])


@given(st.tuples(*[st.integers(1, 9)] * 3), st.integers(0, 2**32 - 1), st.integers(1, 8))
@settings(max_examples=60, deadline=None)
def test_distances_are_those_of_each_label_alone(shape, seed, n):
    labels = random_labels(seed, shape, n)
    indices, _ = as_indices(labels)
    for voxel_size in (ISOTROPIC, ANISOTROPIC, (1.0, 3.0, 0.5)):
        found = np.sqrt(squared_distances(indices, voxel_size, background=True))
        for label in np.unique(labels):
            inside = labels == label
            if inside.all():
                assert np.isinf(found).all()
                continue
            alone = ndi.distance_transform_edt(inside, sampling=relative_size(voxel_size))
            np.testing.assert_allclose(found[inside], alone[inside], rtol=1e-5)
        cells = np.sqrt(squared_distances(indices, voxel_size))
        np.testing.assert_array_equal(cells, np.where(labels > 0, found, 0))


def edges_plain(labels, along, kind):
    """Edges by one dilation of each label."""
    faces = DIAMOND & BOX
    for axis in range(3):
        if not along[axis]:
            faces = np.moveaxis(
                np.moveaxis(faces, axis, 0) * np.array([0, 1, 0])[:, None, None], 0, axis
            )
    out = np.zeros(labels.shape, bool)
    background = labels == 0
    for label in np.unique(labels[labels > 0]):
        inside = labels == label
        out |= ndi.binary_dilation(inside, BOX) & ~inside & ~background
        if kind == "outer":
            out |= ndi.binary_dilation(inside, faces) & background
        if kind == "inner":
            out |= inside & ndi.binary_dilation(background, faces)
    return out


@given(st.tuples(*[st.integers(1, 9)] * 3), st.integers(0, 2**32 - 1), st.integers(1, 8))
@settings(max_examples=60, deadline=None)
def test_edges_are_dilations_less_masks(shape, seed, n):
    labels = random_labels(seed, shape, n)
    indices, _ = as_indices(labels)
    for kind in ("inner", "outer", "touching"):
        for voxel_size, along in (
            (ISOTROPIC, (True, True, True)),
            (ANISOTROPIC, (False, True, True)),
            ((2.0, 1.0, 1.0), (True, True, True)),
            ((1.0, 1.0, 0.4), (False, False, True)),
        ):
            np.testing.assert_array_equal(
                edges(indices, voxel_size, kind), edges_plain(labels, along, kind)
            )


@given(st.tuples(*[st.integers(1, 12)] * 3), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
@pytest.mark.parametrize("kind", ["inner", "outer", "touching"])
def test_what_edges_leave_of_two_labels_never_touches(kind, shape, seed):
    labels = random_labels(seed, shape, 6)
    inner = np.where(edges(as_indices(labels)[0], ANISOTROPIC, kind), 0, labels)
    parts, n = ndi.label(inner, BOX)
    for part in range(1, n + 1):
        assert np.unique(inner[parts == part]).size == 1


@pytest.mark.parametrize(("name", "options"), [*KINDS, ("foreground", {}), TIDIED])
@pytest.mark.parametrize("voxel_size", [ISOTROPIC, ANISOTROPIC])
def test_targets_are_those_of_the_whole_within_the_halo(name, options, voxel_size):
    kind = representation(name, **options)
    labels = touching_ellipsoids(5, (1, 1, 1), (40, 44, 48), radius=4)
    halo = kind.encode_halo
    patch = (slice(17, 20), slice(17, 24), slice(18, 23))
    read = tuple(slice(max(s.start - halo, 0), s.stop + halo) for s in patch)
    inner = tuple(
        slice(s.start - r.start, s.stop - r.start) for s, r in zip(patch, read, strict=True)
    )
    whole = kind.encode(labels, voxel_size)[(slice(None), *patch)]
    cut = kind.encode(labels[read], voxel_size)[(slice(None), *inner)]
    np.testing.assert_allclose(cut, whole, atol=1e-6)


@pytest.mark.parametrize(("name", "options"), [*KINDS, ("foreground", {}), TIDIED])
@pytest.mark.parametrize(
    "renamed",
    [
        lambda labels: labels.astype(np.uint8),
        lambda labels: (labels * 1000).astype(np.int32),
        lambda labels: labels.astype(np.uint64) * np.uint64(2**57),
        lambda labels: np.where(labels > 0, labels, -1),
        lambda labels: np.where(labels > 0, labels * 10**12, -(10**12)),
        lambda labels: np.asfortranarray(labels.astype(">u2")),
        lambda labels: np.repeat(labels, 2, 2)[:, :, ::2],
    ],
)
def test_only_which_voxels_share_a_label_matters(name, options, renamed):
    kind = representation(name, **options)
    labels = touching_ellipsoids(4, extent=(12, 18, 18))
    expected = kind.encode(labels, ANISOTROPIC)
    found = kind.encode(renamed(labels), ANISOTROPIC)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


def test_ids_become_indices_in_their_order():
    labels = np.array([[[7, 0, 2**63, 7, 2**64 - 1]]], np.uint64)
    indices, n = as_indices(labels)
    assert indices.dtype == np.int32
    assert indices.ravel().tolist() == [1, 0, 2, 1, 3]
    assert n == 3
    indices, n = as_indices(np.array([[[2**40, 5]]]))
    assert (indices.ravel().tolist(), n) == ([2, 1], 2)
    assert as_indices(np.zeros((0, 3, 3), np.int64))[1] == 0


@pytest.mark.parametrize(("name", "options"), [*KINDS, ("foreground", {})])
@pytest.mark.parametrize("shape", [(4, 5, 6), (1, 1, 1), (0, 4, 4)])
def test_no_label_is_background_and_decodes_to_none(name, options, shape):
    kind = representation(name, **options)
    target = kind.encode(np.zeros(shape, np.uint16), ISOTROPIC)
    assert target.shape[1:] == shape
    assert target.dtype == np.float32
    background = {"foreground": [0], "boundary": [1, 0, 0], "bcd": [0, 0, -1]}[name]
    for channel, value in zip(target, background, strict=True):
        assert (channel == value).all()
    found = kind.decode(stored(target, name), ISOTROPIC, kind.parameters)
    assert found.shape == shape
    assert not found.any()


@pytest.mark.parametrize(("name", "options"), KINDS)
@pytest.mark.parametrize("shape", [(4, 5, 6), (1, 1, 1)])
def test_a_label_that_fills_the_patch_has_no_edge_in_sight(name, options, shape):
    target = representation(name, **options).encode(np.full(shape, 9), ISOTROPIC)
    expected = {"boundary": [0, 0, 1], "bcd": [1, 0, 1]}[name]
    for channel, value in zip(target, expected, strict=True):
        assert (channel == value).all()


def test_a_label_of_one_voxel_is_all_edge_under_inner_and_as_deep_as_it_gets():
    labels = np.zeros((3, 5, 5), int)
    labels[1, 2, 2] = 3
    b, c, d = representation("bcd").encode(labels, ISOTROPIC)
    np.testing.assert_array_equal(b, labels > 0)
    np.testing.assert_array_equal(c, b)
    np.testing.assert_array_equal(d, np.where(labels > 0, 1, -1))
    kind = representation("bcd", contour="touching")
    found = kind.decode(
        stored(kind.encode(labels, ISOTROPIC), "bcd"),
        ISOTROPIC,
        BcdParameters(min_seed_voxels=1, min_voxels=1),
    )
    np.testing.assert_array_equal(found, labels > 0)


def test_the_papers_distance_is_tanh_inside_and_a_slope_outside():
    labels = np.zeros((1, 1, 80), int)
    labels[..., :20] = 1
    d = representation("bcd", distance="paper").encode(labels, (1.0, 1.0, 0.5))[2, 0, 0]
    inside, outside = np.arange(20, 0, -1), np.arange(1, 61)
    np.testing.assert_allclose(d[:20], np.tanh(inside / 8), rtol=1e-6)
    np.testing.assert_allclose(d[20:], np.maximum(-outside / 50, -1), rtol=1e-6)


def test_contours_do_not_cross_coarse_planes_but_where_cells_touch():
    labels = np.zeros((4, 7, 7), int)
    labels[:2, 1:6, 1:6] = 1
    labels[2:, 1:6, 1:6] = 2
    c = representation("bcd").encode(labels, (5.0, 1.0, 1.0))[1]
    np.testing.assert_array_equal(c[0] > 0, edges_plain(labels[:1], (0, 1, 1), "inner")[0])
    np.testing.assert_array_equal(c[1] > 0, labels[1] > 0)


@given(
    st.tuples(*[st.integers(1, 12)] * 3),
    st.integers(0, 2**32 - 1),
    st.integers(1, 4),
    st.integers(1, 9),
)
@settings(max_examples=80, deadline=None)
def test_seeds_grow_as_plain_components_do(shape, seed, min_seed_voxels, min_voxels):
    rng = np.random.default_rng(seed)
    foreground = rng.random(shape) < 0.7
    seeds = foreground & (rng.random(shape) < 0.12)
    parts, n = ndi.label(seeds, BOX)
    # first voxels in raster order name components; names are x-major
    components = []
    for part in range(1, n + 1):
        at = np.argwhere(parts == part)
        if len(at) >= min_seed_voxels:
            components.append((tuple(at[0][::-1]), part))
    sources = np.zeros(shape, np.int64)
    for number, (_, part) in enumerate(sorted(components), 1):
        sources[parts == part] = number
    expected, _ = flood_plain(foreground, sources)
    kept = [k for k in range(1, len(components) + 1) if (expected == k).sum() >= min_voxels]
    renamed = np.zeros(len(components) + 1, np.int64)
    renamed[kept] = np.arange(1, len(kept) + 1)
    found = decode_seeded(seeds, foreground, min_seed_voxels, min_voxels)
    assert found.dtype == np.uint32
    np.testing.assert_array_equal(found, renamed[expected])


def test_foreground_without_a_seed_stays_empty():
    foreground = np.ones((2, 3, 9), bool)
    foreground[:, :, 4] = False
    seeds = np.zeros_like(foreground)
    seeds[0, 0, 0] = True
    found = decode_seeded(seeds, foreground)
    assert (found[:, :, :4] == 1).all()
    assert not found[:, :, 5:].any()


@given(st.floats(0, 1))
@settings(max_examples=200)
def test_thresholds_compare_as_real_numbers(threshold):
    values = np.arange(256, dtype=np.uint8)
    exact = values.astype(np.float64)
    np.testing.assert_array_equal(above(values, threshold), exact > threshold * 255)
    np.testing.assert_array_equal(below(values, threshold), exact < threshold * 255)
    sums = np.arange(511, dtype=np.uint16)
    np.testing.assert_array_equal(above(sums, threshold), sums.astype(np.float64) > threshold * 255)


@pytest.mark.parametrize("name", ["boundary", "bcd"])
@given(seed=st.integers(0, 2**32 - 1), cut=st.integers(1, 5))
@settings(max_examples=10, deadline=None)
def test_masks_of_a_block_are_a_part_of_the_volumes(name, seed, cut):
    rng = np.random.default_rng(seed)
    prediction = rng.integers(0, 256, (3, 6, 6, 6), np.uint8)
    kind = representation(name)
    low, high = rng.choice(10, 2) / 10
    parameters = decoding_parameters(
        kind, {"foreground": low, "seed_nucleus": high} if name == "boundary" else
        {"foreground": low, "seed_foreground": high, "seed_contour": low},
    )  # fmt: skip
    seeds, foreground = kind.masks(prediction, parameters)
    assert (seeds <= foreground).all()
    for part in (np.s_[:, :cut], np.s_[:, :, :, cut:]):
        for whole, block in zip(
            (seeds, foreground), kind.masks(prediction[part], parameters), strict=True
        ):
            np.testing.assert_array_equal(block, whole[part[1:]])


def test_bcd_masks_follow_their_thresholds():
    values = np.array([0, 100, 127, 128, 191, 192, 204, 216, 217, 229, 230, 255], np.uint8)
    b, c, d = np.meshgrid(values, values, values, indexing="ij")
    seeds, foreground = representation("bcd").masks(np.stack((b, c, d)), BcdParameters())
    np.testing.assert_array_equal(foreground, (b / 255 > 0.85) & (2 * (d / 255) - 1 > 0))
    inside = (b / 255 > 0.9) & (c / 255 < 0.8) & (2 * (d / 255) - 1 > 0.5)
    np.testing.assert_array_equal(seeds, inside & foreground)


def test_boundary_masks_follow_their_thresholds():
    values = np.array([0, 50, 127, 128, 152, 153, 154, 230, 255], np.uint8)
    edge, nucleus = np.meshgrid(values, values, indexing="ij")
    prediction = np.stack((0 * edge, edge, nucleus))[:, None]
    parameters = BoundaryParameters(seed_nucleus=0.6, foreground=0.5)
    total = edge.astype(float) + nucleus
    for kind, inside in (("inner", total), ("touching", total), ("outer", nucleus)):
        seeds, foreground = representation("boundary", edge=kind).masks(prediction, parameters)
        np.testing.assert_array_equal(foreground[0], inside > 127.5)
        np.testing.assert_array_equal(seeds[0], nucleus > 153)


def outputs(kind, seed=0, batch=2):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(batch, kind.n_outputs, 8, 10, 12, generator=rng)


def targets(kind, seed=0, batch=2):
    labels = [random_labels(seed + i, (8, 10, 12), 6) for i in range(batch)]
    return torch.from_numpy(np.stack([kind.encode(part, ANISOTROPIC) for part in labels]))


ALL = [
    *KINDS,
    ("bcd", {"balanced": False}),
    ("foreground", {}),
    ("foreground", {"classes": 2}),
    ("foreground", {"classes": 2, "foreground_channel": 0, "weights": (1.0, 4.0)}),
    ("foreground", {"loss_name": "tversky", "alpha": 0.2, "beta": 0.8}),
    ("boundary", {"loss_name": "focal", "gamma": 5.0, "weights": None}),
    ("boundary", {"loss_name": "iou", "weights": (1.0, 2.0, 1.5)}),
]


@pytest.mark.parametrize(("name", "options"), ALL)
def test_losses_leave_out_what_is_not_annotated(name, options):
    kind = representation(name, **options)
    output, target = outputs(kind), targets(kind)
    valid = torch.zeros(2, 1, *output.shape[2:])
    valid[:, :, 2:6, 1:] = 1
    changed = torch.where(valid > 0, output, 9.0).requires_grad_()
    value = kind.loss(changed, torch.where(valid > 0, target, 1.0), valid)
    torch.testing.assert_close(value, kind.loss(output, target, valid))
    torch.testing.assert_close(value, kind.loss(output[:, :, 2:6, 1:], target[:, :, 2:6, 1:], None))
    value.backward()
    assert (changed.grad[(valid == 0).expand_as(changed)] == 0).all()
    assert (changed.grad != 0).any()


@pytest.mark.parametrize(("name", "options"), ALL)
def test_losses_fall_towards_targets_that_decode(name, options):
    kind = representation(name, **options)
    target = targets(kind)
    output = outputs(kind).requires_grad_()
    optimizer = torch.optim.Adam([output], 0.3)
    before = kind.loss(output, target, None).item()
    for _ in range(120):
        optimizer.zero_grad()
        kind.loss(output, target, None).backward()
        optimizer.step()
    assert kind.loss(output, target, None).item() < 0.2 * before
    with torch.no_grad():
        activated = kind.activate(output)
    assert activated.shape == (2, len(kind.channels), 8, 10, 12)
    wanted = (target + 1) / 2 if name == "bcd" else target
    wanted = torch.cat((target[:, :2], wanted[:, 2:]), 1)
    assert (activated - wanted).abs().mean() < 0.1


@pytest.mark.parametrize(("name", "options"), ALL)
def test_activations_are_within_0_and_1(name, options):
    kind = representation(name, **options)
    with torch.no_grad():
        activated = kind.activate(100 * outputs(kind))
    assert activated.min() >= 0
    assert activated.max() <= 1


def test_the_foreground_channel_says_which_of_two_outputs_is_meant():
    output = outputs(representation("foreground", classes=2))
    share = output.softmax(1)
    for channel, expected in ((None, share[:, 1:]), (1, share[:, 1:]), (0, share[:, :1])):
        kind = representation("foreground", classes=2, foreground_channel=channel)
        torch.testing.assert_close(kind.activate(output), expected)
    first = representation("foreground", classes=2, foreground_channel=0, weights=(1.0, 3.0))
    second = representation("foreground", classes=2, weights=(1.0, 3.0))
    target = targets(first)
    torch.testing.assert_close(
        first.loss(output.flip(1), target, None), second.loss(output, target, None)
    )


def test_bcd_loss_is_the_sum_of_its_parts():
    plain = representation("bcd", balanced=False, dice_weight=0.0, distance_weight=0.0)
    output, target = outputs(plain), targets(plain)
    entropy = torch.nn.functional.binary_cross_entropy_with_logits
    parts = [entropy(output[:, i], target[:, i]) for i in (0, 1)]
    torch.testing.assert_close(plain.loss(output, target, None), sum(parts))
    squares = torch.nn.functional.mse_loss(output[:, 2].tanh(), target[:, 2])
    weighted = representation("bcd", balanced=False, dice_weight=0.0, distance_weight=5.0)
    torch.testing.assert_close(weighted.loss(output, target, None), sum(parts) + 5 * squares)


@pytest.mark.parametrize("name", OWN)
def test_representations_are_what_they_say(name):
    kind = representation(name)
    assert kind.name == name
    assert kind == representation(name)
    hash(kind)
    assert dataclasses.is_dataclass(kind.parameters)
    stored_parameters = json.loads(json.dumps(dataclasses.asdict(kind.parameters)))
    assert decoding_parameters(kind, stored_parameters) == kind.parameters
    with pytest.raises(dataclasses.FrozenInstanceError):
        kind.parameters.min_voxels = 3
    labels = np.zeros((4, 4, 4), int)
    assert kind.decode(
        np.zeros((len(kind.channels), 4, 4, 4), np.uint8), ISOTROPIC, kind.parameters
    ).shape == (4, 4, 4)
    assert kind.loss(outputs(kind), targets(kind), None).ndim == 0
    assert kind.encode(labels, ISOTROPIC).ndim == 4


def test_options_from_json_are_lists():
    kind = representation("boundary", weights=[1, 2, 3])
    assert kind.weights == (1, 2, 3)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("bdc", {}, "representation 'bdc' is unknown. Use one of foreground, boundary, bcd,"),
        ("bcd", {"distanse": "paper"}, "bcd has no option 'distanse'.* Did you mean 'distance'?"),
        ("bcd", {"distance": "far"}, "distance 'far' is unknown. Use instance or paper"),
        ("bcd", {"contour": "outer"}, "contour 'outer' is unknown. Use inner or touching"),
        ("bcd", {"balanced": "no"}, "balanced 'no' must be true or false"),
        ("bcd", {"dice_weight": -1}, "dice_weight -1 must be a number of at least 0"),
        ("bcd", {"distance_weight": float("nan")}, "distance_weight nan must be"),
        ("boundary", {"edge": "thick"}, "edge 'thick' is unknown. Use one of inner, outer"),
        ("boundary", {"loss_name": "mse"}, "loss 'mse' is unknown"),
        ("boundary", {"gamma": 2.0}, "loss cross_entropy has no gamma"),
        ("foreground", {"classes": 3}, "classes 3 must be 1"),
        ("foreground", {"foreground_channel": 1}, "foreground_channel 1 must be one of the 1"),
        ("foreground", {"weights": [1.0]}, "must be 2 numbers"),
    ],
)
def test_wrong_options_are_refused(name, options, message):
    with pytest.raises(ConfigError, match=message):
        representation(name, **options)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("bcd", {"seed_foreground": 1.2}, "seed_foreground 1.2 must be a number within 0..1"),
        ("bcd", {"seed_contour": float("nan")}, "seed_contour nan"),
        ("bcd", {"foreground": "0.5"}, "foreground '0.5'"),
        ("bcd", {"min_voxels": 0}, "min_voxels 0 must be a whole number of at least 1"),
        ("bcd", {"min_seed_voxels": 2.0}, "min_seed_voxels 2.0 must be a whole number"),
        ("boundary", {"foreground": -0.1}, "boundary: foreground -0.1"),
        ("boundary", {"seeds": 0.4}, "boundary: decoding has no option 'seeds'"),
        ("foreground", {"threshold": 2}, "threshold 2 must be"),
        ("foreground", {"spot_sigma": -1}, "spot_sigma -1 must be micrometres of at least 0"),
    ],
)
def test_wrong_parameters_are_refused(name, given, message):
    with pytest.raises(ConfigError, match=message):
        decoding_parameters(representation(name), given)


def test_decoding_needs_no_torch():
    code = (
        "import sys, numpy as np\n"
        "from cellseg3d_dist.representations import representation\n"
        f"for name in {OWN}:\n"
        "    kind = representation(name)\n"
        "    volume = np.zeros((len(kind.channels), 3, 3, 3), np.uint8)\n"
        "    kind.decode(volume, (1.0, 1.0, 1.0), kind.parameters)\n"
        "    kind.encode(volume[0], (1.0, 1.0, 1.0))\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=120, check=False)
    assert done.returncode == 0


def test_all_names_are_registered():
    assert set(REPRESENTATIONS) == {"foreground", "boundary", "bcd", "star", "flow"}
