"""Preprocessing in runs: the cut does not show, cells are measured in the image as it is."""

import numpy as np
import pytest
import tifffile
from segmenting import Answer, in_one_piece, run, store
from test_preprocessing import Curves, smooth

from cellseg3d_dist.config import make_config
from cellseg3d_dist.engine.folder import RunFolder
from cellseg3d_dist.engine.prepared import steps_of
from cellseg3d_dist.errors import BadInputError
from cellseg3d_dist.grid import Region
from cellseg3d_dist.preprocessing import Constants, Equalise, TileGrid, apply_steps
from cellseg3d_dist.segmentation import plan, resume, segment

ALL = "background=30,gamma=0.8,clahe=0.05,clahe_tile=9,median=1,tophat=1.5"


def spots(shape=(30, 34, 38), dtype=np.uint16):
    image = smooth(shape, 4) + 50 * (smooth(shape, 9) > 900)
    return (100 + image).astype(dtype)


def prepared(image, text, voxel_size=(1, 1, 1)):
    """The whole image after its steps, in memory."""
    steps = steps_of(make_config({"image": "", "preprocess": text}).preprocess, voxel_size)
    high = float(np.sort(image, axis=None)[int(0.999 * (image.size - 1))])
    low, tables = min(0.0, float(image.min())), None
    for i, step in enumerate(steps):
        if isinstance(step, Equalise):
            found = Constants(image.shape, low, high)
            before = apply_steps(image, Region.whole(image.shape), steps[:i], found)
            tiles = TileGrid(image.shape, step.tile)
            tables = Curves(before, tiles, step.clip, low, high)
    found = Constants(image.shape, low, high, tables)
    return apply_steps(image, Region.whole(image.shape), steps, found)


@pytest.mark.parametrize(
    ("block_shape", "dtype"), [((30, 34, 38), np.uint16), ((11, 34, 13), np.float32)]
)
def test_labels_are_those_of_the_preprocessed_image(tmp_path, block_shape, dtype):
    image = spots(dtype=dtype)
    source = store(tmp_path / "image.zarr", image)
    answer = run(source, tmp_path / "out", block_shape=block_shape, preprocess=ALL)
    expected = in_one_piece(prepared(image, ALL))
    assert expected.max() > 5
    np.testing.assert_array_equal(answer.labels, expected)
    means = [image[expected == n].mean() for n in range(1, expected.max() + 1)]
    np.testing.assert_allclose(answer.cells["intensity_mean"].to_numpy(), means, rtol=1e-5)
    facts = answer.facts["preprocessing"]
    assert facts["steps"][0] == "background=30"
    assert facts["survey"]["maximum"] <= image.max()
    report = (RunFolder(tmp_path / "out").path / "report.html").read_text()
    assert "Preprocessed before cells were sought: background=30, gamma=0.8" in report


def test_no_cut_shows_in_an_embryo(shared_data, tmp_path):
    image = tifffile.imread(shared_data / "mouse_embryo_bbbc050" / "images" / "Emb05_t301.tif")
    image = image[8:40, 40:100, 30:76].copy()
    source = store(tmp_path / "image.zarr", image, (1.75, 0.8, 0.8))
    steps = "background=100,gamma=0.8,clahe=0.02,clahe_tile=32um,median=1,tophat=4um"
    one, other = (
        run(source, tmp_path / str(i), preprocess=steps, block_shape=shape, flood_halo=4)
        for i, shape in enumerate([(64, 128, 128), (32, 37, 29)])
    )
    assert one.labels.max() > 5
    one.assert_same(other)


def test_steps_keep_their_order(tmp_path):
    source = store(tmp_path / "image.zarr", spots())
    one, another = (
        run(source, tmp_path / name, preprocess=text, instances="components", threshold=400)
        for name, text in (("a", "gamma=2,background=300"), ("b", "background=300,gamma=2"))
    )
    assert not np.array_equal(one.labels, another.labels)


def test_a_run_with_preprocessing_goes_on_where_it_stopped(tmp_path):
    source = store(tmp_path / "image.zarr", spots())
    options = {"block_shape": (30, 17, 19), "preprocess": ALL, "keep_work": True}
    whole = run(source, tmp_path / "out", **options)
    folder = RunFolder(tmp_path / "out")
    for stage in ("label", "relabel", "clahe"):
        journal = folder.journal(stage)
        journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:3]))
    folder.update_status(status="interrupted")
    again = resume(tmp_path / "out")
    assert again.executed > 0
    Answer.of(tmp_path / "out").assert_same(whole)


def test_a_mask_decides_the_histograms(tmp_path):
    image = spots()
    within = np.zeros(image.shape, np.uint8)
    within[:, 5:30, 6:35] = 1
    mask = store(tmp_path / "mask.zarr", within)
    source = store(tmp_path / "image.zarr", image)
    answers = [
        run(source, tmp_path / str(i), mask=mask, block_shape=shape, preprocess=ALL)
        for i, shape in enumerate([(30, 34, 38), (15, 17, 38)])
    ]
    answers[0].assert_same(answers[1])


def test_plan_shows_the_wider_halo(tmp_path):
    source = store(tmp_path / "image.zarr", spots())
    how = {"model": "intensity", "block_shape": (16, 16, 16)}
    plain, wide = (
        {stage.stage: stage for stage in plan(source, **how, **more).stages}
        for more in ({}, {"preprocess": "median=1,tophat=2"})
    )
    assert wide["label"].halo == tuple(h + 5 for h in plain["label"].halo)
    assert wide["label"].n_bytes > plain["label"].n_bytes
    assert {"survey", "survey-prepared"} <= set(wide)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sharpen=3", "preprocess 'sharpen=3' must be steps in order"),
        ("gamma=0", "gamma \\(0.1 to 10\\)"),
        ("clahe_tile=8", "must be steps"),
        ("median=0.2", "radius of 0.2 voxels"),
        ("tophat=400um", "outside 1 to 32"),
        ("clahe=0.1,clahe_tile=3", "fewer than 512"),
    ],
)
def test_steps_that_mean_nothing_are_refused(tmp_path, text, message):
    source = store(tmp_path / "image.zarr", spots())
    with pytest.raises(BadInputError, match=message):
        segment(source, tmp_path / "out", model="intensity", preprocess=text)
    assert not (tmp_path / "out").exists()
