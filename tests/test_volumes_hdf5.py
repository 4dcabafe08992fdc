"""HDF5: datasets by name, regions, what is refused."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from cellseg3d_dist.errors import ConfigError, EnvironmentFailedError, VolumeError
from cellseg3d_dist.grid import Region
from cellseg3d_dist.volumes import hdf5, open_volume

ONE = (1.0, 1.0, 1.0)


@pytest.fixture(name="h5py")
def _h5py():
    return pytest.importorskip("h5py")


def numbers(shape=(6, 10, 12), dtype=np.uint16):
    return np.random.default_rng(0).integers(0, 200, shape).astype(dtype)


def written(h5py, path, **datasets):
    with h5py.File(path, "w") as file:
        for name, array in datasets.items():
            file.create_dataset(name.replace("__", "/"), data=array)
    return path


@pytest.mark.parametrize("options", [{}, {"chunks": (2, 5, 7), "compression": "gzip"}])
@pytest.mark.parametrize("dtype", ["u1", ">u2", "f8", "?"])
def test_regions(h5py, tmp_path, options, dtype):
    array = numbers(dtype=dtype)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("main", data=array, **options)
    volume = open_volume(tmp_path / "a.h5", voxel_size=ONE)
    assert volume.shape == array.shape
    assert volume.kind == "hdf5"
    region = Region((1, 2, 3), (5, 10, 11))
    # workers are sent the volume and open the file themselves
    part = pickle.loads(pickle.dumps(volume)).read(region)
    assert part.dtype == volume.dtype
    np.testing.assert_array_equal(part, array[region.slices].astype(volume.dtype))


def test_a_dataset_by_its_name(h5py, tmp_path):
    a, b = numbers(), numbers((3, 4, 5))
    path = written(h5py, tmp_path / "a.hdf5", volumes__raw=a, volumes__seg=b, table=np.zeros(3))
    assert open_volume(path / "volumes" / "seg", voxel_size=ONE).shape == b.shape
    with pytest.raises(VolumeError, match=r"2 datasets: volumes/raw, volumes/seg\. Give one"):
        open_volume(path, voxel_size=ONE)
    with pytest.raises(VolumeError, match="no dataset 'volumes/no'; it has volumes/raw, vol"):
        open_volume(path / "volumes" / "no", voxel_size=ONE)
    with pytest.raises(VolumeError, match="no dataset 'volumes'"):
        open_volume(path / "volumes", voxel_size=ONE)
    with pytest.raises(VolumeError, match="1 dimensions"):
        open_volume(path / "table", voxel_size=ONE)


def test_channels_and_times(h5py, tmp_path):
    array = numbers((2, 3, 4, 5, 6))
    path = written(h5py, tmp_path / "a.h5", main=array)
    volume = open_volume(path, voxel_size=ONE, time=1, channel=2)
    np.testing.assert_array_equal(volume.read(Region.whole(volume.shape)), array[1, 2])
    with pytest.raises(ConfigError, match="2 time points"):
        open_volume(path, voxel_size=ONE)


def test_voxel_size_is_stated_or_given(h5py, tmp_path):
    path = written(h5py, tmp_path / "a.h5", main=numbers())
    with pytest.raises(VolumeError, match="Give voxel_size"):
        open_volume(path)
    with h5py.File(path, "a") as file:
        file["main"].attrs["element_size_um"] = (2.0, 0.5, 0.4)
    assert open_volume(path).voxel_size == (2.0, 0.5, 0.4)
    assert open_volume(path, voxel_size=ONE).voxel_size == ONE
    with h5py.File(path, "a") as file:
        file["main"].attrs["element_size_um"] = (2.0, 0.0, np.nan)
    with pytest.raises(VolumeError, match="Give voxel_size"):
        open_volume(path)


def test_what_is_refused(h5py, tmp_path):
    (tmp_path / "a.h5").write_bytes(b"no")
    with pytest.raises(VolumeError, match="no HDF5 file"):
        open_volume(tmp_path / "a.h5", voxel_size=ONE)
    path = written(h5py, tmp_path / "b.h5", main=numbers())
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(VolumeError, match="cannot be opened as HDF5"):
        open_volume(path, voxel_size=ONE)
    path = written(h5py, tmp_path / "c.h5", main=numbers(dtype="c8"))
    with pytest.raises(VolumeError, match="data type complex64"):
        open_volume(path, voxel_size=ONE)
    with pytest.raises(VolumeError, match="no level 1"):
        open_volume(path, voxel_size=ONE, level=1)
    with pytest.raises(VolumeError, match="holds no dataset"):
        open_volume(written(h5py, tmp_path / "d.h5", main=np.zeros(3)), voxel_size=ONE)
    with pytest.raises(VolumeError, match="does not exist"):
        open_volume(tmp_path / "e.h5", voxel_size=ONE)


def test_fingerprint_follows_the_file(h5py, tmp_path):
    path = written(h5py, tmp_path / "a.h5", main=numbers())
    before = open_volume(path, voxel_size=ONE).fingerprint()
    assert open_volume(path, voxel_size=ONE).fingerprint() == before
    written(h5py, path, main=numbers() + 1)
    assert open_volume(path, voxel_size=ONE).fingerprint() != before


def test_without_h5py_the_line_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    (tmp_path / "a.h5").write_bytes(hdf5._MAGIC)
    with pytest.raises(EnvironmentFailedError, match="needs h5py"):
        open_volume(tmp_path / "a.h5", voxel_size=ONE)
