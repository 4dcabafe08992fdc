"""The benchmark of published sets, on made-up folders of the same layouts."""

from __future__ import annotations

import json
import re
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import tifffile

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import label_efficiency  # noqa: E402
import papers  # noqa: E402
from efficiency import subsets  # noqa: E402
from paper_sets import layouts, published, standins  # noqa: E402
from paper_sets.protocol import best_threshold, cropped  # noqa: E402
from paper_sets.scoring import counts, f1_curve, planes_apart, pooled  # noqa: E402
from paper_sets.sets import SETS, Options  # noqa: E402

INTENSITY = Options(model="intensity")


def main(monkeypatch, program, *arguments):
    monkeypatch.setattr(sys, "argv", [program.__name__, *map(str, arguments)])
    program.main()


@pytest.mark.parametrize("key", ["mouse-skull", "platynereis", "platynereis-ish"])
def test_sets_of_embedseg(tmp_path, key, capsys):
    found = papers.run(key, papers.stand_in(key, tmp_path), INTENSITY)
    (row,) = found["rows"]
    shown = capsys.readouterr().out
    assert row["name"] == "Otsu"
    assert f"published {published.N_TRUE_BY_PLANE[key]:,}" in shown
    # what was doubled and framed is halved and cropped again
    assert found["n_true_by_plane"] < 3 * 24 * found["n_true"]
    assert row["in_3d"][4] > 0.6
    assert f"{published.F1_BY_PLANE[key]['WNet3D'][9]:.3f}" in shown
    assert len(row["by_plane"]) == 10


def test_mesospim(tmp_path, capsys):
    found = papers.run("mesospim", papers.stand_in("mesospim", tmp_path), INTENSITY)
    assert found["volumes"] == ["visual", "c5", "c3"]
    assert found["dice"]["Otsu"]["mean"] > 0.7
    values = found["dice"]["Otsu, artifacts cropped"]["values"]
    assert values[0] != found["dice"]["Otsu"]["values"][0]
    assert values[1:] == found["dice"]["Otsu"]["values"][1:]
    assert "SwinUNetR" in capsys.readouterr().out


@pytest.mark.parametrize("key", ["nucmm-z", "nucmm-m"])
def test_nucmm(tmp_path, key):
    made = standins.nucmm(tmp_path, SETS[key].title, hdf5=find_spec("h5py") is not None)
    found = papers.run(key, made, INTENSITY)
    assert found["chunks"] == 1
    assert found["rows"][0]["ap"][0] > 0.8
    assert "not distributed" in found["notes"][0]
    # labels for testing take the place of those for validation
    for kind in ("Image", "Label"):
        shutil.copytree(
            tmp_path / SETS[key].title / kind / "train", tmp_path / SETS[key].title / kind / "test"
        )
    found = layouts.nucmm(tmp_path, SETS[key].title)
    assert len(found.scored) == 2
    assert found.notes == ()


def test_spheroids(tmp_path):
    found = papers.run("spheroids", papers.stand_in("spheroids", tmp_path), INTENSITY)
    mean, *channels = found["rows"][0]["score"]
    assert mean == pytest.approx(np.mean(channels))
    assert mean > 0.5


def test_a_network_its_threshold_and_the_clean_up(tmp_path, monkeypatch, capsys):
    made = standins.embedseg(
        tmp_path / "set", {"train": ("X1", "X2_left")}, shape=(10, 20, 20), count=3
    )
    arguments = ("mouse-skull", made, "--json", tmp_path / "a.json")
    main(monkeypatch, papers, *arguments)
    found = json.loads((tmp_path / "a.json").read_text())
    names = [row["name"] for row in found["rows"]]
    assert {"Otsu", "Otsu, cleaned up"} < set(names)
    assert "nuclei-wnet3d > 0.45" in names
    assert "nuclei-wnet3d > 0.45, cleaned up" in names
    assert "nuclei-wnet3d, own cells" in names
    assert "largest Dice on X2_left" in capsys.readouterr().out


