"""The journal: one line on disk for each answer as it came, before anything is made of it.

Rows, verdicts and costs are derived from it, so a rerun asks only for what is not in it. A line is appended whole and
synced; if the machine stops in the middle of one, that line is cut off when the journal is opened again. Records:

    {"index", "max_tokens", "attempts", "seconds", "finish_reason", "usage", "answer"}   the server's answer as it came
    {"index", "refused", "code"}     the server will not answer this request, in its own words
    {"index", "no_room"}             the request was not sent: tokens of a prompt without room
    {"index", "sent"}                about to be sent: the most tokens that it may be charged with
    {"index", "not_charged"}         what was sent last has come back undone

`usage` and `sent` are [tokens of the prompt, tokens of the answer]. The last record of an index counts. All but the
answer stand ahead of it, so that a million records are gone through without reading what the teacher wrote.
"""

import json
import os
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy

from magicoder.errors import UserError
from magicoder.files import json_line, read_rows
from magicoder.teacher.requests import Request

BEFORE_ANSWER = b', "answer": '
"""No text of the head can hold it: quotes within one are escaped."""
BLOCK = 1 << 16
REASON_SHOWN = 40

Record = dict[str, Any]


def answered(request: Request, attempts: int, seconds: float, answer: Record) -> Record:
    """The record of an answer; one without usage counts as the most it can have been."""
    head = {"index": request.index, "max_tokens": request.max_tokens, "attempts": attempts, "seconds": seconds}
    reason = answer["choices"][0].get("finish_reason")
    told = reason if isinstance(reason, str) else None  # what is no text might look like the end of the head
    return {**head, "finish_reason": told, "usage": _usage(request, answer), "answer": answer}


def _usage(request: Request, answer: Record) -> list[int]:
    told = answer.get("usage")
    if isinstance(told, dict):
        prompt_tokens, completion_tokens = told.get("prompt_tokens"), told.get("completion_tokens")
        if type(prompt_tokens) is int and type(completion_tokens) is int and min(prompt_tokens, completion_tokens) >= 0:
            return [prompt_tokens, completion_tokens]
    return [request.prompt_tokens, request.max_tokens]


class Journal:
    """An append-only JSON Lines file with records of the rows `indices`. Use it in a `with` block."""

    def __init__(self, path: Path, indices: range) -> None:
        """Open or make the journal at `path` and repair a torn tail.

        Errors: UserError if it holds what is no record, or one of a row that is not among `indices`.
        """
        self._path, self._indices = path, indices
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        self._length = whole_length(self._file)
        self._failed: OSError | None = None
        self._appending = threading.Lock()
        os.ftruncate(self._file, self._length)
        self._places = numpy.full(len(indices), -1, numpy.int64)  # where the settling record of each row begins
        self.totals = Totals()
        self.cut: dict[int, int] = {}
        """Rows whose answer ended at the most tokens that it was allowed, and how many those were."""
        try:
            self._read_heads()
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> "Journal":
        """The journal itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        os.close(self._file)

    @property
    def name(self) -> str:
        """What tells it from the other journals of its run."""
        return self._path.stem

    def __contains__(self, index: int) -> bool:
        """Whether it is known what became of a row."""
        return bool(self._places[self._indices.index(index)] >= 0)

    def __len__(self) -> int:
        """Of how many rows that is known."""
        return int((self._places >= 0).sum())

    def __getitem__(self, index: int) -> Record:
        """The record that settled a row."""
        with open(self._path, "rb") as file:
            file.seek(self._places[self._indices.index(index)])
            return json.loads(file.readline())

    def append(self, *records: Record) -> None:
        """Write records; when this returns they survive a crash.

        Errors: OSError on a full disk, and again at every further call: what lies behind a failure is not to be relied
        on in this process.
        """
        lines = [json_line(record) for record in records]
        with self._appending:
            if self._failed is not None:
                raise self._failed
            try:
                _write_all(self._file, b"".join(lines))
                os.fsync(self._file)
            except OSError as error:
                os.ftruncate(self._file, self._length)
                self._failed = OSError(error.errno, error.strerror, str(self._path))
                raise self._failed from error
            for record, line in zip(records, lines, strict=True):
                self._note(record, self._length)
                self._length += len(line)

    def reopen(self, index: int) -> None:
        """Forget what became of a row: it is to be asked again, and the later record counts."""
        self._places[self._indices.index(index)] = -1

    def records(self) -> Iterator[Record]:
        """Every record, in the order in which it came."""
        yield from read_rows(self._path, may_be_empty=True)

    def _read_heads(self) -> None:
        for place, head in self._heads():
            if head["index"] not in self._indices:
                raise UserError(
                    f"{self._path}: is the journal of another run: row {head['index']} is not among those of this one, "
                    f"{self._indices.start} to {self._indices.stop - 1}"
                )
            self._note(head, place)

    def _heads(self) -> Iterator[tuple[int, Record]]:
        place = 0
        with open(self._path, "rb") as file:
            for line in file:
                yield place, self._head(line, place)
                place += len(line)

    def _head(self, line: bytes, place: int) -> Record:
        head, separator, _ = line.partition(BEFORE_ANSWER)
        try:
            record = json.loads(head + b"}" if separator else line)
            if isinstance(record, dict) and type(record["index"]) is int:
                return record
        except (ValueError, LookupError, RecursionError):
            pass  # told below, as is JSON of another form
        raise UserError(f"{self._path}: is no journal of this program: what begins at byte {place} is no record")

    def _note(self, record: Record, place: int) -> None:
        self.totals.add(record)
        self.cut.pop(record["index"], None)
        if record.get("finish_reason") == "length":
            self.cut[record["index"]] = record["max_tokens"]
        if "sent" not in record and "not_charged" not in record:
            self._places[self._indices.index(record["index"])] = place


class Totals:
    """Tokens that all records of a journal come to."""

    def __init__(self) -> None:
        self.prompt_tokens = self.completion_tokens = self.requests = self.answers = 0
        self.finish_reasons: Counter[str] = Counter()
        self._sent: dict[int, tuple[int, int]] = {}

    def add(self, record: Record) -> None:
        """Count a record.

        What was sent counts as charged in full until it is known what became of it: an answer tells its own charge, and
        a refusal is none. Of what was sent more than once, the earlier ones may have been charged all the same.
        """
        index = record["index"]
        if "sent" in record:
            self._charge(*record["sent"])
            self._sent[index] = tuple(record["sent"])
            return
        if index in self._sent:
            self._charge(*(-tokens for tokens in self._sent.pop(index)))
        if "usage" in record:
            self._charge(*record["usage"])
            self.answers += 1
            self.finish_reasons[str(record.get("finish_reason"))[:REASON_SHOWN]] += 1
        self.requests += record.get("attempts", 0)

    def _charge(self, prompt_tokens: int, completion_tokens: int) -> None:
        self.prompt_tokens += prompt_tokens
        self.completion_tokens += completion_tokens


def _write_all(file: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(file, view) :]


def whole_length(file: int) -> int:
    """Bytes up to the end of the last whole line, found from the end."""
    end = os.fstat(file).st_size
    while end:
        begin = max(0, end - BLOCK)
        newline = os.pread(file, end - begin, begin).rfind(b"\n")
        if newline >= 0:
            return begin + newline + 1
        end = begin
    return 0


def all_totals(journals: Iterable[Journal]) -> tuple[int, int]:
    """Tokens of prompts and of answers that several journals come to."""
    totals = [journal.totals for journal in journals]
    return sum(each.prompt_tokens for each in totals), sum(each.completion_tokens for each in totals)
