"""compare: what it reads, tests, draws, writes and refuses."""

from __future__ import annotations

import csv
import io
import json
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from cellseg3d_dist import compare
from cellseg3d_dist.comparison import plots, tables
from cellseg3d_dist.comparison.basis import choose_basis
from cellseg3d_dist.comparison.reading import read_predictions
from cellseg3d_dist.errors import BadInputError, ConfigError, EnvironmentFailedError
from cellseg3d_dist.metrics.contingency import contingency
from cellseg3d_dist.metrics.datasets import summarise_images
from cellseg3d_dist.metrics.statistics import compare_groups
from cellseg3d_dist.metrics.summary import summarise

THRESHOLDS = [round(0.1 * i, 1) for i in range(1, 10)]
ODD = "<b>[red]a[/red]</b> $x_1$ é"


def rows(f1, n_true=20, n_pred=18, criterion="iou", thresholds=THRESHOLDS):
    """A matching, F1 falling from this one."""
    made = []
    for threshold in thresholds:
        tp = round(n_true * f1 * (1 - threshold**3))
        fp, fn = n_pred - tp, n_true - tp
        score = 2 * tp / max(1, 2 * tp + fp + fn)
        made.append({"criterion": criterion, "threshold": threshold, "tp": tp, "fp": fp, "fn": fn,
                     "f1": score, "panoptic_quality": 0.8 * score})  # fmt: skip
    return made


def one(name, f1, **more):
    """Scores of one image, as a run with true labels leaves them."""
    return {"name": name, "matching": rows(f1, **more), "foreground": {"dice": f1}}


def data_set(name, f1s):
    """Scores of several images."""
    images = [one(f"image {i}", f1) for i, f1 in enumerate(f1s)]
    return {**one(name, float(np.mean(f1s))), "images": images, "thesis": None}


@pytest.fixture(scope="module")
def scored():
    """Three methods on five images, with all that evaluate gives."""
    random = np.random.default_rng(0)
    documents = []
    for name, wrong in (("good", 0.05), (ODD, 0.3), ("bad", 0.6)):
        images, found = [], []
        for number in range(5):
            labels_true = np.random.default_rng(number).integers(0, 9, (4, 8, 8)).repeat(2, 2)
            labels_pred = labels_true.copy()
            labels_pred[random.random(labels_true.shape) < wrong] = 0
            found.append(contingency(labels_true, labels_pred))
            images.append(summarise(found[-1], name=f"image {number}"))
        documents.append(summarise_images(images, found, name=name))
    return documents


@pytest.fixture(scope="module")
def written(scored, tmp_path_factory):
    """The same, compared into a folder."""
    return compare(*scored, out=tmp_path_factory.mktemp("written") / "comparison")


def put(path, document):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return path


# reading


def test_files_folders_and_values_are_read(tmp_path, scored):
    put(tmp_path / "a.json", {**one("", 0.8), "labels_true": "true.zarr"})
    put(tmp_path / "run" / "scores.json", {"matching": rows(0.7), "foreground": {"dice": 0.9}})
    put(tmp_path / "many.json", {"predictions": [one("x", 0.6), {"matching": rows(0.5)}]})
    found = read_predictions(
        [tmp_path / "a.json", tmp_path / "run", str(tmp_path / "many.json"), scored[0]]
    )
    assert [p.name for p in found] == ["a", "run", "x", "many 2", "good"]
    assert found[0].labels_true == "true.zarr"
    assert [(p.whole.n_true, p.whole.n_pred) for p in found[:2]] == [(20, 18)] * 2
    assert found[1].whole.get("dice", "foreground") == 0.9
    assert len(found[4].images) == 5
    assert found[4].whole.n_true == scored[0].n_true
    names = [p.name for p in read_predictions([tmp_path / "many.json"], ["one", "two\n\x1b[1m"])]
    assert names == ["one", "two  [1m"]


