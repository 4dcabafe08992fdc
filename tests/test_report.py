from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cellseg3d_dist.errors import VolumeError
from cellseg3d_dist.measuring import cell_table, measure_fragments, write_cells
from cellseg3d_dist.report import (
    Certificate,
    FailedBlock,
    Method,
    Projection,
    ReportData,
    Skipped,
    StageTiming,
    Threshold,
    Truth,
    panels,
    render_report,
    write_report,
)
from cellseg3d_dist.report.cells import read_cells
from cellseg3d_dist.report.methods import methods


class Array:
    def __init__(self, array):
        self.array = array
        self.largest = 0

    def read(self, region):
        self.largest = max(self.largest, region.size)
        assert not region.is_empty
        return self.array[region.slices]


def volume(shape, n_cells, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.uint32)
    for k in range(n_cells):
        corner = [int(rng.integers(0, max(1, n - 3))) for n in shape]
        labels[tuple(slice(c, c + 3) for c in corner)] = k + 1
    image = rng.integers(90, 110, shape).astype(np.uint16) + (labels > 0) * np.uint16(200)
    return image, labels


def report_data(tmp_path, shape=(20, 40, 50), n_cells=30, voxel_size=(3.0, 1.0, 1.0), **changes):
    image, labels = volume(shape, n_cells)
    offset = changes.pop("offset", (0, 0, 0))
    partial = measure_fragments(labels, n_cells, [image], (0, 0, 0), [1.0])
    path = tmp_path / "cells.parquet"
    table = cell_table(
        partial,
        voxel_size=voxel_size,
        shape=shape,
        offset=offset,
        channels=["c"],
        scales=[1.0],
    )
    write_cells(path, [table])
    z, y, x = voxel_size
    values = {
        "title": "sample",
        "image": Array(image),
        "labels": Array(labels),
        "shape": shape,
        "voxel_size": voxel_size,
        "block_shape": (20, 20, 20),
        "cells_path": path,
        "offset": offset,
        "method": Method(
            "intensity", "voronoi-otsu", spot_sigma_um=3.0, outline_sigma_um=1.5, seeds="spots"
        ),
        "projections": (
            Projection("yx", image.max(0), (y, x)),
            Projection("zx", image.max(1), (z, x)),
            Projection("zy", image.max(2), (z, y)),
        ),
        "n_blocks": 6,
    }
    return ReportData(**(values | changes))


