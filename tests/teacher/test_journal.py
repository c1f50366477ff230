"""The journal's promise: appended records survive any damage to the end of the file."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from magicoder.runtime.errors import UserError
from magicoder.teacher.journal import BLOCK_BYTES, Journal, make_answered
from magicoder.teacher.records import (
    Answered,
    NotCharged,
    Note,
    PromptTooLong,
    Record,
    Refused,
    Sent,
    Usage,
    decode_record,
)
from magicoder.teacher.requests import Request
from tests.chat_server import completion
from tests.support import PROJECT

RECORDS: list[Record] = [
    Answered(3, 9, 1, 0.5, "stop", Usage(1, 2), {"content": "lines\n \u2028 \x0c \ud800 \x00 end", "deep": [[{}]]}),
    Refused(1, "HTTP 400: no", None),
    Answered(2, 9, 1, 0.5, "stop", Usage(1, 2), {"content": "x" * 5000}),
]
INDICES = range(1, 5)


def written(path: Path) -> bytes:
    with Journal(path, INDICES) as journal:
        for record in RECORDS:
            journal.append(record)
    return path.read_bytes()


def on_disk(path: Path) -> list[Record | Note]:
    return [decode_record(line) for line in path.read_bytes().splitlines()]


def reopened(path: Path) -> list[Record | Note]:
    with Journal(path, INDICES):
        return on_disk(path)


def test_records_come_back_as_they_were_in_their_order(tmp_path: Path) -> None:
    written(tmp_path / "journal.jsonl")
    assert reopened(tmp_path / "journal.jsonl") == RECORDS


def test_a_new_journal_has_no_records(tmp_path: Path) -> None:
    assert reopened(tmp_path / "journal.jsonl") == []


@pytest.mark.parametrize("left", [0, 1, 40, 100, -5001, -2, -1])
def test_cut_anywhere_whole_records_stay_and_the_next_is_intact(tmp_path: Path, left: int) -> None:
    path = tmp_path / "journal.jsonl"
    content = written(path)[:left]
    path.write_bytes(content)
    whole = RECORDS[: content.count(b"\n")]
    assert reopened(path) == whole
    with Journal(path, INDICES) as journal:
        journal.append(RECORDS[-1])
        assert on_disk(path) == [*whole, RECORDS[-1]]


@pytest.mark.parametrize("torn", [BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES])
def test_long_torn_tail_leaves_the_whole_records(tmp_path: Path, torn: int) -> None:
    """The line end may lie at either side of a block's first byte."""
    path = tmp_path / "journal.jsonl"
    whole = written(path)
    path.write_bytes(whole + b"x" * torn)
    with Journal(path, INDICES) as journal:
        assert len(journal) == 3
    assert path.read_bytes() == whole