def test_every_number_is_kept(scored):
    (prediction,) = read_predictions([scored[0]])
    whole, values = scored[0].to_dict(), prediction.whole.values
    for row in whole["matching"]:
        for metric in ("tp", "precision", "mean_true_score"):
            assert values[row["criterion"], row["threshold"], metric] == row[metric]
    assert values["outcomes", None, "fused"] == whole["outcomes"]["fused"]
    assert (
        values["average_precision", None, "all.ap50"] == whole["average_precision"]["all"]["ap50"]
    )
    assert values["", None, "voxels"] == whole["voxels"]


def test_lists_are_told_apart_and_what_is_no_number_left_out():
    regions = [{"region": "cortex", "n_true": 3}, {"region": "stem", "n_true": 5}]
    document = one("a", 0.5) | {"regions": regions, "odd": "text", "no": None, "flag": True}
    values = read_predictions([document])[0].whole.values
    assert values["regions", None, "cortex.n_true"] == 3
    assert values["regions", None, "stem.n_true"] == 5
    assert not {"odd", "no", "flag"} & {metric for _, _, metric in values}


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (None, "does not exist"),
        ("{", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("[1]", "no list called matching"),
        ('{"matching": 3}', "no list called matching"),
        ('{"a": 3}', "no list called matching"),
        ('{"matching": [3]}', r"matching\[0\] is no set of scores"),
        ('{"matching": [{"f1": 0.5}]}', "lacks a criterion or a threshold"),
        ('{"matching": [{"criterion": "iou", "threshold": 0.5, "f1": 7}]}', "no number from 0"),
        ('{"matching": [], "images": 3}', "images is no list"),
        ('{"predictions": []}', "without predictions"),
        ('{"predictions": [{"name": "a"}]}', r"predictions\[0\] is not a scores document"),
        ('{"matching": []}', "no F1 by iou"),
        ('{"foreground": {"dice": 0.5}}', "no F1 by iou"),
    ],
)
def test_what_is_no_scores_document(cli, tmp_path, content, match):
    path = tmp_path / "a.json"
    if content is not None:
        path.write_text(content)
    cli.refuses("compare", path, "-o", tmp_path / "out", match=match)


def test_bad_input_gets_one_line(cli, tmp_path):
    a = put(tmp_path / "a.json", one("same", 0.8))
    b = put(tmp_path / "b.json", one("same", 0.7))
    coarse = put(tmp_path / "c.json", one("coarse", 0.7, thresholds=[0.25, 0.75]))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "x").touch()
    cli.refuses("compare", a, b, match=r"2 predictions are named 'same'.*--names")
    cli.refuses("compare", a, b, "--names", "x,y,z", match="3 names for 2 predictions")
    cli.refuses("compare", a, b, "--names", "x,x", match="2 predictions are named 'x'")
    cli.refuses("compare", a, b, "--names", "x,", match="A name is empty")
    cli.refuses("compare", a, coarse, match="No iou threshold .* 'coarse' 0.25, 0.75")
    cli.refuses("compare", a, "--criterion", "iot", match="no F1 by iot, only by iou")
    cli.refuses("compare", a, "--criterion", "x", match="must be one of iou, iot, iop")
    cli.refuses("compare", a, "--by", "x", match="must be one of image, threshold, both")
    cli.refuses("compare", a, "--by", "image", match="'same' is scored as a whole.*by threshold")
    cli.refuses("compare", tmp_path / "folder", match="has no scores.json")
    cli.refuses("compare", a, "-o", tmp_path / "folder", match="not empty and holds no comparison")
    cli.refuses("compare", a, "-o", tmp_path / "folder" / "x", match="is a file")
    cli.refuses("compare", "http://x/y.json", match="is a URL")
    cli.refuses("compare", match="Missing argument")
    with pytest.raises(BadInputError, match="nothing to compare"):
        compare()
    with pytest.raises(BadInputError, match="several images named"):
        compare({**one("a", 0.5), "images": [one("i", 0.5), one("i", 0.6)]})


# what is compared


def test_images_are_the_default_where_there_are_three():
    three = [data_set("a", [0.9, 0.8, 0.7]), data_set("b", [0.5, 0.4, 0.3])]
    two = [data_set("a", [0.9, 0.8]), data_set("b", [0.5, 0.4])]
    assert choose_basis(read_predictions(three)).by == "image"
    assert choose_basis(read_predictions(two)).by == "threshold"
    assert choose_basis(read_predictions([one("a", 0.9)])).by == "threshold"


