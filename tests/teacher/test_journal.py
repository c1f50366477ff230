"""The journal's promise: what was appended survives, whatever became of the end of the file."""

from pathlib import Path

import pytest

from magicoder.teacher.journal import Journal

RECORDS = [
    {"index": 3, "answer": {"content": "lines\n \u2028 \x0c \ud800 \x00 end", "deep": [[{}]]}},
    {"index": 1, "refused": "HTTP 400: no"},
    {"index": 2, "answer": {"content": "x" * 5000}},
]


def written(path: Path) -> bytes:
    journal = Journal(path)
    for record in RECORDS:
        journal.append(record)
    journal.close()
    return path.read_bytes()


def reopened(path: Path) -> list[dict]:
    journal = Journal(path)
    records = list(journal.records())
    journal.close()
    return records


def test_records_come_back_as_they_were_in_their_order(tmp_path: Path) -> None:
    written(tmp_path / "journal.jsonl")
    assert reopened(tmp_path / "journal.jsonl") == RECORDS


def test_a_new_journal_has_no_records(tmp_path: Path) -> None:
    assert reopened(tmp_path / "journal.jsonl") == []


@pytest.mark.parametrize("left", [0, 1, 40, 100, -5001, -2, -1])
def test_wherever_the_file_was_cut_whole_records_stay_and_the_next_one_begins_a_line(tmp_path: Path, left: int) -> None:
    path = tmp_path / "journal.jsonl"
    content = written(path)[:left]
    path.write_bytes(content)
    whole = RECORDS[: content.count(b"\n")]
    assert reopened(path) == whole
    journal = Journal(path)
    journal.append(RECORDS[-1])
    assert list(journal.records()) == [*whole, RECORDS[-1]]
    journal.close()


def test_an_appended_record_is_on_disk_before_append_returns(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append(RECORDS[0])
    assert (tmp_path / "journal.jsonl").read_bytes().endswith(b"}\n")
    journal.close()
