"""Labellers: found by name, entry point, module or file; run in blocks; bad ones refused."""

import json
import sys
import types
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage as ndi
from segmenting import labels_of, store

import cellseg3d_dist
from cellseg3d_dist import segmentation
from cellseg3d_dist.config import make_config, values
from cellseg3d_dist.engine import executors
from cellseg3d_dist.engine.folder import RunFolder
from cellseg3d_dist.errors import (
    BlocksFailedError,
    ConfigError,
    EnvironmentFailedError,
    LabellerError,
    OutputError,
    WeightsError,
)
from cellseg3d_dist.labellers import LabellerSource, default_halo, names
from cellseg3d_dist.labellers import finding as finding_module
from cellseg3d_dist.labellers.labeller import labels_by
from cellseg3d_dist.segmentation import plan, resume, segment

SHAPE, BLOCK = (24, 30, 33), (12, 15, 17)
HOW = {
    "executor": "serial", "voxel_size": (1, 1, 1), "block_shape": BLOCK, "overlap_halo": "6",
}  # fmt: skip
OWN = """
import numpy as np
import scipy.ndimage as ndi

def label(image, voxel_size, above=100, seed=None):
    labels = ndi.label(image > above)[0]
    return 1000 * labels

def seeded(image, voxel_size):
    # ids that differ from call to call
    labels = ndi.label(image > 100)[0]
    ids = np.random.permutation(10 * labels.max())[:labels.max()] + 1
    return np.concatenate(([0], ids))[labels]

class Halved:
    percentiles = (1.0, 99.0)
    bytes_per_voxel = 7
    def __init__(self, above=0.5, device="cpu"):
        self.above, self.device = above, device
    def halo(self, voxel_size):
        return (3, 4, 5)
    def label(self, image, voxel_size):
        assert image.dtype == np.float32
        return ndi.label(image > self.above)[0]
    def facts(self):
        return {"name": "halved", "above": self.above, "device": self.device}

ready = Halved()
number = 5
less = lambda image: image
"""


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    finding_module._loaded.cache_clear()
    finding_module._facts.cache_clear()
    monkeypatch.setattr(segmentation.running, "write_run_report", lambda *args, **kwargs: None)


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(OWN)
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return store(tmp_path_factory.mktemp("stored") / "image.ome.zarr", cells(), (1, 1, 1))


def cells():
    """Balls of 5 voxels that do not touch."""
    image = np.full(SHAPE, 10, np.uint16)
    ball = ndi.generate_binary_structure(3, 1)
    ball = ndi.iterate_structure(ball, 2)
    for z in range(0, 19, 6):
        for y in range(0, 25, 6):
            for x in range(0, 28, 6):
                part = image[z : z + 5, y : y + 5, x : x + 5]
                part[ball] = 200 + z + y + x
    return image


def run(source, out, instances, **options):
    segment(source, out, instances=str(instances), **HOW | options)
    return labels_of(out)


# runs


def test_a_function_of_a_file_labels_each_cell_once(source, tmp_path, own):
    whole = ndi.label(cells() > 100)[0]
    found = run(source, tmp_path / "out", f"{own}:label")
    np.testing.assert_array_equal(found, whole)
    status = RunFolder(tmp_path / "out").status()
    overlap = status["facts"]["overlap"]
    assert overlap["depends_on_cut"]
    assert overlap["labeller"]["name"] == "own.py:label"
    assert (overlap["halo"], overlap["threshold"]) == ([6, 6, 6], 0.5)
    assert overlap["united"] > 0
    assert "certificate" not in status["facts"]
    np.testing.assert_array_equal(
        run(source, tmp_path / "one", f"{own}:label", block_shape=SHAPE), whole
    )
    assert not RunFolder(tmp_path / "one").status()["facts"]["overlap"]["depends_on_cut"]


