"""The journal: one line on disk for each answer as received, before anything is made of it.

Rows, verdicts and costs are derived from it, so a rerun asks only for what it lacks. A record is appended whole and
synced; if the machine stops in the middle of a line, that line is cut off when the journal is opened again.
`records.py` describes the lines.
"""

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy

from magicoder.runtime.errors import UserError
from magicoder.teacher.budget import Totals
from magicoder.teacher.completions import classify_end, read_choice
from magicoder.teacher.errors import CODES_ABOUT_LENGTH
from magicoder.teacher.records import (
    Answered,
    NotCharged,
    Note,
    PromptTooLong,
    Record,
    Refused,
    Sent,
    Unanswered,
    Usage,
    decode_head,
    decode_record,
    encode_record,
)
from magicoder.teacher.requests import Request

BLOCK_BYTES = 1 << 16
MAX_PLAUSIBLE_TOKENS = 10**9
"""No model reads or writes so many tokens; a server that reports them reports nonsense."""


def make_answered(
    request: Request,
    attempts: int,
    seconds: float,
    answer: dict[str, Any],
    *,
    noted: bool = False,
    by_batch: bool = False,
) -> Answered:
    """Build the record of an answer. One without usage counts as the maximum that it can have used.

    noted: the journal holds that this very request was sent.
    """
    reason = read_choice(answer).get("finish_reason")
    # A finish_reason that is not text could contain the separator between head and answer.
    finish_reason = reason if isinstance(reason, str) else None
    usage = read_usage(answer) or request.max_usage
    return Answered(request.index, request.max_tokens, attempts, seconds, finish_reason, usage, answer, noted, by_batch)


def read_usage(answer: dict[str, Any]) -> Usage | None:
    """Return the tokens that the server counted; None if it reports none or nonsense."""
    reported = answer.get("usage")
    if isinstance(reported, dict):
        prompt, completion = reported.get("prompt_tokens"), reported.get("completion_tokens")
        if type(prompt) is int and type(completion) is int and max(prompt, completion) < MAX_PLAUSIBLE_TOKENS:
            return Usage(prompt, completion) if min(prompt, completion) >= 0 else None
    return None


