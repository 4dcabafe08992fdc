"""Clean-up in memory: each step against a reference written for plain arrays."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.ndimage as ndi
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import BOX, DIAMOND
from skimage.measure import label as skimage_label
from skimage.segmentation import clear_border

import cellseg3d_dist
from cellseg3d_dist.config import make_config
from cellseg3d_dist.config.clean_up import PRESETS, steps_of
from cellseg3d_dist.errors import BadInputError, ConfigError
from cellseg3d_dist.instances.clean_up import clean_up
from cellseg3d_dist.instances.clean_up.smoothing import ball
from cellseg3d_dist.instances.clean_up.touching import Borders, quantising_scale, united_cells
from cellseg3d_dist.report.clean_up import sentences

seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=40, deadline=None)


def some_labels(rng, most=4, side=9):
    shape = tuple(rng.integers(1, side, 3))
    labels = rng.integers(1, most + 1, shape) * (rng.random(shape) < rng.choice([0.3, 0.6, 0.9]))
    if rng.random() < 0.5:
        labels = np.kron(labels[:4, :4, :4], np.ones((2, 2, 2), int))
    return labels


def in_order(labels):
    """Labels 1..n in the order of what they were."""
    values, inverse = np.unique(labels, return_inverse=True)
    return (np.cumsum(values > 0) * (values > 0))[inverse].reshape(labels.shape)


def by_first_voxel(labels):
    """Labels 1..n in the order of their first voxels, z slowest."""
    values, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    first = np.where(values > 0, first, -1)
    rank = np.empty(values.size, int)
    rank[np.argsort(first)] = np.arange(values.size) + (values.min() > 0)
    return rank[inverse].reshape(labels.shape)


def closed_plain(labels, radius):
    """Closing by a dilation per label and step, and scipy's erosion of what they cover."""
    grown = np.pad(labels, radius)
    for step in range(radius):
        around = BOX if step % 2 == 0 else DIAMOND
        before = grown.copy()
        for value in np.unique(before[before > 0]):
            # the largest comes last and wins
            grown[ndi.binary_dilation(before == value, around) & (before == 0)] = value
    cover = grown > 0
    for step in range(radius):
        cover = ndi.binary_erosion(cover, BOX if step % 2 == 0 else DIAMOND)
    return (grown * cover)[(slice(radius, -radius),) * 3]


@given(seeds, st.integers(1, 4))
@few
def test_closing_grows_labels_and_erodes_what_they_cover(seed, radius):
    labels = some_labels(np.random.default_rng(seed))
    found = clean_up(labels, f"closing={radius}")
    np.testing.assert_array_equal(found, closed_plain(in_order(labels), radius))
    assert (found[labels > 0] == in_order(labels)[labels > 0]).all()


def test_closing_bridges_what_is_as_narrow_as_twice_its_radius():
    labels = np.zeros((5, 5, 20), int)
    labels[:, :, :6], labels[:, :, 10:] = 1, 2
    np.testing.assert_array_equal(clean_up(labels, "closing=2")[2, 2, 5:11], [1, 1, 1, 2, 2, 2])
    np.testing.assert_array_equal(clean_up(labels, "closing=1"), labels)


@given(seeds)
@few
def test_holes_are_those_that_scipy_fills_in_each_label(seed):
    rng = np.random.default_rng(seed)
    labels = in_order(some_labels(rng, 2))
    expected = labels.copy()
    for value in range(1, labels.max(initial=0) + 1):
        filled = ndi.binary_fill_holes(labels == value)
        holes, n = ndi.label(filled & (labels == 0))
        for hole in range(1, n + 1):
            # what encloses another cell too is no hole
            rim = ndi.binary_dilation(holes == hole, DIAMOND) & (holes != hole)
            if (labels[rim] == value).all():
                expected[holes == hole] = value
    np.testing.assert_array_equal(clean_up(labels, "fill-holes"), expected)


def test_holes_of_up_to_a_volume():
    labels = np.ones((5, 5, 9), int)
    labels[2, 2, 2] = 0
    labels[2, 2, 5:8] = 0
    assert (clean_up(labels, "fill-holes=2") == 0).sum() == 3
    assert (clean_up(labels, "fill-holes=12um3", voxel_size=(4, 1, 1)) == 0).sum() == 0
    assert (clean_up(labels, "fill-holes=11um3", voxel_size=(4, 1, 1)) == 0).sum() == 3


def borders_plain(labels, image):
    """Mean of (I_a + I_b) / 2 over the pairs of touching voxels of each pair of labels."""
    found = {}
    for axis in range(3):
        for at in np.ndindex(labels.shape):
            other = tuple(i + (k == axis) for k, i in enumerate(at))
            if other[axis] < labels.shape[axis] and 0 < labels[at] != labels[other] > 0:
                pair = tuple(sorted((labels[at], labels[other])))
                found.setdefault(pair, []).append((float(image[at]) + float(image[other])) / 2)
    return {pair: float(np.mean(values)) for pair, values in found.items()}


