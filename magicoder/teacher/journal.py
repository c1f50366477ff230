"""The journal: one line on disk for each answer as it came, before anything is made of it.

Rows, verdicts and costs are derived from it, so a rerun asks only for what is not in it. A line is appended whole and
synced; if the machine stops in the middle of one, that line is cut off when the journal is opened again. Records:

    {"index", "max_tokens", "attempts", "seconds", "finish_reason", "usage", "answer"}   the server's answer as it came
    {"index", "refused", "code"}     the server will not answer this request, in its own words
    {"index", "unanswered", "attempts"}   the row was given up after so many attempts, the last of which ended so
    {"index", "no_room"}             the request was not sent: tokens of a prompt without room
    {"index", "sent"}                about to be sent: the most tokens that it may be charged with
    {"index", "not_charged"}         what was sent last has come back undone

`usage` and `sent` are [tokens of the prompt, tokens of the answer]; `"batch": true` stands beside them where they are
charged at the price of batches. `"noted": true` says that the answer is that of the last `sent`, `"left": true` that a
row is not settled: the next run asks it again. Of records that settle a row the last one counts. All but the answer
stand ahead of it, so that a million records are gone through without reading what the teacher wrote.
"""

import json
import math
import os
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy

from magicoder.runtime.errors import UserError
from magicoder.storage.files import json_line
from magicoder.teacher.requests import Request

BEFORE_ANSWER = b', "answer": '
"""No text of the head can hold it: quotes within one are escaped."""
BLOCK = 1 << 16
UNBELIEVABLE = 10**9
"""Tokens; no model reads or writes so many, so a server that tells them tells nothing."""
FINISH_REASONS = ("stop", "length", "content_filter", "tool_calls", "function_call")
"""Those of the protocol."""

NOT_SETTLING = {"sent", "not_charged", "left"}
OTHER_KINDS = {"refused", "unanswered", "no_room", "not_charged"}

Record = dict[str, Any]


def answered(
    request: Request, attempts: int, seconds: float, answer: Record, *, noted: bool = False, by_batch: bool = False
) -> Record:
    """The record of an answer; one without usage counts as the most it can have been.

    noted: whether the journal holds that this very request was sent.
    """
    head = {"index": request.index, "max_tokens": request.max_tokens, "attempts": attempts, "seconds": seconds}
    head |= {name: True for name, holds in (("noted", noted), ("batch", by_batch)) if holds}
    reason = answer["choices"][0].get("finish_reason")
    told = reason if isinstance(reason, str) else None  # what is no text might look like the end of the head
    return {**head, "finish_reason": told, "usage": _usage(request, answer), "answer": answer}


def _usage(request: Request, answer: Record) -> list[Any]:
    told = answer.get("usage")
    if isinstance(told, dict):
        tokens = [told.get("prompt_tokens"), told.get("completion_tokens")]
        if all(type(each) is int and 0 <= each < UNBELIEVABLE for each in tokens):
            return tokens
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
        self.left: set[int] = set()
        """Rows that former runs left without an answer."""
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
                self._failed = OSError(error.errno, error.strerror, str(self._path))
                os.ftruncate(self._file, self._length)
                raise self._failed from error
            for record, line in zip(records, lines, strict=True):
                self._note(record, self._length)
                self._length += len(line)

    def reopen(self, index: int) -> None:
        """Forget what became of a row: it is to be asked again, and the later record counts."""
        self._places[self._indices.index(index)] = -1

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
            if isinstance(record, dict) and type(record["index"]) is int and _is_known(record):
                return record
        except (ValueError, LookupError, RecursionError):
            pass  # told below, as is JSON of another form
        raise UserError(f"{self._path}: is no journal of this program: what begins at byte {place} is no record")

    def _note(self, record: Record, place: int) -> None:
        self.totals.add(record)
        if record.get("left"):
            self.left.add(record["index"])
        if not NOT_SETTLING.isdisjoint(record):
            return
        self._places[self._indices.index(record["index"])] = place
        self.cut.pop(record["index"], None)
        if record.get("finish_reason") == "length":
            self.cut[record["index"]] = record["max_tokens"]


class Totals:
    """Tokens that all records of a journal come to, and what else is counted of them."""

    def __init__(self) -> None:
        self.requests = self.answers = 0
        self.finish_reasons: Counter[str] = Counter()
        self.token_count_ratio = 1.0
        """How many times the most that was noted an answer was charged with: a server may count tokens otherwise."""
        self._settled = {False: [0, 0], True: [0, 0]}
        self._open = {False: [0, 0], True: [0, 0]}
        self._sent: dict[int, tuple[bool, list[int]]] = {}

    def charged(self, by_batch: bool) -> tuple[int, int]:
        """Tokens of prompts and of answers at the price of batches, or of live requests."""
        tokens = zip(self._settled[by_batch], self._open[by_batch], strict=True)
        prompt_tokens, completion_tokens = (
            settled + math.ceil(self.token_count_ratio * sent) for settled, sent in tokens
        )
        return prompt_tokens, completion_tokens

    def add(self, record: Record) -> None:
        """Count a record.

        What was sent counts as charged in full until it is known what became of it: an answer tells its own charge. Of
        what was sent more than once, and of what failed, all may have been charged.
        """
        index, by_batch = record["index"], record.get("batch", False)
        self.requests += record.get("attempts", 0)
        if "sent" in record:
            self._move(index, to=self._settled)
            _add(self._open[by_batch], record["sent"])
            self._sent[index] = by_batch, record["sent"]
            return
        if "usage" in record:  # ahead of what it replaces, for another thread may read the sum in between
            _add(self._settled[by_batch], record["usage"])
            self.answers += 1
            reason = record.get("finish_reason")
            self.finish_reasons[reason if reason in FINISH_REASONS else "other"] += 1
        if "noted" in record or "not_charged" in record:
            self._move(index, usage=record.get("usage"))

    def _move(self, index: int, to: dict[bool, list[int]] | None = None, usage: list[int] | None = None) -> None:
        """What was sent for a row is open no more. to: where it counts for ever. usage: what it came to."""
        if index not in self._sent:
            return
        by_batch, sent = self._sent.pop(index)
        if to is not None:
            _add(to[by_batch], sent)
        if usage is not None:
            self.token_count_ratio = max(
                self.token_count_ratio, *(told / max(1, most) for told, most in zip(usage, sent, strict=True))
            )
        _add(self._open[by_batch], [-tokens for tokens in sent])


def _add(tokens: list[int], more: list[int]) -> None:
    tokens[0] += more[0]
    tokens[1] += more[1]


def _is_known(record: Record) -> bool:
    """Whether a record, without its answer, has the form of one of the kinds above."""
    if "sent" in record or "usage" in record:
        return ("sent" in record) != ("usage" in record) and _are_tokens(record.get("sent", record.get("usage")))
    return not OTHER_KINDS.isdisjoint(record)


def _are_tokens(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and type(value[0]) is int and type(value[1]) is int


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