class Page(HTMLParser):
    """Elements, text, and every image decoded."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.links, self.images, self.ids, self.words = [], [], [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        self.ids.append(attrs.get("id"))
        if tag == "img":
            assert attrs["alt"]
            head, data = attrs["src"].split(",", 1)
            assert head == "data:image/png;base64"
            self.images.append(Image.open(io.BytesIO(base64.b64decode(data))))
        elif "src" in attrs or "href" in attrs:
            self.links.append(attrs.get("src") or attrs.get("href"))

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))


FULL = {
    "status": "INCOMPLETE",
    "dropped_small": 12,
    "skipped": (Skipped("no voxel can be above the threshold", 2, 16000),),
    "certificate": Certificate(10_000, 40, 3, 1, 4),
    "threshold": Threshold(150.0, "otsu", np.arange(100), np.linspace(0, 300, 101)),
    "timings": (StageTiming("label", 6, 75.0, 1.5), StageTiming("merge", 1, 0.5)),
    "failed_blocks": (FailedBlock("Block (0, 1, 2)", "label", "disk <b>full</b>"),),
    "warnings": ("CUDA ran out of memory once; the batch was halved.",),
    "statements": ("Only the region 0:20 was analysed.",),
    "versions": {"cellseg3d_dist": "9.8.7", "numpy": "2.0"},
    "command": "cellseg3d-dist segment 'a & b' out",
    "config_yaml": "model: intensity\n",
    "matching": tuple(
        {
            "criterion": "iou", "threshold": t, "tp": 20, "fp": 5, "fn": 10, "precision": 0.8,
            "recall": 0.667, "f1": 0.727, "panoptic_quality": 0.6,
        }
        for t in (0.3, 0.5, 0.7)
    ),
    "truth": Truth(30, "phantom, seed 1"),
    "finished": "2026-01-02",
    "machine": "2 cores",
}  # fmt: skip


def test_full_report_is_one_file_with_everything(tmp_path):
    data = report_data(tmp_path, **FULL)
    path = write_report(tmp_path / "report.html", data)
    html = path.read_text(encoding="utf-8")
    page = Page(html)
    assert all(link.startswith("#") for link in page.links)
    assert {link[1:] for link in page.links} <= set(page.ids)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert not re.search(r"https?://|@import|url\(", html)
    assert len(page.images) == 10
    assert all(min(image.size) > 50 for image in page.images)
    text = page.text
    for words in (
        "INCOMPLETE", "1 failed block", "disk <b>full</b>", "CUDA ran out", "region 0:20",
        "2 (16,000 voxels): no voxel can be above", "9,960 (99.60 %) were proven",
        "3 blocks read again", "1 block settled by exchange", "4 rounds", "F1 at IoU 0.5 0.727",
        "20 of 30 true cells", "1 min 15 s", "'a & b' out", "model: intensity", "9.8.7",
        "Achard C.", "Otsu N.", "sigma 3 µm (1, 3, 3 voxels in z, y, x)",
        "Cells in truth 30",
    ):  # fmt: skip
        assert words in text, words
    assert len(html) < 2_000_000


def test_values_are_escaped(tmp_path):
    evil = "<script>alert('$x_1$')</script>"
    data = report_data(
        tmp_path, title=evil, image_path=evil, statements=(evil,), command=evil, config_yaml=evil
    )
    html = render_report(data)
    assert "<script" not in html
    assert html.count("&lt;script&gt;") >= 5


@pytest.mark.parametrize(
    ("shape", "n_cells", "voxel_size"),
    [
        ((20, 40, 50), 0, (3.0, 1.0, 1.0)),
        ((20, 40, 50), 1, (3.0, 1.0, 1.0)),
        ((1, 1, 1), 0, (1.0, 1.0, 1.0)),
        ((1, 1, 1), 1, (1.0, 1.0, 1.0)),
        ((1, 30, 40), 3, (1.0, 1.0, 1.0)),
        ((3, 2, 400), 2, (10.0, 0.1, 0.1)),
        ((300, 3, 3), 4, (1.0, 1.0, 1.0)),
    ],
)
def test_few_cells_and_odd_volumes(tmp_path, shape, n_cells, voxel_size):
    data = report_data(tmp_path, shape, n_cells, voxel_size, projections=())
    page = Page(render_report(data))
    found = read_cells(data.cells_path).total
    assert ("No cell was found" in page.text) == (found == 0)
    data = report_data(tmp_path, shape, n_cells, voxel_size)
    assert len(Page(render_report(data)).images) == len(page.images) + 1


def test_windows_are_bounded_and_in_the_densest_place(tmp_path):
    shape = (40, 1200, 1300)
    labels = np.zeros(shape, np.uint32)
    for k in range(12):
        labels[20 : 20 + 2, 1100 + 5 * k : 1103 + 5 * k, 1200:1203] = k + 1
    labels[3:6, 3:6, 3:6] = 13
    table = cell_table(measure_fragments(labels, 13), voxel_size=(1, 1, 1), shape=shape)
    write_cells(tmp_path / "c.parquet", [table])
    data = report_data(tmp_path, labels=Array(labels), image=Array(labels), shape=shape)
    data = ReportData(**(vars(data) | {"cells_path": tmp_path / "c.parquet"}))
    cells = read_cells(data.cells_path)
    z, y, x = panels.densest_place(cells, shape, panels.window_shape(cells, data))
    assert 18 <= z <= 23
    assert y >= 1080
    assert x >= 1150
    assert len(panels.slice_figures(cells, data)) == 3
    assert data.labels.largest <= panels.MAX_WINDOW**2


def test_offset_of_a_region_is_taken_off(tmp_path):
    plain = read_cells(report_data(tmp_path).cells_path)
    moved = report_data(tmp_path, offset=(100, 0, 7))
    np.testing.assert_allclose(read_cells(moved.cells_path, moved.offset).centroid, plain.centroid)


def test_a_large_table_is_sampled_evenly(tmp_path):
    data = report_data(tmp_path, (30, 60, 60), 400)
    whole, part = read_cells(data.cells_path), read_cells(data.cells_path, limit=100)
    assert part.total == whole.total
    assert part.touching_border == whole.touching_border
    assert 60 < part.volume.size < 140
    assert part.weight == pytest.approx(whole.total / part.volume.size)


def test_a_broken_table_is_one_clear_line(tmp_path):
    path = tmp_path / "cells.parquet"
    with pytest.raises(VolumeError, match="no readable cell table"):
        read_cells(path)
    pq.write_table(pa.table({"label": [1]}), path)
    with pytest.raises(VolumeError, match="column centroid_z is missing"):
        read_cells(path)


def test_a_failed_report_leaves_the_old_one(tmp_path):
    data = report_data(tmp_path)
    path = tmp_path / "report.html"
    path.write_text("old", encoding="utf-8")
    data.cells_path.unlink()
    with pytest.raises(VolumeError):
        write_report(path, data)
    assert path.read_text(encoding="utf-8") == "old"


def test_outlines_follow_the_labels():
    labels = np.zeros((12, 12), np.uint32)
    labels[2:10, 2:10] = 7
    grey = np.full(labels.shape, 50, np.uint8)
    drawn = panels.outline(grey, labels)
    coloured = (drawn != 50).any(axis=-1)
    assert not coloured[labels == 0].any()
    assert coloured[2, 2:10].all()
    assert coloured[9, 2:10].all()
    assert not coloured[5:7, 5:7].any()


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (
            Method("intensity", "components", connectivity=26),
            "26-connected components of the image",
        ),
        (
            Method("WNet3D", "watershed", seeds="threshold", seed_threshold=0.9),
            "flooded from the components above 0.9",
        ),
        (Method("net", "flow", foreground_note="sha256 ab12"), "decoded from the network's flow"),
        (
            Method("intensity", "voronoi-otsu", min_volume="30 um3"),
            "smaller than 30 um3 were removed (n = 0)",
        ),
        (Method("net", "star", merging="overlap"), "merged by mutual best overlap"),
    ],
)
def test_methods_paragraph_names_what_was_done(tmp_path, method, words):
    data = report_data(tmp_path, method=method, threshold=Threshold(0.4, "given"))
    paragraph, references = methods(data, 30, 2)
    assert words in paragraph
    assert "fixed threshold of 0.4" in paragraph
    numbers = [int(n) for n in re.findall(r"\[(\d+)\]", paragraph)]
    assert sorted(set(numbers)) == list(range(1, len(references) + 1))
    assert list(dict.fromkeys(numbers)) == sorted(set(numbers))


def test_an_open_certificate_is_not_called_exact(tmp_path):
    html = render_report(report_data(tmp_path, certificate=Certificate(100, 9, 1, 1, 2, 3)))
    assert "3 voxels are still open" in html
    assert "in one piece" not in html