def test_ids_order_and_workers_do_not_matter(source, tmp_path, own, monkeypatch, client_of):
    first = run(source, tmp_path / "first", f"{own}:seeded")
    monkeypatch.setattr(
        segmentation.running, "SerialExecutor", lambda: executors.SerialExecutor(shuffle=5)
    )
    np.testing.assert_array_equal(run(source, tmp_path / "again", f"{own}:seeded"), first)
    segment(
        source, tmp_path / "dask", client=client_of(2), instances=f"{own}:label",
        **HOW | {"executor": "dask"},
    )  # fmt: skip
    np.testing.assert_array_equal(labels_of(tmp_path / "dask"), first)


def test_options_reach_a_function_and_what_it_is_not_told_is_its_own(source, tmp_path, own):
    found = run(source, tmp_path / "out", f"{own}:label", labeller_options="above=240")
    np.testing.assert_array_equal(found > 0, cells() > 240)


def test_a_class_is_given_percentiles_of_the_whole_volume(source, tmp_path, own):
    found = run(source, tmp_path / "out", f"{own}:Halved", overlap_halo=None, device="cpu")
    low, high = np.percentile(cells(), (1, 99), method="higher")
    np.testing.assert_array_equal(found > 0, (cells() - low) / (high - low) > 0.5)
    status = RunFolder(tmp_path / "out").status()
    assert status["facts"]["overlap"]["halo"] == [3, 4, 5]
    assert status["facts"]["overlap"]["labeller"]["device"] == "cpu"


def test_a_mask_cuts_labels_and_spares_blocks(source, tmp_path, own):
    within = np.zeros(SHAPE, np.uint8)
    within[:12, :20, :17] = 1
    mask = store(tmp_path / "mask.ome.zarr", within)
    found = run(source, tmp_path / "out", f"{own}:label", mask=mask)
    np.testing.assert_array_equal(found > 0, (cells() > 100) & (within > 0))


def test_constant_regions_are_not_given_to_a_labeller(tmp_path, own):
    own.write_text("def label(image, voxel_size):\n    raise ValueError('called')\n")
    image = store(tmp_path / "flat.ome.zarr", np.full(SHAPE, 7, np.uint16))
    assert run(image, tmp_path / "out", f"{own}:label").max() == 0


def test_a_network_s_foreground_can_be_labelled(source, tmp_path, own):
    own.write_text(
        "import scipy.ndimage as ndi\n"
        "def label(image, voxel_size):\n"
        "    assert image.dtype == 'uint8'\n"
        "    return ndi.label(image > 100)[0]\n"
    )
    found = run(
        source, tmp_path / "out", f"{own}:label", model="nuclei-wnet3d", region="0:12,0:15,0:17"
    )
    assert found.max() > 0
    status = RunFolder(tmp_path / "out").status()
    assert status["model"]["name"] == "nuclei-wnet3d"
    assert status["model"]["labeller"]["name"] == "own.py:label"


def test_resuming_needs_the_same_labeller(source, tmp_path, own, monkeypatch):
    how = HOW | {"instances": f"{own}:label", "keep_work": True}
    tried = executors.run_block

    def stop_at_overlaps(stage, block):
        if stage.name == "overlaps" and block.number == 3:
            raise EnvironmentFailedError("stopped on purpose")
        return tried(stage, block)

    with monkeypatch.context() as patch:
        patch.setattr(executors, "run_block", stop_at_overlaps)
        with pytest.raises(EnvironmentFailedError, match="on purpose"):
            segment(source, tmp_path / "out", **how)
    own.write_text(OWN + "\n# changed\n")
    finding_module._loaded.cache_clear()
    finding_module._facts.cache_clear()
    with pytest.raises(OutputError, match=r"labeller .*own.py:label, sha256 was .* and is"):
        resume(tmp_path / "out")
    own.write_text(OWN)
    finding_module._loaded.cache_clear()
    finding_module._facts.cache_clear()
    resume(tmp_path / "out")
    np.testing.assert_array_equal(labels_of(tmp_path / "out"), ndi.label(cells() > 100)[0])
    assert resume(tmp_path / "out").executed == 0