def test_training_on_what_is_not_scored(tmp_path, monkeypatch, capsys):
    made = papers.stand_in("nucmm-m", tmp_path)
    config = tmp_path / "train.yaml"
    config.write_text(
        "{patch: [16, 16, 16], halo: [2, 2, 2], architecture: unet, threads: 1,"
        " architecture_options: {widths: [4, 8]}, steps_per_epoch: 2}"
    )
    arguments = ("nucmm-m", made, "--train", 2, "--train-config", config, "--out", tmp_path / "o")
    main(monkeypatch, papers, *arguments)
    assert "training on 2 volumes" in capsys.readouterr().out
    main(monkeypatch, papers, *arguments)
    shown = capsys.readouterr().out
    assert "training on" not in shown
    assert "U3D-BCD of ours" in shown


@pytest.mark.parametrize("key", SETS)
def test_another_folder_is_answered_with_a_drawing(tmp_path, monkeypatch, capsys, key):
    with pytest.raises(SystemExit, match="2"):
        main(monkeypatch, papers, key, tmp_path)
    shown = capsys.readouterr().err
    assert re.search(r"(?s)^error: .* does not hold .*Expected:\n.*/", shown)


def test_volumes_that_do_not_fit_are_named(tmp_path, monkeypatch, capsys):
    made = papers.stand_in("spheroids", tmp_path)
    path = made / "labels" / "B10_T01_GFP.tif"
    labels = tifffile.imread(path)
    # whole numbers stored as floats are labels all the same
    tifffile.imwrite(path, labels.astype(np.float32))
    papers.run("spheroids", made, INTENSITY)
    tifffile.imwrite(path, labels[:-1])
    with pytest.raises(SystemExit, match="2"):
        main(monkeypatch, papers, "spheroids", made, "--model", "intensity")
    assert "GFP.tif is (8, 32, 32), but" in capsys.readouterr().err


def test_variants_of_layouts(tmp_path):
    made = standins.embedseg(
        tmp_path / "a" / "download", {"train": ("X01",), "test": ("X02_test",)}
    )
    found = layouts.embedseg(made.parent, "Platynereis-ISH-Nuclei-CBG", "X01", "X02_train")
    assert [pair.name for pair in found.scored] == ["X01"]
    assert "X02_train, which the paper finds its threshold on, is not here" in found.notes
    (made / "train" / "images" / "X01.tif").rename(made / "train" / "images" / "other.tif")
    found = layouts.embedseg(made.parent, "Platynereis-ISH-Nuclei-CBG", "X01", "X02_train")
    assert [pair.name for pair in found.scored] == ["X02_test"]
    assert "X02_test instead" in found.notes[0]
    # labels beside the images, and in folders of their own
    folder = standins.mesospim(tmp_path / "m")
    for path in (folder / "labels").iterdir():
        path.rename(folder / path.name)
    assert [pair.name for pair in layouts.mesospim(folder).scored] == ["visual", "c5", "c3"]
    (folder / "volumes").mkdir()
    for path in folder.glob("*image.tif"):
        path.rename(folder / "volumes" / path.name)
    found = layouts.mesospim(folder)
    assert found.scored[0].labels.name == "visuallabels.tif"
    assert [pair.name for pair in found.train["visual"]] == ["c1", "c2", "c3", "c4", "c5"]


def test_planes_apart_is_a_data_set_of_planes():
    rng = np.random.default_rng(3)
    true, pred = (rng.integers(0, 5, (4, 9, 9)).astype(np.uint16) for _ in range(2))
    together = pooled([planes_apart(true)], [planes_apart(pred)])
    one_by_one = pooled([p[None] for p in true], [p[None] for p in pred])
    assert counts(together) == counts(one_by_one)
    np.testing.assert_allclose(f1_curve(together), f1_curve(one_by_one))
    assert planes_apart(np.zeros((2, 3, 3), np.uint8)).max() == 0


def test_best_threshold():
    labels = np.zeros((4, 8, 8), np.uint8)
    labels[:, 2:5] = 3
    found = np.where(labels > 0, 0.62, 0.33)
    assert 0.33 <= best_threshold([(found, labels)]) < 0.62
    image, cut = cropped(found, labels)
    assert image.shape == cut.shape == (4, 3, 8)
    assert cropped(found, np.zeros_like(labels))[0] is found


