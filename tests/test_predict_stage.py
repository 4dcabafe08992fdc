"""The predict stage: the same bytes for every cut and every executor."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import tifffile
from predicting import RESIDUAL, card_of, network_of
from segmenting import store

from cellseg3d_dist.engine.executors import DaskExecutor, SerialExecutor
from cellseg3d_dist.engine.folder import RunFolder
from cellseg3d_dist.engine.inputs import ImageInput
from cellseg3d_dist.engine.network import Network
from cellseg3d_dist.engine.progress import NoProgress
from cellseg3d_dist.engine.runner import Runner
from cellseg3d_dist.engine.stages.predict import Predict
from cellseg3d_dist.grid import Region, Selection
from cellseg3d_dist.networks.predictor import predict_array
from cellseg3d_dist.networks.weights import load_model, save_model
from cellseg3d_dist.volumes import create_image, open_volume

CONSTANTS = (150.0, 700.0)
#: Micrometres, of the network too along x: resampling along z and y.
VOXEL_SIZE = (1.0, 0.7, 1.0)
SIDE = 40
BLOCK_SHAPES = [(40, 40, 40), (20, 20, 20), (17, 40, 23), (40, 11, 32), (13, 24, 19)]


@pytest.fixture(scope="module")
def image(shared_data):
    path = shared_data / "mouse_brain_mesospim" / "test_very_small.tif"
    return tifffile.imread(path)[:SIDE, :SIDE, :SIDE]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    # few voxels along each axis: what is tested is the cut, not the network
    card = card_of(RESIDUAL, patch=(16, 16, 16), halo=(4, 4, 4), voxel_size=(1.3, 1.0, 1.0))
    path = tmp_path_factory.mktemp("weights") / "tiny"
    save_model(path, network_of(card), card)
    return path


@pytest.fixture(scope="module")
def stored_image(image, tmp_path_factory):
    return store(tmp_path_factory.mktemp("image") / "image.ome.zarr", image, VOXEL_SIZE)


@pytest.fixture(scope="module")
def expected(image, weights):
    import torch

    torch.set_num_threads(1)
    found = predict_array(load_model(weights), image, VOXEL_SIZE, constants=CONSTANTS)
    # there is something to compare
    assert min(len(np.unique(channel)) for channel in found) > 20
    return found


def predicted(stored_image, weights, folder, executor, block_shape):
    volume = open_volume(stored_image)
    prediction = create_image(
        folder / "prediction.ome.zarr",
        shape=volume.shape,
        dtype=np.uint8,
        block_shape=block_shape,
        voxel_size=volume.voxel_size,
        n_levels=1,
        kind="image",
        channels=load_model(weights).representation.channels,
    )
    file = weights.with_suffix(".safetensors")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    network = Network(str(file), digest, "cpu", batch=1, threads=1, flips=False)
    run = RunFolder(folder / "run")
    run.work.mkdir(parents=True)
    run.write_status({"status": "running"})
    stage = Predict(
        ImageInput(volume), prediction.levels[0], run.work, network, CONSTANTS, (0, 0, 0)
    )
    grid = prediction.levels[0].grid
    records = list(Runner(run, executor, NoProgress(), {}).run(stage, Selection.all(grid)))
    assert len(records) == grid.n_blocks
    assert all(stage.verify(grid.block(r["block"]), r) for r in records)
    n_channels = len(load_model(weights).representation.channels)
    channels = (
        open_volume(folder / "prediction.ome.zarr", channel=c).read(Region.whole(volume.shape))
        for c in range(n_channels)
    )
    return np.stack(list(channels))


@pytest.mark.parametrize("block_shape", BLOCK_SHAPES, ids=str)
def test_every_cut_gives_the_bytes_of_the_whole(
    block_shape, stored_image, weights, expected, tmp_path
):
    found = predicted(stored_image, weights, tmp_path, SerialExecutor(shuffle=3), block_shape)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_give_the_bytes_of_the_whole(
    workers, client_of, stored_image, weights, expected, tmp_path
):
    executor = DaskExecutor(client_of(workers))
    found = predicted(stored_image, weights, tmp_path, executor, (20, 24, 40))
    np.testing.assert_array_equal(found, expected)
