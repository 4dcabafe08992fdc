"""Decoding in blocks: the labels of the whole prediction, whatever the cut."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage as ndi
from decoding import Failing, decode_in_blocks

from cellseg3d_dist.engine.executors import DaskExecutor
from cellseg3d_dist.representations import decoding_parameters, representation
from cellseg3d_dist.representations.seeded import decode_seeded

SHAPE = (14, 24, 28)
#: The whole, some blocks, and blocks smaller than a cell.
CUTS = [SHAPE, (10, 16, 12), (7, 8, 9)]
ISOTROPIC = (1.0, 1.0, 1.0)
COARSE_Z = (2.0, 1.0, 1.0)

STAR = representation("star", n_rays=12, max_distance=5.0)
FLOW = representation("flow")
BCD = representation("bcd")
BOUNDARY = representation("boundary")
ALL = {"star": STAR, "flow": FLOW, "bcd": BCD, "boundary": BOUNDARY}
PARAMETERS = {
    "star": {"threshold": 0.45, "overlap": 0.2, "min_voxels": 9},
    "flow": {"n_iterations": 25, "min_arrivals": 4, "min_voxels": 6},
    "bcd": {
        "seed_foreground": 0.6, "seed_contour": 0.5, "seed_distance": 0.2, "foreground": 0.3,
        "min_seed_voxels": 3, "min_voxels": 5,
    },
    "boundary": {"foreground": 0.6, "seed_nucleus": 0.87, "min_seed_voxels": 3, "min_voxels": 5},
}  # fmt: skip
#: Each channel on a path that is one seed and around it, where there is no foreground.
SERPENT = {"bcd": [(255, 0), (0, 255), (255, 0)], "boundary": [(0, 255), (0, 0), (255, 0)]}


#: Stages of a decoder, and of 8 blocks those that fail in them.
STAGES = {
    "star": {"candidates": (1,), "suppress": (2,), "suppress-1": (6,), "label": (4,)},
    "flow": {"follow": (2,), "follow-1": (3,), "label": (4,)},
}


def parameters_of(name, **changed):
    return decoding_parameters(ALL[name], PARAMETERS[name] | changed)


def smooth(rng, n, shape, sigma=1.3):
    """Channels of smooth noise, 0..255, every level about as often."""
    values = ndi.gaussian_filter(rng.normal(size=(n, *shape)), (0, *(sigma,) * 3))
    ranks = values.reshape(n, -1).argsort(1).argsort(1).reshape(values.shape)
    return (ranks * 256 // values[0].size).astype(np.uint8)


def serpent(shape):
    """A path without branches that goes to and fro through the volume."""
    path = np.zeros(shape, bool)
    for z in (1, 7):
        path[z, 2:17:7, 1:-1] = True
        path[z, 2:10, -2] = path[z, 9:17, 1] = True
    path[1:8, 16, -2] = True
    return path


def random_prediction(name, seed=0, shape=SHAPE):
    """Far from anything a network would say: overlaps, circles and seeds everywhere."""
    rng = np.random.default_rng(seed)
    n = 1 + STAR.n_rays if name == "star" else len(ALL[name].channels)
    prediction = smooth(rng, n, shape)
    if name in SERPENT:
        path = serpent(shape)
        for channel, (on, around) in zip(prediction, SERPENT[name], strict=True):
            channel[ndi.binary_dilation(path)] = around
            channel[path] = on
    return prediction


IN_A_ROW = decoding_parameters(STAR, {"overlap": 0.1})


def row():
    """Objects in a row: each suppresses the next, unless it is suppressed itself."""
    prediction = np.zeros((1 + STAR.n_rays, 7, 7, 90), np.uint8)
    for i, x in enumerate(range(3, 87, 3)):
        prediction[0, 3, 3, x] = 250 - 2 * i
        prediction[1:, 3, 3, x] = 200
    return prediction


def encoded(name, voxel_size=ISOTROPIC, seed=0, shape=SHAPE):
    """What a nearly perfect network would say of touching cells."""
    rng = np.random.default_rng(seed)
    at = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1) * voxel_size
    nearest, labels = np.ones(shape), np.zeros(shape, np.int32)
    for label in range(1, 26):
        centre, radii = rng.random(3) * shape * voxel_size, rng.uniform(3, 5, 3)
        distance = (((at - centre) / radii) ** 2).sum(-1)
        labels[distance < nearest] = label
        nearest = np.minimum(nearest, distance)
    target = ALL[name].encode(labels, voxel_size)
    if name == "star":
        target[1:] /= STAR.max_distance
    if name == "flow":
        target[1:] = (target[1:] + 1) / 2
    stored = np.clip(target, 0, 1) * 240 + rng.random(target.shape) * 15
    return np.floor(stored + 0.5).astype(np.uint8)


@pytest.fixture
def check(tmp_path):
    """Decode in blocks and compare with the whole; what the run found."""

    def run(name, prediction, cut, voxel_size=ISOTROPIC, whole=None, **options):
        parameters = options.pop("parameters", parameters_of(name))
        if whole is None:
            whole = ALL[name].decode(prediction, voxel_size, parameters)
        assert whole.max() > 3
        found = decode_in_blocks(
            tmp_path / "run", ALL[name], parameters, prediction, cut,
            voxel_size=voxel_size, **options,
        )  # fmt: skip
        np.testing.assert_array_equal(found.labels, whole)
        assert not found.failed
        assert found.facts["certificate"]["open_last"] == 0
        return found

    return run


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("name", ALL)
def test_labels_of_any_prediction_are_those_of_the_whole(name, cut, check):
    certificate = check(name, random_prediction(name), cut).facts["certificate"]
    assert certificate["voxels"] > 0
    # what a block cannot tell alone there is, and it is told in the end
    if cut == SHAPE or name in STAGES:
        assert (certificate["open_first"] > 0) == (cut != SHAPE)


@pytest.mark.parametrize("name", ["star", "flow"])
def test_labels_of_cells_in_coarse_planes(name, check):
    found = check(name, encoded(name, COARSE_Z), (7, 10, 9), COARSE_Z)
    assert found.labels.max() > 10


@pytest.mark.parametrize("name", ALL)
def test_a_mask_is_the_end_of_the_foreground(name, check):
    prediction = random_prediction(name, 1)
    mask = smooth(np.random.default_rng(5), 1, SHAPE, 4)[0] > 140
    mask[:, :, :9] = False  # no block of the first ones has any
    parameters = parameters_of(name, min_voxels=1)
    if name in SERPENT:
        seeds, foreground = ALL[name].masks(prediction, parameters)
        inside = foreground & mask
        whole = decode_seeded(seeds & inside, inside, parameters.min_seed_voxels)
    else:
        masked = prediction.copy()
        masked[0] *= mask
        whole = ALL[name].decode(masked, ISOTROPIC, parameters) * mask
        # objects all of which lies outside are gone
        whole = np.unique(whole, return_inverse=True)[1].reshape(SHAPE)
    found = check(
        name, prediction, (7, 12, 9), whole=whole, mask=mask, parameters=parameters, flood_halo=2
    )
    assert found.facts["blocks"]["outside_mask"] > 0


@pytest.mark.parametrize("name", ["star", "flow"])
def test_blocks_on_a_cluster(name, check, client_of):
    check(name, random_prediction(name, 2), (10, 14, 16), executor=DaskExecutor(client_of(2)))


@pytest.mark.parametrize("name", STAGES)
def test_a_failed_block_is_made_up_for(name, tmp_path, check):
    prediction, cut, parameters = random_prediction(name, 3), (10, 14, 16), parameters_of(name)
    if name == "star":
        prediction, cut, parameters = row(), (7, 7, 12), IN_A_ROW
    failing = decode_in_blocks(
        tmp_path / "run", ALL[name], parameters, prediction, cut, executor=Failing(STAGES[name])
    )
    assert {stage for _, stage, _ in failing.failed.values()} == set(STAGES[name])
    assert failing.facts["certificate"]["open_last"] == 0
    check(name, prediction, cut, parameters=parameters)
    # and then there is nothing left to do
    assert not any(check(name, prediction, cut, parameters=parameters).executed.values())


@pytest.mark.parametrize("name", STAGES)
def test_an_interrupted_run_goes_on(name, tmp_path, check):
    prediction, cut = random_prediction(name, 4), (10, 14, 16)
    for last in (3, 9, 14):
        with pytest.raises(KeyboardInterrupt):
            decode_in_blocks(
                tmp_path / "run", ALL[name], parameters_of(name), prediction, cut,
                executor=Failing(last=last),
            )  # fmt: skip
    # damage to what was finished is found and mended
    folder = tmp_path / "run" / "work" / {"star": "suppression", "flow": "ends"}[name]
    record = min(folder.rglob("*.rec"))
    record.write_bytes(record.read_bytes()[:-1])
    check(name, prediction, cut)


def test_many_rounds(check):
    found = check("star", row(), (7, 7, 12), parameters=IN_A_ROW)
    assert found.facts["certificate"]["rounds"] > 3


@pytest.mark.parametrize("name", ["star", "flow"])
def test_nothing_there(name, tmp_path):
    n = 1 + STAR.n_rays if name == "star" else 4
    prediction = np.zeros((n, 9, 9, 9), np.uint8)
    found = decode_in_blocks(
        tmp_path / "run", ALL[name], parameters_of(name), prediction, (4, 5, 6)
    )
    assert not found.labels.any()
    assert found.facts["certificate"]["voxels"] == 0