# bad labellers

BAD = {
    "return image[1:]": r"returned labels of shape \(\d+, 21, 23\), not of shape \(18, 21, 23\)",
    "return image.astype('f4')": "labels of float32, not integers",
    "return image > 5": "labels of bool, not integers",
    "return -image.astype('i4')": "the id -2[0-9][0-9]. Ids must be 0 or above",
    "return None": "a NoneType, not of shape",
    "return [1, 2]": r"labels of shape \(2,\)",
    "raise RuntimeError('no\\nluck')": "raised RuntimeError: no luck",
    "raise OSError('disk')": "raised OSError: disk",
    "import sys; sys.exit(3)": "raised SystemExit: 3",
}


@pytest.mark.parametrize("body", BAD)
def test_a_bad_labeller_fails_its_blocks_with_one_line(source, tmp_path, own, body):
    own.write_text(f"def label(image, voxel_size):\n    {body}\n")
    with pytest.raises(
        BlocksFailedError, match=r"8 of 8 blocks failed .* in label: labeller own"
    ) as e:
        run(source, tmp_path / "out", f"{own}:label")
    assert e.match(BAD[body])
    assert e.value.exit_code == 3
    assert labels_of(tmp_path / "out").max() == 0


def test_a_block_that_fails_leaves_the_others_whole(source, tmp_path, own):
    own.write_text(
        OWN + "\ndef fails(image, voxel_size):\n"
        "    if (image == 200).any():\n        raise ValueError('first')\n"
        "    return label(image, voxel_size)\n"
    )
    with pytest.raises(BlocksFailedError, match="1 of 8 blocks failed"):
        run(source, tmp_path / "out", f"{own}:fails")
    found = labels_of(tmp_path / "out")
    # block 0 is 0; cells that reach into it are cut there
    expected = cells() > 100
    expected[:12, :15, :17] = False
    np.testing.assert_array_equal(found > 0, expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, ">i4", np.uint64])
def test_any_integers_are_labels(dtype):
    class Given:
        def label(self, image, voxel_size):
            return (image > 100).astype(dtype) * np.array(3, dtype)

        def facts(self):
            return {}

    found = labels_by(Given(), cells(), (1, 1, 1))
    assert found.dtype.isnative
    assert set(np.unique(found)) == {0, 3}


def test_ids_beyond_32_bits_are_renumbered(source, tmp_path, own):
    own.write_text(
        "import numpy as np, scipy.ndimage as ndi\n"
        "def label(image, voxel_size):\n"
        "    return ndi.label(image > 100)[0].astype(np.uint64) * np.uint64(2**60 // 100)\n"
    )
    found = run(source, tmp_path / "out", f"{own}:label")
    np.testing.assert_array_equal(found, ndi.label(cells() > 100)[0])


# options


def refused(instances, error=ConfigError, **options):
    given = {"image": "", "instances": str(instances)} | options
    with pytest.raises(error) as caught:
        segmentation.preparing.resolve_method(make_config(given))
    return str(caught.value)


def test_labellers_that_cannot_be_used_are_refused(tmp_path, own):
    assert "must be decode" in refused("magic")
    assert "no such file" in refused(f"{tmp_path}/none.py:label")
    assert "there is no lable in" in refused(f"{own}:lable")
    assert "is a int, not a function" in refused(f"{own}:number")
    assert "cannot be called with (image, voxel_size)" in refused(f"{own}:less")
    assert "unexpected keyword argument 'up'" in refused(f"{own}:label", labeller_options="up=1")
    assert "takes no options" in refused(f"{own}:ready", labeller_options="above=1")
    assert "cannot be loaded: ModuleNotFoundError" in refused("nowhere.at.all:label")
    own.write_text("import os\nos.nothing\n")
    assert "cannot be loaded: AttributeError" in refused(f"{own}:label")
    own.write_text("class Label:\n    label = None\n")
    assert "has no halo and no facts" in refused(f"{own}:Label")


