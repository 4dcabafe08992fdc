"""The training loop: what it writes, that it goes on as if it had not stopped, what it refuses."""

from __future__ import annotations

import csv
import hashlib
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import yaml
from training_data import QUICK, cells, write_pairs

from cellseg3d_dist.errors import (
    ConfigError,
    EnvironmentFailedError,
    OutputError,
    WeightsError,
)
from cellseg3d_dist.metrics.contingency import contingency
from cellseg3d_dist.networks.predictor import predict_array
from cellseg3d_dist.networks.weights import load_model
from cellseg3d_dist.training import checkpoint as checkpoints
from cellseg3d_dist.training.checkpoint import Progressed, read_checkpoint, write_checkpoint
from cellseg3d_dist.training.config import make_train_config
from cellseg3d_dist.training.distributed import Processes, device_of
from cellseg3d_dist.training.loop import Trainer
from cellseg3d_dist.training.records import Silent, Table, TrainFolder, create_folder
from cellseg3d_dist.training.steps import Stepper, learning_rate, step_seed, torch_settings
from cellseg3d_dist.training.train import resume, train
from cellseg3d_dist.training.validation import scores_of, table_of


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("pairs"))


def config_of(data, **more):
    return make_train_config({**QUICK, **data, "validation_fraction": 0.5, **more})


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A training that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole") / "out"
    return train(config_of(data, pictures=True), out)


