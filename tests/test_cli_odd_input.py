"""Odd images that are valid: exit 0 and the labels of the function for whole volumes."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import scipy.ndimage as ndi
import tifffile
import zarr
from command_line import QUICK, cells_image, in_memory
from test_volumes_open import image_store

from cellseg3d_dist.volumes import open_volume

SIZE = ("--voxel-size", "1,1,1")


@pytest.fixture
def no_report(monkeypatch):
    """Figures take most of a small run's time; other tests look at the report."""
    monkeypatch.setattr("cellseg3d_dist.segmentation.running.write_run_report", lambda *given: None)


def labels_of(folder):
    return zarr.open_array(folder / "labels.ome.zarr" / "0", mode="r")[...]


def facts_of(folder):
    status = json.loads((folder / "run.json").read_text())
    assert status["status"] == "complete"
    return status["facts"]


def segmented(cli, array, *options, block_shape="11,13,15", name="run", **create):
    """Labels of a run on an array that is stored as plain Zarr; table and report are there."""
    if not (cli.root / "image").exists():
        create = {"shape": array.shape, "chunks": tuple(min(9, max(n, 1)) for n in array.shape),
                  "dtype": array.dtype, **create}  # fmt: skip
        stored = zarr.create_array(cli.root / "image", **create)
        if array.size:
            stored[...] = array
    cli.does("segment", "image", name, *QUICK, *SIZE, "--block-shape", block_shape, *options)
    folder = cli.root / name
    labels = labels_of(folder)
    table = pq.read_table(folder / "cells.parquet")
    assert table.column("label").to_pylist() == np.unique(labels[labels > 0]).tolist()
    assert open_volume(folder / "labels.ome.zarr").is_label
    assert facts_of(folder)["cells"] == labels.max(initial=0)
    return labels


@pytest.mark.parametrize(
    ("shape", "dtype"), [((0, 8, 8), "u2"), ((8, 0, 8), "f4"), ((8, 8, 0), "u2"), ((0,) * 3, "f4")]
)
def test_zero_length_axis(cli, shape, dtype):
    labels = segmented(cli, np.zeros(shape, dtype))
    assert labels.shape == shape
    assert "0 cells, 0 blocks executed" in cli.does("resume", "run").out


def test_zero_length_axis_by_components(cli, no_report):
    segmented(cli, np.zeros((0, 8, 8), "u1"), "--instances", "components", "--csv")


@pytest.mark.parametrize("dtype", [">u2", ">f4", "f8", "f2", "i8", "u8", ">i4", "u4", "i1", "i2"])
def test_types(cli, no_report, dtype):
    """64-bit integers and floats are measured as float32, which holds these values exactly."""
    image = cells_image(dtype=np.uint8) // 2
    labels = segmented(cli, image.astype(dtype))
    assert labels.max() > 2
    np.testing.assert_array_equal(labels, in_memory(image))


def test_bool_is_0_and_1(cli, no_report):
    mask = cells_image() > 60
    np.testing.assert_array_equal(segmented(cli, mask), in_memory(mask.astype(np.uint8)))


def test_negative_values(cli, no_report):
    image = cells_image().astype(np.int16) - 1000
    np.testing.assert_array_equal(segmented(cli, image), in_memory(image))


@pytest.mark.parametrize(
    ("value", "instances"),
    [(0, "voronoi-otsu"), (65535, "voronoi-otsu"), (7, "components"), (-3.5, "components"),
     (np.float32(3e38), "voronoi-otsu"), (-0.0, "voronoi-otsu")],
)  # fmt: skip
def test_constant_image(cli, value, instances):
    dtype = "f4" if isinstance(value, float | np.floating) else "u2"
    labels = segmented(cli, np.full((8, 9, 10), value, dtype), "--instances", instances)
    assert not labels.any()
    assert "The image is constant" in (cli.root / "run" / "report.html").read_text()