@pytest.mark.parametrize("by", ["image", "threshold", "both"])
def test_groups_are_the_values_that_are_said(by, scored):
    found = compare(*scored, by=by)
    wanted = {}
    for document in scored:
        curves = [[s.f1 for s in i.matching if s.criterion == "iou"] for i in document.images]
        whole = [s.f1 for s in document.matching if s.criterion == "iou"]
        wanted[document.name] = {
            "image": list(np.mean(curves, axis=1)),
            "threshold": whole,
            "both": list(np.ravel(curves)),
        }[by]
    for name, values in found.basis.groups().items():
        assert values == pytest.approx(wanted[name], rel=1e-12)
    assert found.test == compare_groups(found.basis.groups())
    independent = by == "image"
    assert any("not independent" in line for line in found.cautions) != independent
    assert f"by {'image and threshold' if by == 'both' else by}" in found.statements[0]


def test_what_is_left_out_is_said():
    empty = one("image 3", 0.0, n_true=0, n_pred=0)
    a, b = data_set("a", [0.9, 0.8, 0.7]), data_set("b", [0.5, 0.4, 0.3, 0.2])
    a["images"].append(empty)
    b["images"][3] = empty
    b["images"].append(one("image 9", 0.9))
    b["matching"].append({"criterion": "iou", "threshold": 0.95, "f1": 0.0})
    found = choose_basis(read_predictions([a, b]))
    assert found.images == ("image 0", "image 1", "image 2")
    assert found.thresholds == tuple(THRESHOLDS)
    said = " ".join(found.notes)
    assert "left out: 0.95" in said
    assert "1 image not scored for all" in said
    assert "1 image without true cells" in said


def test_other_truth_and_other_images_are_said():
    a, b = data_set("a", [0.9, 0.8, 0.7]), data_set("b", [0.5, 0.4, 0.3])
    for image in b["images"]:
        image["name"] += " of others"
    b["n_true"] = 99
    basis = choose_basis(read_predictions([a, b]))
    assert basis.by == "threshold"
    assert "No image is scored for all" in basis.notes[0]
    assert "a: 20, b: 99" in basis.notes[1]
    with pytest.raises(BadInputError, match="no image is scored for all"):
        choose_basis(read_predictions([a, b]), by="both")
    with pytest.raises(ConfigError):
        choose_basis(read_predictions([a, b]), by="cell")


def test_one_method_and_few_values_have_no_test():
    alone = compare(data_set("a", [0.9, 0.8, 0.7]))
    assert alone.statements[1].startswith("One method only")
    assert alone.cautions == ()
    few = compare(data_set("a", [0.9, 0.8]), data_set("b", [0.5, 0.4]), by="image")
    assert few.statements[1].startswith("Too few values for a test: 2")
    rough = compare(data_set("a", [0.9, 0.8, 0.7]), data_set("b", [0.5, 0.4, 0.3]))
    assert "Only 3 values a method" in rough.cautions[-1]


# what is written


def test_csv_has_every_value(written, scored):
    text = (written.page.parent / "scores.csv").read_text(encoding="utf-8")
    read = list(csv.DictReader(io.StringIO(text)))
    assert len(read) == sum(1 for _ in tables.tidy(written.predictions))
    frame = written.frame()
    assert list(frame.columns) == list(tables.TIDY) == list(read[0])
    assert [float(row["value"]) for row in read] == list(frame["value"])
    found = [
        row for row in read
        if (row["prediction"], row["image"], row["criterion"], row["threshold"], row["metric"])
        == (ODD, "image 2", "iop", "0.7", "f1")
    ]  # fmt: skip
    wanted = [
        s.f1 for s in scored[1].images[2].matching if (s.criterion, s.threshold) == ("iop", 0.7)
    ]
    assert [float(row["value"]) for row in found] == wanted
    assert next(row["value"] for row in read if row["metric"] == "tp").isdecimal()


