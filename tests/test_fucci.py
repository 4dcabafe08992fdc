"""States of the cell cycle: every combination, thresholds by Otsu over cells, whole runs."""

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
from segmenting import cells_of, store
from skimage.filters import threshold_otsu

from cellseg3d_dist.engine.folder import RunFolder
from cellseg3d_dist.errors import BadInputError
from cellseg3d_dist.measuring.fucci import (
    STATES,
    Reporters,
    otsu_over_cells,
    state_numbers,
    with_states,
)
from cellseg3d_dist.segmentation import segment

#: Mean intensity of red and green in each state.
MEANS = {"G1": (90, 10), "G1/S": (80, 70), "S/G2/M": (12, 85), "M/G1": (15, 12)}


def table(red, green):
    columns = {"label": range(1, len(red) + 1), "r": np.array(red, float), "g": np.array(green)}
    return pa.table(columns).replace_schema_metadata({"cellseg3d_dist": "notes"})


def test_states_follow_the_thresholds():
    red = np.array([5.0, 5.1, 4.9, 6.0, np.nan, 9.0])
    green = np.array([6.1, 6.1, 6.0, 5.9, 9.0, np.nan])
    states = [STATES[i] for i in state_numbers(red, green, 5.0, 6.0)]
    assert states == ["S/G2/M", "G1/S", "M/G1", "G1", "unknown", "unknown"]


def test_a_column_is_added_and_counted():
    given = table([9.0, 9.0, 1.0], [1.0, 9.0, 9.0])
    found, counts = with_states(given, Reporters("r", "g", 5.0, 5.0))
    assert found["fucci_state"].to_pylist() == ["G1", "G1/S", "S/G2/M"]
    assert dict(zip(STATES, counts.tolist(), strict=True))["G1"] == 1
    assert counts.sum() == 3
    assert found.schema.metadata == given.schema.metadata
    assert with_states(given.slice(0, 0), Reporters("r", "g", 5.0, 5.0))[0].num_rows == 0


def test_otsu_over_cells_is_that_of_all_cells_whatever_the_parts():
    rng = np.random.default_rng(0)
    red = np.concatenate([rng.normal(20, 3, 300), rng.normal(90, 9, 100), [np.nan]])
    green = rng.permutation(red)
    whole = table(red, green)
    one = otsu_over_cells(lambda: [whole], ("r", "g"))
    parts = otsu_over_cells(
        lambda: (whole.slice(i, 37) for i in range(0, len(red), 37)), ("r", "g")
    )
    assert one == parts
    assert one["r"] == one["g"] == pytest.approx(threshold_otsu(red[:-1]), abs=1.0)


@pytest.mark.parametrize("values", [[], [7.0, 7.0], [np.nan]])
def test_nothing_to_part_leaves_all_below(values):
    found = otsu_over_cells(lambda: [table(values, values)], ("r",))
    assert not np.any(np.array(values) > found["r"])


def cycling():
    """Cubes of known states in three channels: stain, red, green."""
    image = np.zeros((3, 8, 40, 40), np.uint16)
    states = []
    for n, (y, x) in enumerate((y, x) for y in range(3, 36, 9) for x in range(3, 36, 9)):
        state = list(MEANS)[n % 4]
        states.append(state)
        for channel, mean in enumerate((200, *MEANS[state])):
            image[channel, 2:6, y : y + 5, x : x + 5] = mean + n % 3
    return image, states


@pytest.mark.parametrize(
    ("fucci", "block_shape"),
    [
        ("red=1,green=2", (8, 40, 40)),
        ("red=mCherry,green=2", (5, 11, 17)),
        ("red=1,green=2,red_threshold=50,green_threshold=40", (8, 16, 16)),
    ],
)
def test_known_states_are_found(tmp_path, fucci, block_shape):
    image, states = cycling()
    source = store(tmp_path / "image.zarr", image, channels=("DAPI", "mCherry", "mVenus"))
    segment(
        source, tmp_path / "out", executor="serial", model="intensity", instances="components",
        outline_sigma=0, threshold=100, fucci=fucci, block_shape=block_shape, csv=True,
    )  # fmt: skip
    assert cells_of(tmp_path / "out")["fucci_state"].to_pylist() == states
    csv = pyarrow.csv.read_csv(tmp_path / "out" / "cells.csv")
    assert csv["fucci_state"].to_pylist() == states
    facts = RunFolder(tmp_path / "out").status()["facts"]["fucci"]
    assert {k: n for k, n in facts["cells"].items() if n} == dict.fromkeys(MEANS, 4)
    assert facts["red"]["column"] == "intensity_mean_mCherry"
    assert facts["red"]["how"] == ("given" if "threshold" in fucci else "otsu")
    assert "Cell cycle by FUCCI reporters" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("fucci", "message"),
    [
        ("red=1,green=3", "fucci green=3 is no channel of"),
        ("red=1", "fucci 'red=1' must be red=CHANNEL,green=CHANNEL"),
        ("red=1,green=1", "must be red=CHANNEL"),
        ("red=1,green=mCherry", "are the same channel"),
        ("red=1,green=2,blue=0", "must be red=CHANNEL"),
        ("red=1,green=2,red_threshold=nan", "must be red=CHANNEL"),
    ],
)
def test_reporters_that_are_not_there_are_refused(tmp_path, fucci, message):
    source = store(tmp_path / "image.zarr", cycling()[0], channels=("DAPI", "mCherry", "mVenus"))
    with pytest.raises(BadInputError, match=message):
        segment(source, tmp_path / "out", model="intensity", fucci=fucci)
    assert not (tmp_path / "out").exists()