class Journal:
    """An append-only JSON Lines file with records of the rows `indices`. Use it in a `with` block.

    Example:
        with Journal(Path("journal.jsonl"), range(100)) as journal:
            journal.append(PromptTooLong(index=7, prompt_tokens=9000))
            assert 7 in journal and journal[7].prompt_tokens == 9000
    """

    def __init__(self, path: Path, indices: range) -> None:
        """Open or create the journal at `path` and repair a torn tail.

        Errors: UserError if it holds a line that is not a record, or a record of a row outside `indices`.
        """
        self._path, self._indices = path, indices
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        self._length = find_whole_length(self._file)
        self._failure: OSError | None = None
        self._appending = threading.Lock()
        # A torn line was never confirmed to anybody, so its row is simply open.
        os.ftruncate(self._file, self._length)
        # Eight bytes a row instead of a record: a million answers do not fit into a laptop's memory.
        self._offsets = numpy.full(len(indices), -1, numpy.int64)
        self.totals = Totals()
        self.cut: dict[int, int] = {}
        """Rows whose answer ended at its token limit, with that limit."""
        self.too_long: dict[int, int] = {}
        """Rows that the server refused as longer than its context, with the limit of the answer that was asked for."""
        self.no_room: set[int] = set()
        """Rows whose prompt left no room for an answer."""
        self.left: set[int] = set()
        """Rows that were left without an answer at some time; some may be settled since."""
        try:
            self._read_heads()
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> "Journal":
        """Return the journal itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        os.close(self._file)

    @property
    def name(self) -> str:
        """The name that distinguishes it from the other journals of its run."""
        return self._path.stem

    def __contains__(self, index: int) -> bool:
        """Return whether a row is settled."""
        return bool(self._offsets[self._indices.index(index)] >= 0)

    def __len__(self) -> int:
        """Return the number of settled rows."""
        return int((self._offsets >= 0).sum())

    def __getitem__(self, index: int) -> Record:
        """Read the record that settled a row."""
        with open(self._path, "rb") as file:
            file.seek(self._offsets[self._indices.index(index)])
            record = decode_record(file.readline())
        assert not isinstance(record, Note), "a note settles no row"
        return record

    def append(self, *records: Record | Note) -> None:
        """Write records; when this returns they survive a crash.

        Errors: OSError on a full disk, and again at every later call: after a failed fsync the system may have dropped
        pages that later calls would report as written.
        """
        # Encoded outside the lock: a long answer must not delay the fsync of others.
        lines = [encode_record(record) for record in records]
        with self._appending:
            if self._failure is not None:
                raise self._failure
            try:
                _write_all(self._file, b"".join(lines))
                os.fsync(self._file)
            except OSError as error:
                self._failure = OSError(error.errno, error.strerror, str(self._path))
                os.ftruncate(self._file, self._length)  # frees the bytes of the torn line on a full disk
                raise self._failure from error
            for record, line in zip(records, lines, strict=True):
                self._index_record(record, self._length)
                self._length += len(line)

    def reopen(self, index: int) -> None:
        """Forget the record of a row: it is asked again, and the later record counts."""
        self._offsets[self._indices.index(index)] = -1

    def list_settled(self, at_most: int) -> list[int]:
        """Return the first settled rows."""
        return [self._indices[place] for place in numpy.flatnonzero(self._offsets >= 0)[:at_most].tolist()]

    def list_reopenable(self) -> set[int]:
        """Return the rows that other limits of tokens may cure."""
        return self.no_room | self.cut.keys() | self.too_long.keys()

    def reopen_if_cured(self, request: Request) -> None:
        """Forget the record of a row if its request now has more room for an answer that was cut off, or asks for less
        where that was too much."""
        index, limit = request.index, request.max_tokens
        if index in self.no_room or limit > self.cut.get(index, limit) or limit < self.too_long.get(index, limit):
            self.reopen(index)

    def _read_heads(self) -> None:
        for offset, record in iterate_heads(self._path):
            if record.index not in self._indices:
                raise UserError(
                    f"{self._path}: belongs to another run: row {record.index} is outside its rows "
                    f"{self._indices.start} to {self._indices.stop - 1}"
                )
            self._index_record(record, offset)

    def _index_record(self, record: Record | Note, offset: int) -> None:
        """Count a record and remember its place in the file."""
        self.totals.add(record)
        # `match`, because a union in isinstance is built anew for each of a million records.
        match record:
            case Sent() | NotCharged():
                return
            case Refused(left=True) | Unanswered(left=True):
                self.left.add(record.index)
                return
        # The last record counts, so a row that is asked again needs no change to what is written.
        self._offsets[self._indices.index(record.index)] = offset
        self.cut.pop(record.index, None)
        self.too_long.pop(record.index, None)
        self.no_room.discard(record.index)
        if isinstance(record, Answered) and classify_end(record.finish_reason) == "length":
            self.cut[record.index] = record.max_tokens
        elif isinstance(record, Refused) and record.code in CODES_ABOUT_LENGTH and record.max_tokens is not None:
            self.too_long[record.index] = record.max_tokens
        elif isinstance(record, PromptTooLong):
            self.no_room.add(record.index)


def has_billable_records(path: Path) -> bool:
    """Return whether the journal at `path` holds an answer, or a request that was sent and may be billed.

    Errors: UserError if the file is not a journal.
    """
    sent: set[int] = set()
    for _, record in iterate_heads(path):
        if isinstance(record, Answered):
            return True
        if isinstance(record, Sent):
            sent.add(record.index)
        elif isinstance(record, NotCharged):
            sent.discard(record.index)
    return bool(sent)


def iterate_heads(path: Path) -> Iterator[tuple[int, Record | Note]]:
    """Yield each record without its answer, and its offset in bytes. Errors: UserError naming an invalid record.

    A torn last line is skipped.
    """
    offset = 0
    with open(path, "rb") as file:
        for line in file:
            try:
                yield offset, decode_head(line)
            except ValueError as error:
                if not line.endswith(b"\n"):
                    return
                raise UserError(f"{path}: not a journal: invalid record at byte {offset}") from error
            offset += len(line)


def _write_all(file: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(file, view) :]


def find_whole_length(file: int) -> int:
    """Return the number of bytes up to the end of the last whole line, searching from the end of the file."""
    end = os.fstat(file).st_size
    while end:
        begin = max(0, end - BLOCK_BYTES)
        newline = os.pread(file, end - begin, begin).rfind(b"\n")
        if newline >= 0:
            return begin + newline + 1
        end = begin
    return 0