def test_page_holds_everything_and_escapes_names(written):
    page = written.page.read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 5
    assert "<b>[red]" not in page
    assert "&lt;b&gt;[red]a[/red]&lt;/b&gt; $x_1$ é" in page
    assert not re.search(r"<script|src=\"(?!data:)|url\(|@import", page)
    for line in (*written.statements, *written.cautions):
        assert line.replace("<", "&lt;").replace(">", "&gt;").split("&lt;")[0] in page
    for anchor in re.findall(r'href="#(\w+)"', page):
        assert f'id="{anchor}"' in page
    for name in ("F1@0.5", "AP50", "Dice", "SEG", "95 % bootstrap interval"):
        assert f"<dt>{name}</dt>" in page


def test_figures_are_there_twice(written):
    folder = written.page.parent / "figures"
    names = {path.stem for path in folder.iterdir()}
    assert names == {"f1", "scores", "boxes", "outcomes", "counts"}
    for name in names:
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        drawn = (folder / f"{name}.svg").read_text(encoding="utf-8")
        assert ElementTree.fromstring(drawn).tag.endswith("svg")
        assert "dc:date" not in drawn


def test_result_for_programs(written):
    content = json.loads((written.page.parent / "comparison.json").read_text(encoding="utf-8"))
    assert content["by"] == "image"
    assert content["test"]["p"] == written.test.p < 0.05
    assert [pair["p"] for pair in content["test"]["pairs"]] == [p.p for p in written.test.pairs]
    lines = (written.page.parent / "pairs.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 4


def test_command_shows_tables_and_replaces_only_its_own(cli, tmp_path):
    for name, f1 in (("a", 0.9), ("b", 0.5)):
        put(tmp_path / name / "scores.json", {"matching": rows(f1)})
    said = cli.does("compare", "a", "b", "--names", "first,[bold]second", "-o", "out")
    assert "[bold]second" in said.out
    assert "Kruskal-Wallis over 2 methods, n = 18" in said.out
    assert said.out.splitlines()[-1] == str(tmp_path / "out" / "comparison.html")
    names = {path.stem for path in (tmp_path / "out" / "figures").iterdir()}
    assert names == {"f1", "scores", "counts"}
    cli.refuses("compare", "a", "b", "-o", "out", match="holds a comparison.*--overwrite")
    cli.does("compare", "b", "-o", "out", "--overwrite")
    assert "One method only" in (tmp_path / "out" / "comparison.html").read_text(encoding="utf-8")


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(EnvironmentFailedError, match="cannot be written"):
        compare(one("a", 0.9), out=tmp_path / "file" / "out")


# what is drawn


@pytest.mark.parametrize("n_images", [0, 1, 4])
def test_plots_of_any_number_of_methods(n_images):
    for n_methods in (1, 9):
        documents = [
            data_set(
                f"m{i}", [0.1 * (i + 1) / n_methods + 0.2 * j for j in range(n_images)] or [0.5]
            )
            for i in range(n_methods)
        ]
        if not n_images:
            documents = [{**d, "images": []} for d in documents]
        basis = choose_basis(read_predictions(documents))
        keys = [p.key for p in plots.draw(basis, dict.fromkeys(plots.KEYS, ""))]
        assert keys == ["f1", "scores", *(["boxes"] if n_images > 1 else []), "counts"]


def test_each_prediction_has_a_look_of_its_own():
    looks = [plots._look(number) for number in range(28)]
    told = {(look["color"], look["marker"], str(look["linestyle"])) for look in looks}
    assert len(told) == 28


@pytest.mark.parametrize("counts", [(0, 0, 5), (3, 900, 20), (0, 900, 1)])
def test_counts_keep_their_diagonal_on_any_range(counts):
    images = [one(f"i{n}", 0.5, n_true=max(1, n), n_pred=n) for n in counts]
    images = [image | {"name": f"i{i}"} for i, image in enumerate(images)]
    basis = choose_basis(read_predictions([{**one("a", 0.5), "images": images}]))
    (axes,) = plots.counts_figure(basis).axes
    assert axes.get_xlim() == axes.get_ylim()
    assert axes.get_xscale() == axes.get_yscale()
    assert axes.get_ylim()[0] < min(counts)
    assert axes.get_ylim()[1] > max(counts)
