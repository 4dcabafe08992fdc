"""The lazy prediction: the array that prediction in one piece gives, whatever the chunks."""

from __future__ import annotations

import dask
import dask.array as da
import numpy as np
import pytest
import torch
from predicting import RESIDUAL, card_of, network_of
from segmenting import store

import cellseg3d_dist
from cellseg3d_dist import arrays
from cellseg3d_dist.errors import ConfigError, WeightsError
from cellseg3d_dist.networks.predictor import predict_array
from cellseg3d_dist.networks.weights import load_model, save_model

SHAPE = (11, 18, 20)
VOXEL_SIZE = (1.0, 0.6, 1.0)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    card = card_of(RESIDUAL)
    path = tmp_path_factory.mktemp("weights") / "tiny"
    save_model(path, network_of(card), card)
    return path


@pytest.fixture(scope="module")
def model(weights):
    return load_model(weights)


def picture(dtype=np.uint16):
    return (np.random.default_rng(0).normal(300, 90, SHAPE)).clip(0, 999).astype(dtype)


@pytest.mark.parametrize("chunks", [SHAPE, (6, 9, 20), (11, (5, 13), (7, 1, 12))], ids=str)
@pytest.mark.parametrize("dtype", [np.uint16, np.float64])
def test_the_prediction_does_not_depend_on_the_chunks(chunks, dtype, model, weights):
    image = picture(dtype)
    lazy = arrays.predict(
        da.from_array(image, chunks), weights, voxel_size=VOXEL_SIZE, chunks=chunks
    )
    assert lazy.dtype == np.uint8
    assert lazy.shape == (3, *SHAPE)
    assert lazy.chunks[1:] == da.core.normalize_chunks(chunks, SHAPE)
    expected = predict_array(model, image, VOXEL_SIZE)
    assert len(np.unique(expected)) > 50
    np.testing.assert_array_equal(lazy.compute(), expected)


def test_constants_can_be_given_and_threads_share_a_network(model, weights):
    image = picture()
    lazy = cellseg3d_dist.predict(
        da.from_array(image, 8),
        f"{weights}.safetensors",
        voxel_size=(1, 1, 1),
        constants=(100, 800),
    )
    expected = predict_array(model, image, (1, 1, 1), constants=(100, 800))
    np.testing.assert_array_equal(lazy.compute(scheduler="threads", num_workers=3), expected)


def test_a_stored_image_is_read_by_its_tasks(model, weights, tmp_path):
    image = picture()
    path = store(tmp_path / "image.ome.zarr", image, VOXEL_SIZE)
    lazy = arrays.predict(path, weights, chunks=(11, 9, 20))
    np.testing.assert_array_equal(lazy.compute(), predict_array(model, image, VOXEL_SIZE))


def test_what_cannot_be_predicted_is_named(weights):
    lazy = da.zeros((8, 8, 8), chunks=4)
    with pytest.raises(ConfigError, match="voxel_size is unknown"):
        arrays.predict(lazy, weights)
    with pytest.raises(ConfigError, match="constants"):
        arrays.predict(lazy, weights, voxel_size=(1, 1, 1), constants=(5, 5))
    with pytest.raises(WeightsError, match="no model"):
        arrays.predict(lazy, "nothing-of-this-name", voxel_size=(1, 1, 1))