def test_options_of_other_methods_are_refused(own):
    assert "threshold does not apply to labeller" in refused(f"{own}:label", threshold=5)
    assert "flood_halo does not apply" in refused(f"{own}:label", flood_halo=5)
    assert "takes no device" in refused(f"{own}:label", device="cuda")
    assert "must be a number from 0 to 1" in refused(f"{own}:label", overlap_threshold=2)
    own.write_text(OWN.replace("(1.0, 99.0)", "(2.0, 99.0)"))
    assert "percentile 2, which the survey does not keep" in refused(f"{own}:Halved", WeightsError)


def test_halos_memory_and_their_limits(source, own):
    how = {"executor": "serial", "memory_limit": "4GB"}
    made = plan(source, instances=f"{own}:Halved", **how)
    assert made.flood_halo == (3, 4, 5)
    assert {"label", "overlaps"} <= {stage.stage for stage in made.stages}
    assert plan(source, instances=f"{own}:label", **how).flood_halo == (16, 16, 16)
    assert default_halo((5, 1, 2)) == (4, 16, 8)
    with pytest.raises(ConfigError, match=r"overlap_halo \(12, 12, 12\) is not below block_shape"):
        plan(source, instances=f"{own}:label", overlap_halo=12, block_shape=BLOCK, **how)
    # an axis that is not cut has no halo
    plan(source, instances=f"{own}:label", overlap_halo=12, block_shape=(24, 15, 17), **how)
    options = make_config({"image": "", "instances": "a:b", "labeller_options": "a=1,b=x,c=true"})
    assert options.labeller_options == {"a": 1, "b": "x", "c": True}


def test_entry_points_are_names(monkeypatch, tmp_path):
    module = types.ModuleType("another_package")
    exec(OWN, module.__dict__)
    monkeypatch.setitem(sys.modules, "another_package", module)
    point = metadata.EntryPoint("another", "another_package:Halved", "cellseg3d_dist.labellers")
    monkeypatch.setattr(values.metadata, "entry_points", lambda group: [point])
    values.labeller_entry_points.cache_clear()
    try:
        assert names() == ["another", "cellpose", "stardist"]
        found = LabellerSource.of("another", {"above": 0.25}).load()
        assert found.facts() == {"name": "halved", "above": 0.25, "device": "cpu"}
        assert make_config({"image": "", "instances": "another"}).labels_outside
    finally:
        values.labeller_entry_points.cache_clear()


# installed programs, stood in for


def test_what_is_not_installed_is_said_with_its_command(monkeypatch):
    for name in ("stardist", "cellpose"):
        monkeypatch.setitem(sys.modules, name, None)
        assert f"Install it: pip install {name}" in refused(name)