def united_plain(labels, pairs):
    """All pairs at once: each cell takes the smallest label that it is connected to."""
    to = {value: value for value in range(1, labels.max(initial=0) + 1)}
    for _ in to:
        for a, b in pairs:
            to[a] = to[b] = min(to[a], to[b])
    return in_order(np.vectorize(lambda v: to.get(v, 0), otypes=[int])(labels))


@given(seeds, st.sampled_from([np.uint8, np.uint16, np.int16, np.float32]))
@settings(max_examples=25, deadline=None)
def test_touching_cells_are_merged_where_their_border_is_in_the_range(seed, dtype):
    rng = np.random.default_rng(seed)
    labels = in_order(some_labels(rng, 5, 6))
    image = rng.integers(0, 50, labels.shape).astype(dtype)
    pairs = [pair for pair, mean in borders_plain(labels, image).items() if 20 <= mean <= 30]
    found = clean_up(labels, "merge-touching=20:30", image=image)
    np.testing.assert_array_equal(found, united_plain(labels, pairs))


@given(seeds)
@few
def test_the_brightest_border_is_merged_first_and_borders_are_pooled(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 9))
    pairs = [pair for pair in itertools.combinations(range(1, n + 1), 2) if rng.random() < 0.5]
    state = {pair: (int(rng.integers(0, 40)), int(rng.integers(1, 5))) for pair in pairs}
    keys = np.array(list(state), np.int64).reshape(-1, 2)
    sums, counts = np.array(list(state.values()), np.int64).reshape(-1, 2).T
    found = united_cells(n, Borders(keys, sums, counts), 1.0, 3.0, 6.5, brightest_first=True)
    to = list(range(n + 1))
    while True:
        means = {p: s / c / 2 for p, (s, c) in state.items() if 3 <= s / c / 2 <= 6.5}
        if not means:
            break
        a, b = min(means, key=lambda pair: (-means[pair], pair))
        to = [a if t == b else t for t in to]
        pooled = {}
        for (p, q), (s, c) in state.items():
            p, q = sorted((a if p == b else p, a if q == b else q))
            if p != q:
                before = pooled.get((p, q), (0, 0))
                pooled[p, q] = (before[0] + s, before[1] + c)
        state = pooled
    assert found.tolist() == to[1:]


def test_a_foreground_is_0_to_1_also_where_it_is_stored_in_8_bits():
    labels = np.array([[[1, 2, 3, 4]]])
    foreground = np.array([[[200, 100, 100, 10]]], np.uint8)
    found = clean_up(labels, "merge-touching=0.4:1", foreground=foreground)
    np.testing.assert_array_equal(found, [[[1, 1, 2, 3]]])
    same = clean_up(labels, "merge-touching=0.39", foreground=foreground / 255)
    np.testing.assert_array_equal(same, [[[1, 1, 1, 2]]])
    # the foreground is looked at before the image
    both = {"foreground": foreground, "image": 255 - foreground}
    np.testing.assert_array_equal(clean_up(labels, "merge-touching=0.4:1", **both), found)
    other = clean_up(labels, "merge-touching=160::image", **both)
    np.testing.assert_array_equal(other, [[[1, 2, 3, 3]]])


def test_sums_of_floats_do_not_depend_on_their_order():
    scale = quantising_scale(np.float32, 3.7)
    assert np.log2(scale) % 1 == 0
    assert 2**29 < 3.7 * scale <= 2**30
    parts = [
        Borders(np.array([[1, 2], [2, 3]]), np.array([5, 6]), np.array([1, 2])),
        Borders(np.array([[1, 2]]), np.array([7]), np.array([3])),
        Borders.none(),
    ]
    for order in itertools.permutations(parts):
        total = Borders.added(list(order))
        assert [a.tolist() for a in vars(total).values()] == [[[1, 2], [2, 3]], [12, 6], [4, 2]]
    assert len(Borders.added([]).pairs) == 0


def majority_plain(labels, offsets):
    out = labels.copy()
    for at in np.ndindex(labels.shape):
        near = np.array([at, *(np.add(at, o) for o in offsets)])
        near = near[((near >= 0) & (near < labels.shape)).all(axis=1)]
        counts = np.bincount(labels[tuple(near.T)])
        if counts.max() > counts[labels[at]]:
            out[at] = np.argmax(counts)
    return out