def rows_of(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Interrupting(Silent):
    """Stops a training after a step, as a kill would: no checkpoint, no goodbye."""

    def __init__(self, at):
        self.at = at

    def step(self, done, loss):
        if done == self.at:
            raise RuntimeError("killed")


def test_what_a_training_leaves(whole):
    folder = TrainFolder(whole.folder)
    rows = rows_of(whole.folder)
    assert [row["step"] for row in rows] == ["2", "4", "6"]
    assert {"loss", "learning_rate", "mean_f1", "f1", "dice"} <= rows[0].keys()
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    assert folder.status()["status"] == "complete"
    assert folder.picture(3).read_bytes()[:4] == b"\x89PNG"
    assert not list(whole.folder.rglob("*.partial*"))
    content = torch.load(folder.checkpoint, weights_only=True)
    assert content["progressed"]["step"] == 6
    # the configuration as it was resolved trains the same again
    made = make_train_config(yaml.safe_load(folder.config.read_text()))
    assert made.train_voxel_size == (2.0, 1.0, 1.0)


def test_weights_of_a_training_predict(whole):
    for path in (whole.best, whole.last):
        model = load_model(path)
        assert model.card.training["steps"] <= 6
        assert model.card.training["method"] == "supervised"
        assert len(model.card.training["images"]) == 1
        image, _ = cells(5)
        predicted = predict_array(model, image, (2.0, 1.0, 1.0))
        assert predicted.shape == (3, *image.shape)
    assert set(model.card.scores) == {"mean_f1", "f1", "dice", "cells", "cells_true"}


@pytest.mark.parametrize("at", [1, 3, 4])
def test_resumed_as_if_not_interrupted(data, whole, tmp_path, at):
    out = tmp_path / "out"
    with pytest.raises(RuntimeError, match="killed"):
        train(config_of(data), out, listener=Interrupting(at))
    assert TrainFolder(out).status()["status"] == "failed"
    if at == 1:
        with pytest.raises(WeightsError, match="ended before its first checkpoint"):
            resume(out)
        return
    assert resume(out).steps == 6
    assert rows_of(out) == rows_of(whole.folder)
    assert digest(out / "last.safetensors") == digest(whole.last)
    assert digest(out / "best.safetensors") == digest(whole.best)


def test_a_finished_training_trains_nothing_more(whole):
    before = rows_of(whole.folder)
    assert resume(whole.folder, listener=Interrupting(7)).steps == 6
    assert rows_of(whole.folder) == before


def start(config, out, folder):
    """The same in a process of its own."""
    (folder / "c.yaml").write_text(config.to_yaml())
    arguments = ["train", str(out), "--config", str(folder / "c.yaml")]
    command = [sys.executable, "-m", "cellseg3d_dist", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_killed_at_any_moment(data, tmp_path):
    config = config_of(data, steps=40, steps_per_epoch=1, validate_every=10, name="one")
    whole = train(config, tmp_path / "whole")
    out = tmp_path / "out"
    process = start(config, out, tmp_path)
    limit = time.monotonic() + 240
    while not TrainFolder(out).checkpoint.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < limit
        time.sleep(0.02)
    time.sleep(float(np.random.default_rng().uniform(0, 1)))
    process.kill()
    process.communicate()
    resume(out)
    assert rows_of(out) == rows_of(whole.folder)
    assert digest(out / "last.safetensors") == digest(whole.last)


def test_a_signal_keeps_the_step(data, tmp_path):
    config = config_of(data, steps=100000, steps_per_epoch=100000)
    out = tmp_path / "out"
    process = start(config, out, tmp_path)
    limit = time.monotonic() + 240
    while not (out / "metrics.csv").exists():
        assert time.monotonic() < limit
        time.sleep(0.02)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert f"The checkpoint is kept; resume with: cellseg3d-dist train {out} --resume" in err
    assert torch.load(TrainFolder(out).checkpoint, weights_only=True)["progressed"]["counted"] > 0
    assert TrainFolder(out).status()["status"] == "interrupted"


def test_a_changed_configuration_is_refused(data, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(RuntimeError):
        train(config_of(data), out, listener=Interrupting(3))
    text = TrainFolder(out).config.read_text()
    TrainFolder(out).config.write_text(text.replace("batch: 2", "batch: 3"))
    with pytest.raises(OutputError, match=r"cannot be resumed: batch was 2 and is 3\. Undo"):
        resume(out)
    TrainFolder(out).config.write_text(text)
    content = TrainFolder(out).checkpoint.read_bytes()
    TrainFolder(out).checkpoint.write_bytes(content[: len(content) // 2])
    with pytest.raises(WeightsError, match="no readable checkpoint"):
        resume(out)
    with pytest.raises(OutputError, match="not the output of a training"):
        resume(tmp_path)


def test_a_checkpoint_is_whole_or_the_one_before(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    write_checkpoint(path, Progressed(1), {"a": 1}, {"network": {}})

    def fails(content, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints.torch, "save", fails)
    with pytest.raises(EnvironmentFailedError, match="No space left"):
        write_checkpoint(path, Progressed(2), {"a": 1}, {"network": {}})
    assert read_checkpoint(path, {"a": 1})[0].step == 1


def test_a_checkpoint_runs_no_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, ("true",)

    path = tmp_path / "last.pt"
    torch.save({"version": 1, "deciding": {}, "progressed": Evil()}, path)
    with pytest.raises(WeightsError, match="no readable checkpoint"):
        read_checkpoint(path, {})


class OneWeight:
    """Learns to multiply by 3; its loss can be made to fail."""

    def __init__(self, fail_at=None):
        self.network = torch.nn.Conv3d(1, 1, 1)
        self.fail_at = fail_at
        self.scores = []

    def batch(self, index):
        rng = np.random.default_rng(index)
        return {"image": torch.from_numpy(rng.random((2, 1, 2, 2, 2), np.float32))}

    def loss(self, forward, batch, step):
        error = ((forward(batch["image"]) - 3 * batch["image"]) ** 2).mean()
        return (error * float("nan") if step == self.fail_at else error), {"part": error.detach()}

    def validate(self, network):
        return {"score": self.scores.pop(0)} if self.scores else {}

    def picture(self, network):
        return []

    def save(self, path, network, scores, training):
        torch.save(network.state_dict(), f"{path}.pt")


def trainer_of(tmp_path, objective, **options):
    made = make_train_config({**QUICK, "images": ["-"], "labels": ["-"], **options})
    folder = create_folder(tmp_path / "out", {"status": "running"})
    return Trainer(objective, made, folder, torch.device("cpu"))


def test_it_learns(tmp_path):
    objective = OneWeight()
    options = {"steps": 300, "steps_per_epoch": 50, "learning_rate": 0.1, "weight_decay": 0}
    trainer_of(tmp_path, objective, **options).run()
    assert float(objective.network.weight.detach()) == pytest.approx(3, abs=0.05)
    rows = rows_of(tmp_path / "out")
    assert float(rows[-1]["loss"]) < 1e-3
    assert rows[0]["part"] == rows[0]["loss"]


def test_a_loss_that_is_not_finite_names_step_and_rate(tmp_path):
    trainer = trainer_of(tmp_path, OneWeight(fail_at=4), schedule="constant", warm_up=0)
    with pytest.raises(ConfigError, match=r"loss is nan at step 4, learning rate 0\.001"):
        trainer.run()
    assert trainer.facts()["step"] == 4


def test_early_stopping_keeps_the_best(tmp_path):
    objective = OneWeight()
    objective.scores = [0.1, 0.5, 0.4, 0.5, 0.9]
    trainer = trainer_of(tmp_path, objective, steps=20, early_stopping=2)
    done = trainer.run()
    assert (done.step, done.best, done.best_step) == (8, 0.5, 4)
    assert trainer.facts()["stopped_early"]


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
def test_optimizers_and_averaged_weights(tmp_path, optimizer):
    objective = OneWeight()
    objective.network = torch.nn.Sequential(torch.nn.BatchNorm3d(1), torch.nn.Conv3d(1, 1, 1))
    made = make_train_config(
        {**QUICK, "images": ["-"], "labels": ["-"], "optimizer": optimizer, "ema": 0.5}
    )
    stepper = Stepper(objective, made, torch.device("cpu"), Processes())
    mean = None
    for step in range(5):
        stepper.step(step, objective.batch(step))
        now = objective.network[1].weight.detach().clone()
        decay = min(0.5, (1 + step) / (10 + step))
        mean = now if mean is None else decay * mean + (1 - decay) * now
    assert torch.allclose(stepper.evaluated[1].weight, mean)
    assert int(stepper.evaluated[0].num_batches_tracked) == 5
    assert not torch.equal(stepper.evaluated[1].weight, now)


def test_learning_rates():
    made = make_train_config(
        {**QUICK, "images": ["-"], "labels": ["-"], "steps": 100, "warm_up": 0.1}
    )
    rates = [learning_rate(step, made) for step in range(100)]
    assert rates[:10] == sorted(rates[:10])
    assert rates[10] == made.learning_rate == max(rates)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 0.01 * made.learning_rate
    constant = made.model_copy(update={"schedule": "constant"})
    assert {learning_rate(step, constant) for step in range(10, 100)} == {0.001}
    assert len({step_seed(0, index) for index in range(100)}) == 100


def test_settings_of_torch_are_put_back():
    before = torch.get_rng_state()
    with torch_settings(True, 1):
        assert torch.are_deterministic_algorithms_enabled()
        torch.manual_seed(5)
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.equal(before, torch.get_rng_state())


def test_rows_after_the_checkpoint_are_trained_again(tmp_path):
    path = tmp_path / "metrics.csv"
    table = Table(path)
    table.add({"step": 2, "loss": 0.1})
    table.add({"step": 4, "loss": 0.2, "f1": 0.5})
    Table(path, keep_steps=2)
    with path.open() as file:
        assert list(csv.DictReader(file)) == [{"step": "2", "loss": "0.1"}]


def test_what_is_not_annotated_is_not_scored():
    true = np.array([1, 1, 0, 9, 9, 9, 2, 2, 9])
    pred = np.array([1, 1, 0, 3, 3, 0, 2, 2, 2])
    assert table_of(true, pred, 9) == contingency(
        np.array([1, 1, 0, 2, 2]), np.array([1, 1, 0, 2, 2])
    )
    # mostly outside of what is known: left out where it is known too
    assert table_of(np.array([0, 9, 9, 9]), np.array([5, 5, 5, 0]), 9).sizes_pred()[0].size == 0
    assert table_of(true, pred, None) == contingency(true, pred)


def test_scores_pool_the_cells_of_all_volumes():
    one = np.array([1, 1, 2, 2, 0, 0])
    none = np.zeros(6, int)
    found = scores_of([contingency(one, one), contingency(one, none)], "f1")
    assert found["f1"] == found["score"] == pytest.approx(2 / 3)
    assert found["mean_f1"] == pytest.approx(2 / 3)
    assert found["dice"] == pytest.approx(2 / 3)
    assert (found["cells"], found["cells_true"]) == (2, 4)


def test_a_device_that_is_not_there():
    if not torch.cuda.is_available():
        with pytest.raises(EnvironmentFailedError, match="finds 0 GPUs"):
            device_of("cuda", Processes())
    assert device_of("cpu", Processes()) == torch.device("cpu")


def test_processes_come_from_the_environment(monkeypatch):
    assert Processes.of_environment() == Processes(0, 1, 0)
    for key, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(key, value)
    assert Processes.of_environment() == Processes(1, 2, 1)
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(EnvironmentFailedError, match="no set of processes"):
        Processes.of_environment()


def test_two_processes_train_one_network(data, tmp_path):
    config = config_of(data, steps=4)
    (tmp_path / "c.yaml").write_text(config.to_yaml())
    out = tmp_path / "out"
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    launch += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    launch += ["-m", "cellseg3d_dist", "train", str(out), "--config", str(tmp_path / "c.yaml")]
    done = subprocess.run(launch, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [row["step"] for row in rows_of(out)] == ["2", "4"]
    content = torch.load(TrainFolder(out).checkpoint, weights_only=True)
    assert content["deciding"]["processes"] == 2
    # gradients are the mean over both: the losses are those of two batches, not of one
    alone = train(config, tmp_path / "alone")
    assert rows_of(out)[0]["loss"] != rows_of(alone.folder)[0]["loss"]
    with pytest.raises(OutputError, match="processes was 2 and is 1"):
        resume(out)


def test_starting_from_weights(data, whole, tmp_path):
    options = {k: v for k, v in QUICK.items() if k not in ("architecture", "representation")}
    del options["architecture_options"]
    made = make_train_config({**options, **data, "weights": str(whole.last), "steps": 1})
    assert made.labels
    result = train(made, tmp_path / "tuned")
    assert load_model(result.last).card.training["started_from"] == "last"
    before, after = load_model(whole.last).network, load_model(result.last).network
    pairs = zip(before.parameters(), after.parameters(), strict=True)
    assert max(float((a - b).detach().abs().max()) for a, b in pairs) < 0.01
    other = make_train_config(
        {**options, **data, "weights": str(whole.last)} | {"architecture": "vnet"}
    )
    with pytest.raises(ConfigError, match="architecture 'vnet' is not that of the weights"):
        train(other, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_partly_annotated_volumes(tmp_path):
    import tifffile

    data = write_pairs(tmp_path / "data")
    for path in (tmp_path / "data" / "labels").glob("*.tif"):
        labels = tifffile.imread(path)
        labels[:, 11:] = 65535
        tifffile.imwrite(path, labels)
    result = train(config_of(data, ignore=65535, steps=2), tmp_path / "out")
    assert result.scores["cells_true"] == 2


def test_without_labels(data, tmp_path):
    made = make_train_config(
        {
            **QUICK, "images": data["images"], "architecture": "wnet3d", "patch": [8, 16, 16],
            "architecture_options": {"widths": [4, 4, 4, 4], "dropout": 0.1}, "steps": 4,
            "validation_fraction": 0.5, "pictures": True,
        }
    )  # fmt: skip
    result = train(made, tmp_path / "out")
    assert {"ncut", "reconstruction", "validation_loss"} <= rows_of(result.folder)[0].keys()
    card = load_model(result.best).card
    assert (card.representation, card.training["method"]) == ("foreground", "self-supervised")