@pytest.fixture
def cellpose(monkeypatch, tmp_path):
    """A module of the program's names that thresholds, and what it was called with."""
    called = {}

    class CellposeModel:
        def __init__(self, **given):
            called["made"] = given
            self.pretrained_model = str(tmp_path / "weights")
            Path(self.pretrained_model).write_bytes(b"weights")

        def eval(self, image, **given):
            called["eval"] = given
            return ndi.label(image > 0.5)[0], None, None

    for name in ("cellpose", "cellpose.models"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["cellpose.models"].CellposeModel = CellposeModel
    return called


@pytest.mark.parametrize("version", ["3.1.1", "4.0.1"])
def test_cellpose_is_called_as_its_version_wants(cellpose, monkeypatch, version):
    monkeypatch.setattr(metadata, "version", lambda name: version)
    labeller = LabellerSource.of("cellpose", {"model": "nuclei", "diameter": 8}).load()
    assert labeller.halo((4, 1, 1)) == (3, 12, 12)
    labels = labels_by(labeller, np.ones((4, 5, 6), np.float32), (4, 1, 1))
    assert labels.max() == 1
    given = cellpose["eval"]
    assert (given["anisotropy"], given["diameter"], given["do_3D"]) == (4, 8, True)
    assert given["normalize"] is False
    assert ("channels" in given) == (version < "4")
    key = "model_type" if version < "4" else "pretrained_model"
    assert cellpose["made"] == {"gpu": False, key: "nuclei"}
    facts = labeller.facts()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["versions"]["cellpose"] == version


def test_cellpose_does_not_run_on_a_cpu_where_cuda_was_asked_for(cellpose, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EnvironmentFailedError, match="device cuda was asked for"):
        LabellerSource.of("cellpose", device="cuda").load()


@pytest.fixture
def stardist(monkeypatch, tmp_path):
    """Modules of the program's names, and what they were called with."""
    called = {}
    (tmp_path / "3D_demo").mkdir()
    (tmp_path / "3D_demo" / "config.json").write_text("{}")

    class StarDist3D:
        def __init__(self, config, name, basedir):
            called["folder"] = f"{basedir}/{name}"
            self.logdir = Path(basedir) / name

        @classmethod
        def from_pretrained(cls, name):
            print("Found model")
            return cls(None, name, str(tmp_path)) if name == "3D_demo" else None

        def _axes_tile_overlap(self, axes):
            return (10, 20, 20)

        def predict_instances(self, image, **given):
            called["predict"] = given
            return ndi.label(image > 0.5)[0], {}

    devices = types.SimpleNamespace(
        set_visible_devices=lambda found, kind: called.update(hidden=kind),
        list_physical_devices=lambda kind: [],
    )
    for name in ("stardist", "stardist.models", "tensorflow"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["stardist.models"].StarDist3D = StarDist3D
    sys.modules["tensorflow"].config = devices
    return called


def test_stardist_is_called_with_the_volume_s_percentiles(stardist, capsys, tmp_path):
    labeller = LabellerSource.of("stardist", {"diameter": 8, "prob_thresh": 0.4}).load()
    assert labeller.halo((2, 1, 1)) == (14, 28, 28)
    assert labels_by(labeller, np.ones((4, 100, 6), np.float32), (2, 1, 1)).max() == 1
    given = stardist["predict"]
    assert (given["normalizer"], given["prob_thresh"], given["n_tiles"]) == (None, 0.4, (1, 2, 1))
    assert stardist["hidden"] == "GPU"
    assert capsys.readouterr().out == ""
    assert labeller.facts()["model"] == "3D_demo"
    LabellerSource.of("stardist", {"model": str(tmp_path / "3D_demo")}).load()
    assert stardist["folder"] == str(tmp_path / "3D_demo")


def test_stardist_refuses_unknown_models_and_missing_gpus(stardist):
    with pytest.raises(ConfigError, match="knows no 3D model '2D_demo'"):
        LabellerSource.of("stardist", {"model": "2D_demo"}).load()
    with pytest.raises(EnvironmentFailedError, match="TensorFlow finds no GPU"):
        LabellerSource.of("stardist", device="cuda").load()


def test_labeller_errors_are_of_blocks():
    assert LabellerError.exit_code == BlocksFailedError.exit_code


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the kernel counts no peaks")
def test_labelling_needs_no_more_memory_than_projected(tmp_path, own):
    from test_memory import finished, measured

    # a mask of 1 byte and labels of 4, and what comes with them
    own.write_text(OWN + "\nlabel.bytes_per_voxel = 12\n")
    options = {"instances": f"{own}:label", "overlap_halo": 10}
    path, stages, projected = finished(tmp_path, 56, np.uint16, options)
    assert stages == ["survey", "label", "overlaps", "relabel", "pyramid-1"]
    found = measured(path, "label", "overlaps")
    assert found["label"] <= projected["label"], projected
    assert found["overlaps"] <= projected["overlaps"], projected


def test_lazy_labels_are_of_two_methods(own):
    with pytest.raises(ConfigError, match=r"united by cellseg3d_dist\.merge"):
        cellseg3d_dist.label(np.zeros((4, 4, 4)), f"{own}:label")
