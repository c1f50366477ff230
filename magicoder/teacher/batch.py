"""OpenAI's Batch API: many requests in one file, answered within a day, for part of the price.

A batch that is under way has a note in the run's directory, beside the file that it was made from. The order in which
things are written down keeps anything from being paid twice, wherever the run is killed: the file, what it may cost (in
the journal), the note with a tag of its own, the file's id once it is uploaded, the batch's id once it is made. A note
with the one id and not the other means that the batch may be there: it is looked for by its tag. A note goes when all
that its batch came to is in the journal.
"""

import contextlib
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from openai.types import Batch

from magicoder.config import TeacherConfig
from magicoder.runtime.errors import UserError
from magicoder.runtime.signals import StopRequest, stop_request
from magicoder.storage.files import written_whole
from magicoder.teacher.batch_api import Api, NotSubmitted
from magicoder.teacher.batch_state import MEGABYTE, BatchState, Pending, under_way
from magicoder.teacher.budget import Budget
from magicoder.teacher.circuit_breaker import CircuitBreaker
from magicoder.teacher.engine import backoff
from magicoder.teacher.errors import Cancelled, Forbidden, RequestRejected, TransientError
from magicoder.teacher.journal import Journal, Record, answered
from magicoder.teacher.request_file import Recorder, index_of, outcome, parsed, request_line
from magicoder.teacher.requests import Request

ENDED = ("completed", "expired", "cancelled")
QUEUE_IS_FULL = "token_limit_exceeded"
"""OpenAI's code for more tokens in all batches of an account than may wait at once."""


def answer_in_batches(
    teacher: TeacherConfig,
    requests: Iterable[Request],
    journal: Journal,
    budget: Budget,
    directory: Path,
    breaker: CircuitBreaker,
    on_record: Callable[[Record], None],
) -> StopRequest:
    """Have every request answered by batches, those that a former run submitted first of all.

    requests: taken as batches are filled; on_record: called with each record once it is in the journal.
    Returns the stop request: true if a signal ended the waiting; the batches go on, and the next run takes them up.
    Errors: UserError, OutOfBudget among them; what came so far is in the journal.
    """

    def on_signal() -> None:
        print("leaving; batches that are under way go on. Ctrl-C again to leave at once", file=sys.stderr)

    with stop_request(on_signal) as stop:
        api = Api(teacher, stop)
        work = BatchRunner(
            teacher, api, Pending(requests), journal, budget, directory, Recorder(journal, breaker, on_record)
        )
        with contextlib.suppress(Cancelled):
            work.run()
    return stop