def test_means_of_published_curves():
    for curves in published.F1_BY_PLANE.values():
        for name, (*curve, mean) in curves.items():
            assert np.mean(curve) == pytest.approx(mean, abs=2e-3), name
    for key, (tp, fp, fn) in published.COUNTS.items():
        assert tp + fn == published.N_TRUE_BY_PLANE[key]
        best = max(c[4] for n, c in published.F1_BY_PLANE[key].items() if n.startswith("WNet3D"))
        assert 2 * tp / (2 * tp + fp + fn) == pytest.approx(best, abs=1e-3)
    for name, (mean, *channels) in published.SPHEROIDS.items():
        assert np.mean(channels) == pytest.approx(mean, abs=2e-3), name


@pytest.fixture(name="study")
def _study(tmp_path):
    """Options of a label-efficiency study of seconds."""
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
    for number in range(3):
        image, labels = standins.blobs((16, 32, 32), 3, seed=number)
        tifffile.imwrite(tmp_path / "images" / f"c{number}.tif", image)
        tifffile.imwrite(tmp_path / "labels" / f"c{number}.tif", labels)
    config = tmp_path / "train.yaml"
    config.write_text(
        "{patch: [16, 16, 16], halo: [2, 2, 2], architecture: unet,"
        " architecture_options: {widths: [4, 8]}, steps_per_epoch: 2}"
    )
    arguments = [tmp_path / "images", tmp_path / "labels", "--out", tmp_path / "out"]
    arguments += ["--voxel-size", "1,1,1", "--fractions", "25,100", "--subsets", "2"]
    return [*arguments, "--steps", "2", "--cube", "16", "--config", config]


def test_label_efficiency(tmp_path, monkeypatch, capsys, study):
    main(monkeypatch, label_efficiency, *study, "--wnet", "nuclei-wnet3d")
    result = json.loads((tmp_path / "out" / "label_efficiency.json").read_text())
    lines = {(line["method"], line["percent"]): line for line in result["summary"]}
    assert set(lines) == {("supervised", 25.0), ("supervised", 100.0), ("nuclei-wnet3d", 0.0)}
    assert lines["supervised", 25.0]["pieces"] == 2
    assert lines["supervised", 100.0]["pieces"] == 8
    assert lines["supervised", 100.0]["dice_sd"] is not None
    assert (tmp_path / "out" / "label_efficiency.png").stat().st_size > 1000
    rows = (tmp_path / "out" / "label_efficiency.csv").read_text().splitlines()
    assert len(rows) == 1 + 6
    capsys.readouterr()
    # a second call finds everything there
    main(monkeypatch, label_efficiency, *study, "--wnet", "nuclei-wnet3d")
    shown = capsys.readouterr().out
    assert shown.count("kept") == 4
    assert "trained," not in shown
    assert json.loads((tmp_path / "out" / "label_efficiency.json").read_text()) == result
    with pytest.raises(SystemExit, match="2"):
        main(monkeypatch, label_efficiency, *study, "--steps", "3")
    assert "has trainings with steps 2, now 3" in capsys.readouterr().err


def test_embryos_of_bbbc050_are_held_out_together():
    pairs = [
        subsets.Named(f"Emb{n:02d}_t{t}", Path(), Path(), f"Emb{n:02d}")
        for n in range(1, 12)
        for t in (301, 501)
    ]
    first, second = subsets.subsets_of(pairs, 2)
    assert {pair.group for pair in first.test} == {"Emb09", "Emb10", "Emb11"}
    assert first.train == second.train
    draws = [subsets.drawn(first.train, 25, (0, n)) for n in (0, 1)]
    assert draws[0] != draws[1]
    assert set(draws[0]) < set(subsets.drawn(first.train, 80, (0, 0)))


def test_label_efficiency_needs_two_volumes(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(monkeypatch, label_efficiency, tmp_path, tmp_path, "--out", tmp_path / "o")
    assert re.search(r"0 pairs .*images/a\.tif and labels/a\.tif", capsys.readouterr().err)
