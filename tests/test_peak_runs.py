"""Watersheds from peaks by height, of the image and of depth, in whole runs."""

import numpy as np
import pytest
import scipy.ndimage as ndi
import tifffile
from segmenting import Answer, run, store
from skimage.segmentation import watershed

from cellseg3d_dist.engine.folder import RunFolder
from cellseg3d_dist.errors import BadInputError
from cellseg3d_dist.grid import Region
from cellseg3d_dist.instances.distance import capped_distance
from cellseg3d_dist.instances.filters import gaussian
from cellseg3d_dist.instances.hmaxima import h_maxima
from cellseg3d_dist.segmentation import plan, resume, segment

BOX = np.ones((3, 3, 3))
HOW = {"instances": "watershed", "threshold": 300, "outline_sigma": 1, "spot_sigma": 2}


def tissue(shape=(22, 30, 34), seed=3):
    rng = np.random.default_rng(seed)
    field = ndi.gaussian_filter(rng.normal(size=shape), 1.8)
    return (1000 * (field - field.min()) / np.ptp(field)).astype(np.float32)


def same_cells(found, expected):
    pairs = np.unique(np.stack([found.ravel(), expected.ravel()]), axis=1)
    return len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]


@pytest.mark.parametrize(
    ("seeds", "h", "block_shape"), [("hmaxima", 60, (12, 16, 34)), ("distance", 0.4, (12, 30, 17))]
)
def test_labels_are_those_of_scikit_image(tmp_path, block_shape, seeds, h):
    image = tissue()
    source = store(tmp_path / "image.zarr", image)
    answer = run(
        source, tmp_path / "out", seeds=seeds, h=h, block_shape=block_shape, flood_halo=3, **HOW
    )
    landscape = gaussian(image, (1.0, 1.0, 1.0))
    mask = (landscape > 300).view(np.uint8)
    if seeds == "distance":
        whole = Region.whole(image.shape)
        landscape = capped_distance(mask, whole, whole, 8.0, (1.0, 1.0, 1.0))
    markers, n = ndi.label(h_maxima(landscape, mask, h), BOX)
    assert 3 < n == answer.labels.max()
    assert answer.facts["seeds"]["h"] == h
    np.testing.assert_array_equal(answer.labels > 0, mask > 0)
    if seeds == "hmaxima":
        # no two voxels are alike, so that nothing hangs on the order of ties
        assert same_cells(answer.labels, watershed(-landscape, markers, mask=mask))
    for n in range(1, markers.max() + 1):
        assert np.ptp(answer.labels[markers == n]) == 0


@pytest.mark.parametrize("seeds", ["hmaxima", "distance"])
def test_the_cut_does_not_show(tmp_path, seeds):
    source = store(tmp_path / "image.zarr", tissue(seed=8).astype(np.uint8))
    how = HOW | {"threshold": 90, "voxel_size": (2, 1, 1), "h": 2}
    one, other = (
        run(source, tmp_path / str(i), seeds=seeds, block_shape=shape, **how)
        for i, shape in enumerate([(64, 64, 64), (22, 13, 17)])
    )
    assert one.labels.max() > 3
    one.assert_same(other)


@pytest.mark.parametrize(("seeds", "h"), [("hmaxima", 40), ("distance", 0.6)])
def test_no_cut_shows_in_a_mouse_brain(shared_data, tmp_path, seeds, h):
    image = tifffile.imread(shared_data / "mouse_brain_mesospim" / "c5image.tif")[:30, :44, :52]
    source = store(tmp_path / "image.zarr", image, (5.0, 5.26, 5.26))
    how = {"instances": "watershed", "outline_sigma": 0.65, "spot_sigma": "20um", "h": h}
    one, other = (
        run(source, tmp_path / str(i), seeds=seeds, block_shape=shape, flood_halo=4, **how)
        for i, shape in enumerate([(64, 64, 64), (17, 44, 27)])
    )
    assert one.labels.max() > 10
    one.assert_same(other)


def test_a_run_goes_on_where_it_stopped(tmp_path):
    source = store(tmp_path / "image.zarr", tissue())
    options = HOW | {"seeds": "hmaxima", "h": 60, "block_shape": (12, 30, 17), "keep_work": True}
    whole = run(source, tmp_path / "out", **options)
    folder = RunFolder(tmp_path / "out")
    for stage in ("peaks-1", "seeds", "relabel"):
        journal = folder.journal(stage)
        journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:3]))
    folder.update_status(status="interrupted")
    assert resume(tmp_path / "out").executed > 0
    Answer.of(tmp_path / "out").assert_same(whole)


def test_plan_counts_the_rounds_memory(tmp_path):
    source = store(tmp_path / "image.zarr", tissue())
    made = plan(source, model="intensity", seeds="distance", **HOW)
    stages = {stage.stage: stage for stage in made.stages}
    assert stages["peaks"].halo == (12, 12, 12)
    assert {"peaks", "seeds", "label"} <= set(stages)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": "hmaxima"}, "need h, the height of a peak"),
        ({"seeds": "hmaxima", "h": 0}, "h 0 must be a height above 0"),
        ({"seeds": "hmaxima", "h": "inf"}, "h 'inf' must be a height above 0"),
        ({"seeds": "spots", "h": 3}, "h is the height of peaks, not for seeds 'spots'"),
        ({"seeds": "distance", "seed_threshold": 3}, "seed_threshold is for seeds by threshold"),
        ({"instances": "components", "h": 3}, "h is for instances 'watershed'"),
    ],
)
def test_heights_that_mean_nothing_are_refused(tmp_path, options, message):
    source = store(tmp_path / "image.zarr", tissue())
    with pytest.raises(BadInputError, match=message):
        segment(source, tmp_path / "out", model="intensity", **HOW | options)
    assert not (tmp_path / "out").exists()