@given(seeds, st.sampled_from(["1", "1.5", "2", "2um"]))
@few
def test_smoothing_takes_the_most_frequent_label(seed, radius):
    labels = in_order(some_labels(np.random.default_rng(seed)))
    size = (2.0, 1.0, 1.0) if radius.endswith("um") else (1.0, 1.0, 1.0)
    value = float(radius.removesuffix("um"))
    expected = majority_plain(labels, ball(tuple(value / s for s in size)))
    found = clean_up(labels, f"smooth={radius}", voxel_size=size)
    np.testing.assert_array_equal(found, in_order(expected))


def test_the_ball_is_round_in_micrometres():
    assert len(ball((1, 1, 1))) == 6
    assert len(ball((2, 2, 2))) == 32
    assert np.abs(ball((0.5, 1, 2))).max(axis=0).tolist() == [0, 1, 2]
    assert len(ball((0.9, 0.5, 0.9))) == 0
    # 0.3 / 0.1 is just below 3
    assert np.abs(ball((0.3 / 0.1, 1, 1))).max() == 3


@given(seeds, st.sampled_from([(6, 1), (18, 2), (26, 3)]))
@few
def test_parts_are_components_by_their_first_voxel(seed, connectivity):
    labels = some_labels(np.random.default_rng(seed))
    k, reach = connectivity
    found = clean_up(labels, f"split={k}")
    np.testing.assert_array_equal(found, by_first_voxel(skimage_label(labels, connectivity=reach)))


@given(seeds, st.sampled_from(["z", "yx", "zyx"]))
@few
def test_cells_on_the_faces_are_dropped_whole(seed, axes):
    labels = some_labels(np.random.default_rng(seed), 9)
    planes = [np.take(labels, end, "zyx".index(a)) for a in axes for end in (0, -1)]
    touching = np.unique(np.concatenate([plane.ravel() for plane in planes]))
    cleared = labels * ~np.isin(labels, touching)
    np.testing.assert_array_equal(clean_up(labels, f"clear-border={axes}"), in_order(cleared))


@given(seeds)
@few
def test_connected_cells_on_the_faces_are_those_that_skimage_clears(seed):
    labels = some_labels(np.random.default_rng(seed), 9)
    found = clean_up(labels, "split=26,clear-border")
    np.testing.assert_array_equal(found, by_first_voxel(skimage_label(clear_border(labels))))


@given(seeds)
@few
def test_sizes_are_those_of_whole_cells(seed):
    labels = in_order(some_labels(np.random.default_rng(seed), 20))
    volume = np.bincount(labels.ravel())[labels]
    for text, kept in {
        "size=3:9": (volume >= 3) & (volume <= 9),
        "size=:6um3": volume <= 3,
        "size=5um3": volume >= 3,
        "artifacts=4": volume < 4,
        "artifacts=7um3": volume < 4,
    }.items():
        found = clean_up(labels, text, voxel_size=(2.0, 1.0, 1.0))
        np.testing.assert_array_equal(found, in_order(labels * kept), text)


def test_steps_come_in_their_order():
    labels = np.zeros((3, 3, 12), int)
    labels[1, 1, :5], labels[1, 1, 6:] = 7, 7
    assert clean_up(labels, "split,closing=1").max() == 2
    assert clean_up(labels, ["closing=1", "split"]).max() == 1
    assert clean_up(labels, "size=6,split").max() == 2
    assert clean_up(labels, "split,size=6").max() == 1


def test_nothing_grows_beyond_where_cells_may_be():
    labels = np.ones((5, 5, 5), int)
    labels[2, 2, 2] = labels[2, 2, 0] = 0
    within = labels.copy()
    for steps in ("fill-holes", "closing=2", "smooth=2"):
        np.testing.assert_array_equal(clean_up(labels, steps, within=within), labels)
    within[0] = 0
    assert (clean_up(labels, [], within=within)[0] == 0).all()


@pytest.mark.parametrize("steps", ["closing=2,fill-holes,smooth,split,clear-border", [], None])
def test_labels_of_any_kind(steps):
    for empty in (np.zeros((4, 0, 5), np.uint8), np.zeros((3, 3, 3), np.int16)):
        assert clean_up(empty, steps).shape == empty.shape
    labels = np.zeros((9, 9, 9), np.uint64)
    labels[1:4, 1:4, 1:4] = 2**63
    labels[5:8, 5:8, 5:8] = 2**40
    found = clean_up(labels, steps)
    assert found.dtype == np.uint8
    assert {found[2, 2, 2], found[6, 6, 6]} == {1, 2}


