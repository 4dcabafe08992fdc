"""Records of small arrays: whole, checked, and never quietly wrong."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cellseg3d_dist.engine.records import (
    digest,
    read_record,
    record_digest,
    record_path,
    write_record,
)
from cellseg3d_dist.errors import EnvironmentFailedError
from cellseg3d_dist.grid import BlockGrid

arrays = hnp.arrays(
    st.sampled_from(["u1", "u2", "u4", "u8", "i4", "i8", "f4", "f8", "?"]),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=9),
)


@given(st.dictionaries(st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True), arrays, max_size=4))
@settings(max_examples=50, deadline=None)
def test_arrays_come_back_as_they_were(tmp_path_factory, given_arrays):
    path = tmp_path_factory.mktemp("records") / "a" / "0.0.rec"
    crc = write_record(path, **given_arrays)
    found = read_record(path)
    assert list(found) == list(given_arrays)
    for name, array in given_arrays.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        np.testing.assert_array_equal(found[name], array)
    assert record_digest(path) == crc
    assert write_record(path, **given_arrays) == crc


def test_arrays_larger_than_what_is_compressed_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr("cellseg3d_dist.engine.records._FRAME_BYTES", 100)
    rng = np.random.default_rng(0)
    given_arrays = {"a": rng.integers(0, 9, (7, 8, 9)), "b": np.arange(25, dtype=np.uint8)}
    path = tmp_path / "0.0.rec"
    write_record(path, **given_arrays)
    for name, array in read_record(path).items():
        assert array.dtype == given_arrays[name].dtype
        np.testing.assert_array_equal(array, given_arrays[name])


def example(path):
    rng = np.random.default_rng(0)
    return write_record(
        path, names=np.arange(5, dtype=np.uint64), sizes=rng.integers(0, 9, 5), none=np.empty(0)
    )


def test_every_flipped_byte_is_found(tmp_path):
    path = tmp_path / "0.0.rec"
    crc = example(path)
    whole = path.read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        path.write_bytes(bytes(damaged))
        assert record_digest(path) != crc
        with pytest.raises(EnvironmentFailedError, match=r"0\.0\.rec is damaged.*Resume"):
            read_record(path)


def test_every_cut_is_found(tmp_path):
    path = tmp_path / "0.0.rec"
    example(path)
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        assert record_digest(path) is None
        with pytest.raises(EnvironmentFailedError, match="is damaged"):
            read_record(path)


def test_a_missing_record_is_named(tmp_path):
    path = tmp_path / "7.3.rec"
    assert record_digest(path) is None
    with pytest.raises(EnvironmentFailedError, match=r"7\.3\.rec is missing"):
        read_record(path)


def test_another_record_in_its_place_has_another_digest(tmp_path):
    path = tmp_path / "0.0.rec"
    crc = example(path)
    assert write_record(path, names=np.arange(6, dtype=np.uint64)) != crc
    assert record_digest(path) != crc


def test_writing_replaces_whole_files_and_leaves_no_other(tmp_path):
    path = tmp_path / "0.0.rec"
    example(path)
    write_record(path, names=np.zeros(3))
    assert [p.name for p in tmp_path.iterdir()] == ["0.0.rec"]
    assert list(read_record(path)) == ["names"]


def test_a_digest_tells_values_types_and_shapes_apart():
    base = np.arange(6, dtype=np.int32)
    others = [base[::-1], base.astype(np.int64), base.reshape(2, 3), base.view(np.uint32), base[:5]]
    assert len({digest(a) for a in (base, *others)}) == 6
    assert digest(base) == digest(base.copy())
    assert digest(base, base) != digest(base)
    strided = np.arange(12, dtype=np.int32).reshape(3, 4)[:, ::2]
    assert digest(strided) == digest(np.ascontiguousarray(strided))
    assert digest(np.empty((0, 3))) != digest(np.empty((3, 0)))


def test_blocks_have_files_of_their_own(tmp_path):
    grid = BlockGrid((30, 40, 500), (3, 4, 5))
    paths = {record_path(tmp_path, block) for block in grid.blocks()}
    assert len(paths) == grid.n_blocks
