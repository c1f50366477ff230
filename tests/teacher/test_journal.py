"""The journal's promise: what was appended survives, whatever became of the end of the file."""

import subprocess
import sys
from pathlib import Path

import pytest

from magicoder.teacher.journal import Journal
from tests.conftest import PROJECT

RECORDS = [
    {"index": 3, "answer": {"content": "lines\n \u2028 \x0c \ud800 \x00 end", "deep": [[{}]]}},
    {"index": 1, "refused": "HTTP 400: no"},
    {"index": 2, "answer": {"content": "x" * 5000}},
]


def written(path: Path) -> bytes:
    with Journal(path) as journal:
        for record in RECORDS:
            journal.append(record)
    return path.read_bytes()


def reopened(path: Path) -> list[dict]:
    with Journal(path) as journal:
        return list(journal.records())


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
    with Journal(path) as journal:
        journal.append(RECORDS[-1])
        assert list(journal.records()) == [*whole, RECORDS[-1]]


def test_an_appended_record_is_on_disk_before_append_returns(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.jsonl") as journal:
        journal.append(RECORDS[0])
        assert (tmp_path / "journal.jsonl").read_bytes().endswith(b"}\n")


# In a process of its own, for a limit holds for all of one. Only the soft limit is set: it can be lifted again.
FULL_DISK_FOR_A_WHILE = """
import pathlib, resource, signal, sys
from magicoder.teacher.journal import Journal

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
limits = resource.getrlimit(resource.RLIMIT_FSIZE)
with Journal(pathlib.Path(sys.argv[1])) as journal:
    journal.append({"index": 0, "text": "kept"})
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    failures = []
    for index in (1, 2, 3):
        if index == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        try:
            journal.append({"index": index, "text": "x" * (3 if index == 3 else 5000)})
        except OSError as error:
            failures.append(f"{error.strerror}: {error.filename}")
print("\\n".join(failures))
"""


def test_after_a_full_disk_nothing_more_is_appended_and_no_torn_line_is_left(tmp_path: Path) -> None:
    # A piece of a line, once another line is behind it, would lock every answer that was paid for.
    path = tmp_path / "journal.jsonl"
    ended = subprocess.run(
        [sys.executable, "-c", FULL_DISK_FOR_A_WHILE, str(path)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == [f"File too large: {path}"] * 3
    assert path.read_bytes() == b'{"index": 0, "text": "kept"}\n'
    with Journal(path) as journal:
        journal.append({"index": 1})
        assert list(journal.records()) == [{"index": 0, "text": "kept"}, {"index": 1}]
