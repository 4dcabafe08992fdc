"""Lists of points: reading them, and matching them one to one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from cellseg3d_dist.errors import BadInputError
from cellseg3d_dist.metrics.points import match_points
from cellseg3d_dist.volumes.points import is_point_file, read_points

XML = """<?xml version="1.0" encoding="UTF-8"?>
<CellCounter_Marker_File>
  <Image_Properties><Image_Filename>placeholder.tif</Image_Filename></Image_Properties>
  <Marker_Data>
    <Current_Type>1</Current_Type>
    <Marker_Type><Type>1</Type>
      <Marker><MarkerX>7</MarkerX><MarkerY>8</MarkerY><MarkerZ>9</MarkerZ></Marker>
    </Marker_Type>
    <Marker_Type><Type>2</Type>{cells}</Marker_Type>
  </Marker_Data>
</CellCounter_Marker_File>
"""
CELL = "<Marker><MarkerX>3</MarkerX><MarkerY>2</MarkerY><MarkerZ>1</MarkerZ></Marker>"


def written(path, text):
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize(
    "text",
    [
        "z,y,x\n1,2,3\n4,5,6\n",
        "X,Y,Z\n3,2,1\n6,5,4\n",
        "\ufeffz,y,x\r\n1,2,3\r\n4,5,6\r\n",
        "name\tx\tz\ty\na\t3\t1\t2\nb\t6\t4\t5\n",
        'z;y;x;remark\n1;2;3;"a;b"\n4;5;6;\n',
        "label,centroid-0,centroid-1,centroid-2\n9,1,2,3\n8,4,5,6\n",
        "index,axis-0,axis-1,axis-2\n0,1.0,2.0,3.0\n1,4.0,5.0,6.0\n",
    ],
)
def test_columns_are_taken_by_name(tmp_path, text):
    points = read_points(written(tmp_path / "points.csv", text))
    assert points.positions.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert points.unit == "voxels"
    assert points.in_um((2, 1, 0.5)).tolist() == [[2, 2, 1.5], [8, 5, 3]]


def test_units_and_the_first_voxel(tmp_path):
    plain = written(tmp_path / "a.tsv", "z\ty\tx\n1\t2\t3\n")
    assert read_points(plain, first_voxel=1).positions.tolist() == [[0, 1, 2]]
    in_um = read_points(plain, unit="um", first_voxel=1)
    assert (in_um.unit, in_um.positions.tolist()) == ("um", [[1, 2, 3]])
    assert in_um.in_um((9, 9, 9)).tolist() == [[1, 2, 3]]
    named = written(tmp_path / "b.csv", "centroid_z_um,centroid_y_um,centroid_x_um\n1,2,3\n")
    assert read_points(named).unit == "um"
    with pytest.raises(BadInputError, match="names its columns in um"):
        read_points(named, unit="voxels")
    assert read_points(written(tmp_path / "c.csv", "z,y,x\n")).positions.shape == (0, 3)


def test_cells_of_cellfinder(tmp_path):
    cells = read_points(written(tmp_path / "cells.xml", XML.format(cells=2 * CELL)))
    assert cells.positions.tolist() == [[1, 2, 3], [1, 2, 3]]
    candidates = read_points(written(tmp_path / "candidates.xml", XML.format(cells="")))
    assert candidates.positions.tolist() == [[9, 8, 7]]
    assert is_point_file("a/b.XML")
    assert not is_point_file("a/b.zarr")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "a,b,c\n1,2,3\n", r"no columns z, y and x; .* is 'a,b,c'"),
        ("a.csv", "1,2,3\n4,5,6\n", "no columns z, y and x"),
        ("a.csv", "", "no columns z, y and x"),
        ("a.csv", "z,y,x\n1,2,three\n", r"cannot be read: .*three"),
        ("a.csv", "z,y,x\n1,2\n", "cannot be read"),
        ("a.csv", "z,y,x\n1,2,3\n1,nan,3\n", "Point 2 of .* not finite"),
        ("a.csv", "z,y,x\n1,,3\n", "Point 1 of .* missing"),
        ("a.csv", b"\xff\xfe\x00z\x00", "no columns z, y and x"),
        ("a.xml", "z,y,x\n1,2,3\n", "is not XML"),
        ("a.xml", "<a><b/></a>", "holds no markers"),
        ("a.xml", XML.format(cells=CELL)[:-40], "is not XML"),
        ("a.xml", XML.format(cells=CELL.replace("3", "?")), "marker without numbers"),
    ],
)
def test_bad_files_get_one_line(tmp_path, name, text, message):
    with pytest.raises(BadInputError, match=message) as caught:
        read_points(written(tmp_path / name, text))
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_missing_files_are_refused(tmp_path):
    with pytest.raises(BadInputError, match="is not a file"):
        read_points(tmp_path / "none.csv")
    with pytest.raises(BadInputError, match="must be 0 or 1"):
        read_points(written(tmp_path / "a.csv", "z,y,x\n"), first_voxel=2)


def dense_points(true, pred, limit):
    """Most pairs within the limit, then the least sum of distances."""
    distances = cdist(true, pred)
    gain = np.where(distances <= limit, 1000 - distances, 0)
    r, c = linear_sum_assignment(-gain)
    near = distances[r, c] <= limit
    return int(near.sum()), float(distances[r, c][near].sum())


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(0, 40),
    m=st.integers(0, 40),
    limit=st.sampled_from([0.05, 0.3, 0.6, 2.0]),
)
def test_points_match_as_in_a_dense_assignment(seed, n, m, limit):
    rng = np.random.default_rng(seed)
    true, pred = rng.random((n, 3)), rng.random((m, 3))
    score = match_points(true, pred, limit)
    tp, total = dense_points(true, pred, limit)
    assert (score.tp, score.fp, score.fn) == (tp, m - tp, n - tp)
    assert score.mean_distance_um * tp == pytest.approx(total, rel=1e-9)
    assert score.precision == (tp / m if m else 0)
    assert score.recall == (tp / n if n else 0)
    assert score.f1 == (2 * tp / (n + m) if tp else 0)


def test_a_point_at_the_very_distance_matches():
    score = match_points(np.zeros((1, 3)), np.array([[0.0, 3.0, 4.0]]), 5.0)
    assert (score.tp, score.mean_distance_um) == (1, 5.0)


def test_a_nearer_point_gives_way_to_a_further_match():
    # taking the nearest pair first would leave one point of each side alone
    true, pred = np.array([[0, 0, 0], [0, 0, 3.0]]), np.array([[0, 0, 2.0], [0, 0, 5.0]])
    assert match_points(true, pred, 2.0).tp == 2


def test_wrong_points_and_distances_are_refused():
    none = np.empty((0, 3))
    for distance in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(BadInputError, match="above 0 and finite"):
            match_points(none, none, distance)
    with pytest.raises(BadInputError, match="true point 1 lies at"):
        match_points(np.array([[0, 0, 0], [0, np.nan, 0]]), none, 1.0)