@pytest.mark.parametrize(
    ("fill", "dtype"), [(np.nan, "f4"), (np.inf, "f8"), (-np.inf, "f2"), (np.nan, "f8")]
)
def test_nothing_finite(cli, fill, dtype):
    labels = segmented(cli, np.full((8, 9, 10), fill, dtype))
    assert not labels.any()
    assert facts_of(cli.root / "run")["survey"]["not_finite"] == 720


@pytest.mark.parametrize("how", ["nan", "-inf", "1e300"])
def test_values_that_are_not_finite_are_0_and_counted(cli, how):
    """1e300 is stored as float64 and beyond float32, which is what is computed with."""
    image = cells_image().astype(np.float64)
    bad = np.zeros(image.shape, bool)
    bad[3, 4, 5] = bad[10, 10:13, 10] = True
    image[bad] = float(how)
    labels = segmented(cli, image)
    np.testing.assert_array_equal(labels, in_memory(np.where(bad, 0, image).astype(np.float32)))
    assert facts_of(cli.root / "run")["survey"]["not_finite"] == 4
    page = (cli.root / "run" / "report.html").read_text()
    assert "4 voxels are NaN or infinite and were taken as 0." in page


@pytest.mark.parametrize("value", [0, 5])
@pytest.mark.parametrize("threshold", ["otsu", "3"])
def test_one_voxel(cli, value, threshold):
    labels = segmented(cli, np.full((1, 1, 1), value, "u2"), "--threshold", threshold)
    assert labels.tolist() == [[[int(threshold == "3" and value == 5)]]]


@pytest.mark.parametrize("shape", [(1, 1, 37), (2, 3, 5), (1, 23, 29), (13, 17, 19), (31, 1, 2)])
@pytest.mark.parametrize("instances", ["voronoi-otsu", "components"])
def test_prime_shapes_smaller_than_any_halo(cli, no_report, shape, instances):
    image = cells_image(shape)
    options = ("--instances", instances)
    labels = segmented(cli, image, *options)
    whole = segmented(cli, image, *options, name="whole", block_shape="1000,1000,1000")
    np.testing.assert_array_equal(labels, whole)
    if instances == "voronoi-otsu":
        np.testing.assert_array_equal(labels, in_memory(image))


@pytest.mark.parametrize("connectivity", [6, 18, 26])
def test_components(cli, no_report, connectivity):
    image = np.random.default_rng(1).integers(0, 10, (13, 11, 17)).astype(np.uint8)
    labels = segmented(
        cli, image, "--instances", "components", "--outline-sigma", "0", "--threshold", "6",
        "--connectivity", str(connectivity), block_shape="4,5,6",
    )  # fmt: skip
    structure = ndi.generate_binary_structure(3, {6: 1, 18: 2, 26: 3}[connectivity])
    expected, n = ndi.label(image > 6, structure)
    assert labels.max() == n
    pairs = {*zip(labels.ravel().tolist(), expected.ravel().tolist(), strict=True)}
    assert len(pairs) == n + 1


def test_any_order_of_axes(cli, no_report, tmp_path):
    image = cells_image()
    image_store(tmp_path / "xyz", image.transpose(2, 1, 0), "xyz", chunks=(9, 9, 9))
    cli.does("segment", "xyz", "run", *QUICK, "--block-shape", "11,13,15", *SIZE)
    np.testing.assert_array_equal(labels_of(tmp_path / "run"), in_memory(image))


def test_voxel_size_of_the_metadata(cli, no_report, tmp_path):
    image = cells_image()
    image_store(tmp_path / "image", image, chunks=(7, 7, 7))
    cli.does("segment", "image", "run", *QUICK, "--block-shape", "11,13,15")
    np.testing.assert_array_equal(labels_of(tmp_path / "run"), in_memory(image, (3.0, 2.0, 1.0)))
    assert open_volume(tmp_path / "run" / "labels.ome.zarr").voxel_size == (3.0, 2.0, 1.0)


