"""The journal: whatever is cut off or flipped, what it still says is true."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellseg3d_dist.engine.journal import Journal, read_journal

DECIDES = {"threshold": 12.5, "block_shape": [3, 4, 5], "name": "bé|lk\n"}
RECORDS = {n: {"digest": f"{n:08x}", "open": n * 7, "of": [1, None]} for n in (3, 0, 11)}


def opened(path, decides=DECIDES, stage="label"):
    return Journal(path, stage, decides)


def written(path):
    with opened(path) as journal:
        for block, record in RECORDS.items():
            journal.append(block, record)
    return path.read_bytes()


def lines_of(journal):
    return {line["block"]: {k: v for k, v in line.items() if k != "block"} for line in journal}


def test_what_was_appended_is_read_back(tmp_path):
    path = tmp_path / "journal" / "label.jsonl"
    written(path)
    with opened(path) as journal:
        assert journal.done == set(RECORDS)
        assert not journal.restarted
        assert lines_of(journal.records()) == RECORDS
    header, records = read_journal(path)
    assert header == {"stage": "label", "decides": DECIDES}
    assert lines_of(records) == RECORDS


def test_a_journal_cut_at_any_byte_holds_what_was_whole(tmp_path):
    path = tmp_path / "label.jsonl"
    whole = written(path)
    ends = [i + 1 for i, byte in enumerate(whole) if byte == 10]
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        complete = [end for end in ends if end <= cut]
        expected = dict(list(RECORDS.items())[: max(0, len(complete) - 1)])
        with opened(path) as journal:
            assert journal.done == set(expected), cut
            assert lines_of(journal.records()) == expected
            # the next line is not glued to a cut one
            journal.append(99, {"digest": "x"})
        with opened(path) as journal:
            assert journal.done == {*expected, 99}
            assert lines_of(journal.records()) == expected | {99: {"digest": "x"}}


def test_flipped_bytes_take_away_lines_and_never_change_one(tmp_path):
    path = tmp_path / "label.jsonl"
    whole = written(path)
    header_end = whole.index(b"\n") + 1
    for place in range(len(whole)):
        for bit in (0, 3, 7):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << bit
            path.write_bytes(bytes(damaged))
            with opened(path) as journal:
                found = lines_of(journal.records())
                assert journal.done == set(found)
            assert all(RECORDS[block] == record for block, record in found.items()), (place, bit)
            if place < header_end:
                assert not found
            else:
                assert len(found) >= len(RECORDS) - 2


@pytest.mark.parametrize(
    ("decides", "stage"),
    [(DECIDES | {"threshold": 12.500001}, "label"), ({}, "label"), (DECIDES, "redo")],
)
def test_another_header_starts_anew(tmp_path, decides, stage):
    path = tmp_path / "label.jsonl"
    written(path)
    with opened(path, decides, stage) as journal:
        assert journal.restarted
        assert journal.done == set()
        assert list(journal.records()) == []
    # and the first header does not get its blocks back
    with opened(path) as journal:
        assert journal.done == set()


def test_headers_are_compared_as_they_are_written(tmp_path):
    path = tmp_path / "label.jsonl"
    for _ in range(2):
        with Journal(path, "label", {"sigma": (1.0, 0.1 + 0.2), "n": {1: None}}) as journal:
            assert not journal.restarted
            journal.append(1, {})


def test_blocks_that_are_forgotten_are_gone_and_can_be_done_again(tmp_path):
    path = tmp_path / "label.jsonl"
    written(path)
    with opened(path) as journal:
        journal.forget(set())
        journal.forget({3, 11})
        assert journal.done == {0}
        journal.append(3, {"digest": "new"})
    with opened(path) as journal:
        assert lines_of(journal.records()) == {0: RECORDS[0], 3: {"digest": "new"}}


def test_a_line_is_on_disk_as_soon_as_it_is_appended(tmp_path):
    path = tmp_path / "label.jsonl"
    journal = opened(path)
    for block, record in RECORDS.items():
        journal.append(block, record)
        assert block in lines_of(read_journal(path)[1])
    journal.close()


def test_a_rewriting_that_was_killed_leaves_the_old_journal(tmp_path):
    path = tmp_path / "label.jsonl"
    whole = written(path)
    (tmp_path / "label.jsonl.partial").write_bytes(whole[:20])
    with opened(path) as journal:
        assert journal.done == set(RECORDS)
    assert path.read_bytes() == whole


def test_no_journal_is_no_header_and_no_records(tmp_path):
    assert read_journal(tmp_path / "none.jsonl") == (None, [])


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.integers(0, 50), st.dictionaries(st.text(), values, max_size=3)))
@settings(max_examples=60, deadline=None)
def test_any_json_survives(tmp_path_factory, records):
    path = tmp_path_factory.mktemp("journal") / "label.jsonl"
    records = {n: {k: v for k, v in r.items() if k != "block"} for n, r in records.items()}
    with opened(path) as journal:
        for block, record in records.items():
            journal.append(block, record)
    with opened(path) as journal:
        assert lines_of(journal.records()) == records