def test_arrays_that_do_not_fit():
    labels = np.zeros((3, 3, 3), int)
    for wrong in (labels[0], labels.astype(float)):
        with pytest.raises(BadInputError, match=r"cannot be cleaned up. Give integers"):
            clean_up(wrong, "split")
    with pytest.raises(BadInputError, match="labels hold -1, below 0"):
        clean_up(labels - 1, "split")
    with pytest.raises(BadInputError, match=r"image has shape \(2, 3, 3\), labels \(3, 3, 3\)"):
        clean_up(labels, "split", image=np.zeros((2, 3, 3)))
    with pytest.raises(ConfigError, match="of image needs image"):
        clean_up(labels + 1, "merge-touching=3")


def test_the_recipe_for_mouse_skull():
    closing, merging = steps_of("mouse-skull")
    assert closing.radius == 8
    # a foreground f is 1 + 99 f on the recipe's scale
    assert (1 + 99 * merging.low, 1 + 99 * merging.high) == pytest.approx((35, 100))
    assert merging.of == "foreground"
    assert steps_of("mouse-skull,size=30:") == (*PRESETS["mouse-skull"], *steps_of("size=30"))


def test_the_public_name():
    assert cellseg3d_dist.clean_up is clean_up


WRONG = [
    ("closng=3", "has no step 'closng' .did you mean closing"),
    ("mouse_scull", "did you mean mouse-skull"),
    ("polish", "known are closing, fill-holes, .* mouse-skull"),
    ("closing", "closing needs radius, a whole number of voxels from 1 to 64, such as closing=8"),
    ("closing=0", "closing: radius '?0'? must be a whole number of voxels from 1 to 64"),
    ("closing=65", "from 1 to 64"),
    ("closing=1.5", "from 1 to 64"),
    ("closing=3:4", "closing takes at most 1 values"),
    ("split=7", "connectivity '?7'? must be 6, 18 or 26"),
    ("smooth=0", "radius 0 must be above 0"),
    ("smooth=2 parsec", "must be a length above 0"),
    ("size", "needs min_volume or max_volume, such as size=30:5000"),
    ("size=-1", "min_volume '-1' must be a volume of at least 0"),
    ("artifacts", "artifacts needs volume"),
    ("fill-holes=x", "max_volume 'x' must be a volume"),
    ("merge-touching", "needs low, a finite number"),
    ("merge-touching=2:1", "high 1 is below low 2"),
    ("merge-touching=nan", "low 'nan' must be a finite number"),
    ("merge-touching=1:2:clouds", "of 'clouds' must be foreground or image"),
    ("clear-border=q", "axes 'q' must be axes out of zyx"),
    ("mouse-skull=3", "mouse-skull is a preset and takes no value"),
    ([{"closing": {"radus": 3}}], "closing has no parameter 'radus' .did you mean radius"),
    ([{"closing": 3, "split": 6}], "must be a step"),
    ([3], "clean_up 3 must be a step"),
    (3, "clean_up 3 must be a list of steps"),
    ({"closing": 3}, "must be a list of steps"),
    (["split"] * 33, "33 steps, over the limit of 32"),
]


@pytest.mark.parametrize(("given_steps", "match"), WRONG)
def test_steps_that_are_wrong_are_named(given_steps, match):
    with pytest.raises(ConfigError, match=match) as caught:
        make_config({"image": "a", "clean_up": given_steps}, "run.yaml")
    assert str(caught.value).startswith("config run.yaml: clean_up ")
    assert "\n" not in str(caught.value)


def test_steps_are_the_same_as_text_in_yaml_and_resolved():
    text = "closing=3, fill_holes=9um3, merge-touching=0.3::image:brightest-first, split=26"
    listed = [
        {"closing": 3}, {"fill-holes": {"max-volume": "9um3"}},
        {"merge_touching": {"low": 0.3, "of": "image", "order": "brightest-first"}}, "split=26",
    ]  # fmt: skip
    one, other = (make_config({"image": "a", "clean_up": given}) for given in (text, listed))
    assert one == other
    assert one.plain()["clean_up"] == [
        "closing=3", "fill-holes=9um3", "merge-touching=0.3::image:brightest-first", "split=26"
    ]  # fmt: skip
    assert make_config(one.plain()) == one
    assert "clean_up" not in make_config({"image": "a"}).plain()
    assert make_config({"image": "a", "clean_up": []}).clean_up is None
    assert "clean_up" in one.deciding()


def test_steps_in_words():
    text = "mouse-skull,fill-holes=9,smooth=2um,size=3:,artifacts=500,split,clear-border=yx"
    facts = [{"step": str(step)} for step in steps_of(text)]
    (said,) = sentences(facts)
    for part in (
        "closed by 8 voxels", "mean of 0.3434 to 1 in the foreground", "of up to 9 voxels",
        "within 2um", "smaller than 3 voxels were", "500 voxels or more", "6-connected", "y, x",
    ):  # fmt: skip
        assert part in said
    assert sentences([]) == []