def test_an_appended_record_is_on_disk_before_append_returns(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.jsonl", INDICES) as journal:
        journal.append(RECORDS[0])
        assert (tmp_path / "journal.jsonl").read_bytes().endswith(b"}\n")


# In a process of its own, for a limit holds for all of one. Only the soft limit is set: it can be lifted again.
FULL_DISK_FOR_A_WHILE = """
import pathlib, resource, signal, sys
from magicoder.teacher.journal import Journal
from magicoder.teacher.records import Refused

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
limits = resource.getrlimit(resource.RLIMIT_FSIZE)
with Journal(pathlib.Path(sys.argv[1]), range(4)) as journal:
    journal.append(Refused(0, "kept", None))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    failures = []
    for index in (1, 2, 3):
        if index == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        try:
            journal.append(Refused(index, "x" * (3 if index == 3 else 5000), None))
        except OSError as error:
            failures.append(f"{error.strerror}: {error.filename}")
print("\\n".join(failures))
"""


def test_full_disk_stops_appending_and_leaves_no_torn_line(tmp_path: Path) -> None:
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
    assert path.read_bytes() == b'{"index": 0, "refused": "kept", "code": null}\n'
    with Journal(path, range(4)) as journal:
        journal.append(PromptTooLong(1, 9))
        assert on_disk(path) == [Refused(0, "kept", None), PromptTooLong(1, 9)]


# --- what is read off the heads --------------------------------------------------------------------------------------

REQUEST = Request(2, {"messages": [], "max_tokens": 50}, prompt_tokens=10, max_tokens=50)


def answer_record(**changes: Any) -> Answered:
    body: dict[str, Any] = {"model": "m", "messages": [], "seed": 2}
    return make_answered(REQUEST, 1, 0.5, completion(body, **changes))


def totals(path: Path) -> Usage:
    with Journal(path, INDICES) as journal:
        return journal.totals.sum_live()


def test_reopened_journal_knows_every_row_and_its_cost(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path, INDICES) as journal:
        journal.append(answer_record(), Refused(1, "no", None), Sent(3, Usage(10, 50)))
        assert (2 in journal, 1 in journal, 3 in journal, 4 in journal) == (True, True, False, False)
    with Journal(path, INDICES) as journal:
        assert (2 in journal, 1 in journal, 3 in journal, 4 in journal) == (True, True, False, False)
        assert journal[2] == answer_record()
        assert journal[1] == Refused(1, "no", None)
        assert len(journal) == 2
    assert totals(path) == Usage(7 + 10, 5 + 50), "what was sent and never answered may have been charged"


@pytest.mark.parametrize(
    ("records", "charged"),
    [
        ([{"sent": [10, 50]}], (10, 50)),
        ([{"sent": [10, 50]}, {"not_charged": True}], (0, 0)),
        ([{"sent": [10, 50]}, {"not_charged": True}, {"refused": "no", "code": None}], (0, 0)),
        ([{"sent": [10, 50]}, {"unanswered": "reset", "attempts": 1}], (10, 50)),
        ([{"sent": [10, 50]}, {"sent": [10, 50]}], (20, 100)),
        ([{"sent": [10, 50]}, {"sent": [10, 50]}, {"usage": [7, 5], "noted": True, "answer": {}}], (17, 55)),
        ([{"sent": [10, 50]}, {"sent": [10, 50]}, {"usage": [20, 50], "noted": True, "answer": {}}], (40, 150)),
        ([{"sent": [10, 50]}, {"usage": [7, 5], "answer": {}}], (17, 55)),
        (
            [{"sent": [10, 50]}, {"usage": [7, 5], "noted": True, "answer": {}}, {"usage": [7, 9], "answer": {}}],
            (14, 14),
        ),
    ],
    ids=[
        "lost",
        "turned away",
        "refused",
        "given up",
        "lost twice",
        "lost, then answered",
        "lost, then answered by a server that counts twice our tokens",
        "lost, then answered by a run that knows no price",
        "answered, then asked again",
    ],
)
def test_row_is_billed_for_its_answers_and_its_lost_requests(
    tmp_path: Path, records: list[dict], charged: tuple[int, int]
) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path, INDICES) as journal:
        for record in records:
            journal.append(decode_record(json.dumps({"index": 1, **record}).encode()))
        assert journal.totals.sum_live() == Usage(*charged)
    assert totals(path) == Usage(*charged)


@pytest.mark.parametrize(
    "usage",
    [
        *(None, "seven", {}, {"prompt_tokens": 7}, {"prompt_tokens": -1, "completion_tokens": 5}),
        {"prompt_tokens": 7, "completion_tokens": 10**400},
    ],
)
def test_answer_without_usage_counts_as_its_maximum(usage: Any) -> None:
    assert answer_record(usage=usage).usage == Usage(10, 50)


@pytest.mark.parametrize("reason", [["stop"], {"x": 1, "answer": {"y": 2}}, 5, ', "answer": {', '", "answer": {'])
def test_any_finish_reason_of_a_server_can_be_reopened(tmp_path: Path, reason: Any) -> None:
    path = tmp_path / "journal.jsonl"
    record = answer_record(finish_reason=reason)
    with Journal(path, INDICES) as journal:
        journal.append(record)
    with Journal(path, INDICES) as journal:
        assert journal[2] == record


def test_a_journal_of_other_rows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    written(path)
    with pytest.raises(UserError, match=r"journal.jsonl: belongs to another run: row 3 is outside its rows 7 to 8"):
        Journal(path, range(7, 9))


@pytest.mark.parametrize(
    "line",
    [
        *(
            b"no JSON\n",
            b"[1]\n",
            b'{"index": "3"}\n',
            b'{"answer": {}}\n',
            b'{"index": true, "refused": "no"}\n',
            b'{"index": 1}\n',
        ),
        *(b'{"index": 1, "sent": 5}\n', b'{"index": 1, "usage": null, "answer": {}}\n'),
    ],
)
def test_a_file_that_is_no_journal_is_refused_with_the_place(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"index": 1, "refused": "no", "code": null}\n' + line)
    with pytest.raises(UserError, match="not a journal: invalid record at byte 44"):
        Journal(path, INDICES)


def test_truncated_answers_are_known_with_their_limit(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path, INDICES) as journal:
        journal.append(answer_record(finish_reason="length"))
        assert journal.cut == {2: 50}
    with Journal(path, INDICES) as journal:
        assert journal.cut == {2: 50}
        journal.reopen(2)
        assert 2 not in journal
        journal.append(Sent(2, Usage(10, 60)), NotCharged(2))
        assert journal.cut == {2: 50}, "until there is another answer"
        journal.append(answer_record())
        assert journal.cut == {}