def test_names_in_metadata_are_escaped(cli, tmp_path):
    """Of channels, which become columns of the table and words of the report."""
    names = ["<script>alert(1)</script>", "[bold]x" + "y" * 3000 + "\n\t\0"]

    def change(multiscale, attributes):
        attributes["omero"] = {"channels": [{"label": name} for name in names]}
        multiscale["name"] = "<script>alert(2)</script>"

    image = np.stack([cells_image(), cells_image(seed=1)])
    image_store(tmp_path / "image", image, "czyx", change=change, chunks=(1, 9, 9, 9))
    cli.does("segment", "image", "run", *QUICK, "--csv", *SIZE)
    np.testing.assert_array_equal(labels_of(tmp_path / "run"), in_memory(image[0]))
    assert "<script" not in (tmp_path / "run" / "report.html").read_text()
    assert str(tuple(names))[:60] in cli.does("info", "image").out
    columns = pq.read_table(tmp_path / "run" / "cells.parquet").column_names
    assert len(set(columns)) == len(columns)


def test_region_and_mask_are_the_volume(cli, no_report, tmp_path):
    image = cells_image((24, 26, 28))
    mask = np.zeros(image.shape, np.uint8)
    mask[3:20, 5:25, 2:27] = 1
    zarr.save_array(tmp_path / "mask", mask)
    labels = segmented(cli, image, "--region", "2:22,3:25,5:28")
    np.testing.assert_array_equal(labels, in_memory(image[2:22, 3:25, 5:28]))
    masked = segmented(cli, image, "--mask", "mask", name="masked", block_shape="24,26,28")
    again = segmented(cli, image, "--mask", "mask", name="again")
    np.testing.assert_array_equal(masked, again)
    assert not masked[mask == 0].any()
    zarr.save_array(tmp_path / "nowhere", np.zeros_like(mask))
    assert not segmented(cli, image, "--mask", "nowhere", name="nothing").any()


@pytest.mark.parametrize("how", ["plain", "zlib", "big-endian", "planes"])
def test_tiff(cli, no_report, tmp_path, how):
    image = cells_image()
    if how == "planes":
        (tmp_path / "image").mkdir()
        for z, plane in enumerate(image):
            tifffile.imwrite(tmp_path / "image" / f"plane {z}.tif", plane)
    else:
        options = {"zlib": {"compression": "zlib"}, "big-endian": {"byteorder": ">"}}.get(how, {})
        tifffile.imwrite(tmp_path / "image", image, metadata={"axes": "ZYX"}, **options)
    labels = segmented(cli, image)
    np.testing.assert_array_equal(labels, in_memory(image))


def test_a_threshold_above_everything(cli, no_report):
    image = cells_image(dtype=np.uint8)
    assert not segmented(cli, image, "--threshold", "255").any()


def test_huge_and_tiny_voxels(cli, no_report, tmp_path):
    zarr.save_array(tmp_path / "image", cells_image())
    sizes = {"cm": "1e4,1e4,1e4", "nm": "1e-3,1e-3,1e-3", "flat": "500,1,1"}
    for name, size in sizes.items():
        cli.does("segment", "image", name, *QUICK, "--voxel-size", size)
    np.testing.assert_array_equal(labels_of(tmp_path / "cm"), in_memory(cells_image()))
    np.testing.assert_array_equal(labels_of(tmp_path / "nm"), in_memory(cells_image()))
    # 3.2 um are no voxels at all of the one, and thousands of the other
    cli.does("segment", "image", "default", "--executor", "serial", "--voxel-size", "1e4,1e4,1e4")
    cli.refuses(
        "segment", "image", "x", "--executor", "serial", "--voxel-size", "1e-3,1e-3,1e-3",
        match="spot_sigma 3.2um is 3200 voxels along one axis .* limit of 256",
    )  # fmt: skip


def test_one_run_with_workers(cli, no_report, tmp_path):
    """The same bytes where processes of an own cluster do it."""
    image = cells_image()
    serial = segmented(cli, image)
    options = ["--executor", "dask", "--workers", "1"]
    np.testing.assert_array_equal(segmented(cli, image, *options, name="dask"), serial)
    tables = [(tmp_path / name / "cells.parquet").read_bytes() for name in ("dask", "run")]
    assert tables[0] == tables[1]