@dataclass
class BatchRunner:
    """Submits batches and takes what they came to, until no row is left."""

    teacher: TeacherConfig
    api: Api
    pending: Pending
    journal: Journal
    budget: Budget
    directory: Path
    keeper: Recorder
    batches: list[BatchState] = field(default_factory=list)
    failures: Counter[int] = field(default_factory=Counter)
    number: int = 0
    queue_is_full: bool = False

    def __post_init__(self) -> None:
        """Begin with batches as large as they may be."""
        self.most_requests = self.teacher.batch.requests

    def run(self) -> None:
        """Errors: UserError, Stopped."""
        self._reattach()
        while True:
            for noted in list(self.batches):
                self._look_at(noted)
            if not self.queue_is_full:
                self._submit_all()
            if not self.batches and self.pending.peek() is None:
                break
            self.api.wait(self.teacher.batch.poll_seconds)
            self.queue_is_full = self.queue_is_full and bool(self.batches)
        self.keeper.end()

    def _reattach(self) -> None:
        """Take up what a former run submitted, or was about to."""
        notes = under_way(self.directory)
        for path in self.directory.glob("batch-*.jsonl"):
            if path.with_suffix(".json") not in notes:  # never submitted, or done with
                path.unlink()
        self.number = max((int(path.stem.split("-")[1]) for path in notes), default=0)
        found = [noted for noted in map(BatchState.read, notes) if noted.journal == self.journal.name]
        former = {index for noted in found for index in noted.rows}
        self.pending.leave_out(lambda index: index in former or index in self.journal)
        self.batches += found
        for noted in found:
            self._send(noted, may_exist=True)
        if found:
            _say(f"{len(found)} batches of {len(former)} requests are under way already")

    # --- there

    def _submit_all(self) -> None:
        """Submit all that fits into batches and budget. Errors: OutOfBudget if nothing does, nor will."""
        while (request := self.pending.peek()) is not None:
            if not self.budget.fits(request.prompt_tokens, request.max_tokens):
                if not self.batches:
                    raise self.budget.exceeded_by(request)
                return
            noted = self._written()
            # Ahead of the note: a run killed in between counts as charged what was never sent, not the reverse.
            sent = [{"index": index, "sent": list(tokens), "batch": True} for index, tokens in noted.rows.items()]
            self.journal.append(*sent)
            noted.save()
            self.batches.append(noted)
            self._send(noted, may_exist=False)
            _say(f"batch {noted.batch_id}: {len(noted.rows)} requests submitted")

    def _written(self) -> BatchState:
        """A batch of the requests that come next, as many as may go, in its file."""
        self.number += 1
        noted = BatchState(self.directory / f"batch-{self.number:04}.json", self.journal.name, uuid.uuid4().hex, {})
        size = prompt_tokens = max_tokens = 0
        with written_whole(noted.input) as file:
            while len(noted.rows) < self.most_requests and (request := self.pending.peek()) is not None:
                self.api.check()
                line = request_line(self.journal, request)
                size += len(line)
                prompt_tokens, max_tokens = prompt_tokens + request.prompt_tokens, max_tokens + request.max_tokens
                too_large = size > self.teacher.batch.megabytes * MEGABYTE
                if noted.rows and (too_large or not self.budget.fits(prompt_tokens, max_tokens)):
                    break
                file.write(line)
                noted.rows[request.index] = (request.prompt_tokens, request.max_tokens)
                self.pending.take()
        return noted

    def _send(self, noted: BatchState, *, may_exist: bool) -> None:
        """Take a noted batch as far as the server. Errors: as `Api`."""
        try:
            if noted.file_id is None:
                noted.file_id, may_exist = self.api.upload(noted.input), False
                noted.save()
            if noted.batch_id is None:
                noted.batch_id = self.api.create(noted.file_id, noted.tag, may_exist=may_exist)
                noted.save()
        except NotSubmitted:
            self._not_charged(noted.rows)
            self._close(noted, left=set())
            raise

    # --- and back

    def _look_at(self, noted: BatchState) -> None:
        batch = self.api.retrieve(noted)
        if batch.status == "failed":
            self._withdraw(noted, batch)
        elif batch.status in ENDED:
            self._take(noted, batch)

    def _withdraw(self, noted: BatchState, batch: Batch) -> None:
        """Take back a batch that the server refuses as a whole, to submit it later where the queue was full.

        Errors: UserError with the server's words where something else is wrong.
        """
        errors = _words_of(batch)
        full = any(code == QUEUE_IS_FULL for code, _ in errors) and not (
            len(noted.rows) == 1 and len(self.batches) == 1
        )
        self._not_charged(noted.rows)
        self._close(noted, left=set(noted.rows) if full else set())
        if not full:
            told = "; ".join(words for _, words in errors[:3])
            raise UserError(f"{self.api.base_url}: batch {batch.id} failed: {told or 'the server does not say why'}")
        self.queue_is_full = True
        if not self.batches:  # what fills the queue may be this batch alone
            self.most_requests = max(1, len(noted.rows) // 2)
        _say(f"batch {batch.id}: the queue is full; its {len(noted.rows)} requests are submitted again later")

    def _take(self, noted: BatchState, batch: Batch) -> None:
        """Journal what a batch came to, and ask again for the rest. Errors: UserError if that is of no use."""
        told, refused, torn = self._results(noted, batch)
        left = [index for index in noted.rows if index not in self.keeper]
        done = batch.status == "completed"
        # Of what the server says nothing it may have charged, unless the batch ended ahead of it.
        free = {index for index in left if _is_free(told.get(index), silence=not done and not torn)}
        self._not_charged([*free, *refused])
        if done:
            self.failures.update(left)
        again = {index for index in left if self.failures[index] < self.teacher.max_attempts}
        self._close(noted, left=again)
        self.queue_is_full = False
        asked = f", {len(again)} to be asked again" if again else ""
        _say(f"batch {batch.id}: {batch.status}, {len(noted.rows) - len(left)} of {len(noted.rows)} done{asked}")
        for index in left:
            fault = told.get(index)
            if isinstance(fault, UserError) and not (isinstance(fault, Forbidden) and self.keeper.breaker.answered):
                raise fault
            if index not in again:
                failures = self.failures[index]
                words = f"no answer in {failures} batches: {fault or 'no result'}"
                self.keeper.keep({"index": index, "unanswered": words, "attempts": failures})
        self.keeper.flush()

    def _results(self, noted: BatchState, batch: Batch) -> tuple[dict[int, Exception], list[int], bool]:
        """Journal answers and refusals.

        Returns the faults of other rows, the rows that were refused, and whether a file was unreadable in part.
        """
        told: dict[int, Exception] = {}
        refused: list[int] = []
        torn = False
        path = noted.path.with_name(f"{noted.path.stem}-results.jsonl")
        seconds = _seconds_of(batch)
        for file_id in filter(None, (batch.output_file_id, batch.error_file_id)):
            torn = self._fetch(file_id, path, noted) or torn
            for result in _read(path):
                index = index_of(result["custom_id"], self.journal) if result is not None else None
                if result is None or index is None or index not in noted.rows or index in self.keeper:
                    continue
                became = outcome(result, self.api.base_url, self.api.key)
                if isinstance(became, dict):
                    request, attempts = noted.request(index), self.failures[index] + 1
                    self.keeper.keep(answered(request, attempts, seconds, became, noted=True, by_batch=True))
                elif isinstance(became, RequestRejected):
                    refused.append(index)
                    self.keeper.keep({"index": index, "refused": str(became), "code": became.code})
                else:
                    told[index] = became
            path.unlink()
        self.keeper.flush()
        return told, refused, torn

    def _fetch(self, file_id: str, path: Path, noted: BatchState) -> bool:
        """Download a file of results, again if it is torn; whether it stays so."""
        for attempt in range(1, self.teacher.max_attempts + 1):
            self.api.download(file_id, path, noted)
            if all(result is not None for result in _read(path)):
                return False
            if attempt < self.teacher.max_attempts:
                self.api.wait(backoff(attempt))
        return True

    def _not_charged(self, indices: Iterable[int]) -> None:
        self.journal.append(*({"index": index, "not_charged": True} for index in indices))

    def _close(self, noted: BatchState, left: set[int]) -> None:
        """A batch has come to its end; the rows that are left are submitted again."""
        self.batches.remove(noted)
        noted.forget()
        if left:
            self.pending.again(noted.requests(left))
        else:
            noted.input.unlink()


def _seconds_of(batch: Batch) -> float:
    """How long a batch took, where the server tells it in seconds."""
    ended = batch.completed_at or batch.expired_at or batch.cancelled_at
    if isinstance(ended, int | float) and isinstance(batch.created_at, int | float):
        return float(ended - batch.created_at)
    return 0.0


def _words_of(batch: Batch) -> list[tuple[str | None, str]]:
    """Code and words of each error of a batch, whatever a server puts there."""
    data = getattr(batch.errors, "data", None)
    errors = data if isinstance(data, list) else []
    told = []
    for error in errors:
        line = getattr(error, "line", None)
        words = f"{getattr(error, 'message', error)}{'' if line is None else f' (line {line})'}"
        told.append((getattr(error, "code", None), words))
    return told


def _read(path: Path) -> Iterator[Record | None]:
    """The results in a file, None for a line that is none."""
    with open(path, "rb") as file:
        yield from (parsed(line) for line in file if line.strip())


def _is_free(fault: Exception | None, *, silence: bool) -> bool:
    """Whether the server charges nothing for a row with this fault; silence: whether so for one that it leaves out."""
    if fault is None:
        return silence
    return not (isinstance(fault, TransientError) and fault.maybe_billed)


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)
