"""Have requests answered by OpenAI's Batch API: many in one file, within a day, for part of the price.

A batch in progress has a state file in the run's directory, beside its input file. The order of writes keeps anything
from being paid twice, wherever the run is killed: the input file, its maximum cost (in the journal), the state with a
tag of its own, the file's id after the upload, the batch's id after its creation. A state with the first id but not the
second means that the batch may exist: it is looked up by its tag. A state file is removed when all results are in the
journal.
"""

import contextlib
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openai.types import Batch

from magicoder.config import TeacherConfig
from magicoder.runtime.console import say
from magicoder.runtime.errors import UserError
from magicoder.runtime.signals import StopRequest, stop_request
from magicoder.storage.files import write_whole
from magicoder.teacher.batch_api import BatchApi, NotSubmitted
from magicoder.teacher.batch_state import MEGABYTE, BatchState, PendingRequests, list_batch_states
from magicoder.teacher.budget import Budget
from magicoder.teacher.circuit_breaker import CircuitBreaker
from magicoder.teacher.engine import compute_backoff
from magicoder.teacher.errors import AccessDenied, Cancelled, RequestRejected, TransientError
from magicoder.teacher.journal import Journal, make_answered
from magicoder.teacher.recorder import Recorder
from magicoder.teacher.records import NotCharged, Record, Refused, Sent, Unanswered, Usage
from magicoder.teacher.request_lines import encode_request, parse_index, parse_result, read_outcome
from magicoder.teacher.request_shape import RequestShape
from magicoder.teacher.requests import Request

ENDED = ("completed", "expired", "cancelled")
QUEUE_IS_FULL = "token_limit_exceeded"
"""OpenAI's code for an account whose batches hold more tokens than may wait at once."""


def answer_in_batches(
    teacher: TeacherConfig,
    requests: Iterable[Request],
    journal: Journal,
    budget: Budget,
    directory: Path,
    breaker: CircuitBreaker,
    on_record: Callable[[Record], None],
    shape: RequestShape,
) -> StopRequest:
    """Have every request answered by batches, beginning with those that a former run submitted.

    requests: consumed as batches are filled. on_record: called with each record after it is in the journal. shape: the
    form in which they are sent. Returns the stop request: true if a signal ended the waiting; the batches continue, and
    the next run collects them. Errors: UserError, including OutOfBudget; results so far are in the journal.
    """

    def on_signal() -> None:
        say("leaving; submitted batches continue. Ctrl-C again to leave at once", error=True)

    with stop_request(on_signal) as stop:
        api = BatchApi(teacher, stop)
        recorder = Recorder(journal, breaker, on_record)
        runner = BatchRunner(teacher, api, PendingRequests(requests), journal, budget, directory, recorder, shape)
        with contextlib.suppress(Cancelled):
            runner.run()
    return stop


@dataclass
class BatchRunner:
    """Submits batches and collects their results until no row remains."""

    teacher: TeacherConfig
    api: BatchApi
    pending: PendingRequests
    journal: Journal
    budget: Budget
    directory: Path
    recorder: Recorder
    shape: RequestShape
    batches: list[BatchState] = field(default_factory=list)
    failures: Counter[int] = field(default_factory=Counter)
    number: int = 0
    queue_is_full: bool = False

    def __post_init__(self) -> None:
        """Start with the largest batches that the config allows."""
        self.max_requests = self.teacher.batch.requests

    def run(self) -> None:
        """Submit and collect until done. Errors: UserError, Cancelled."""
        self._reattach()
        while True:
            for state in list(self.batches):
                self._check(state)
            if not self.queue_is_full:
                self._submit_all()
            if not self.batches and self.pending.peek() is None:
                break
            self.api.wait(self.teacher.batch.poll_seconds)
            self.queue_is_full = self.queue_is_full and bool(self.batches)
        self.recorder.finish()

    def _reattach(self) -> None:
        """Adopt the batches that a former run submitted or was about to submit."""
        states = list_batch_states(self.directory)
        for path in self.directory.glob("batch-*.jsonl"):
            if path.with_suffix(".json") not in states:  # never submitted, or fully collected
                path.unlink()
        self.number = max((int(path.stem.split("-")[1]) for path in states), default=0)
        # Of this pass alone: another pass of the run collects its own batches.
        found = [state for state in map(BatchState.read, states) if state.journal == self.journal.name]
        former = {index for state in found for index in state.rows}
        self.pending.skip(lambda index: index in former or index in self.journal)
        self.batches += found
        for state in found:
            self._send(state, may_exist=True)
        if found:
            say(f"{len(found)} batches with {len(former)} requests are in progress already", error=True)

    # --- submit

    def _submit_all(self) -> None:
        """Submit everything that fits into batches and budget. Errors: OutOfBudget if nothing fits, nor will."""
        while (request := self.pending.peek()) is not None:
            if not self.budget.has_room_for(request.max_usage):
                if not self.batches:
                    raise self.budget.explain_excess(request)
                return
            state = self._write_input()
            # Before the state file: a kill in between counts money that was never spent, rather than forgetting money.
            self.journal.append(*(Sent(index, usage, by_batch=True) for index, usage in state.rows.items()))
            state.save()
            self.batches.append(state)
            self._send(state, may_exist=False)
            say(f"batch {state.batch_id}: {len(state.rows)} requests submitted", error=True)

    def _write_input(self) -> BatchState:
        """Write the input file of the next batch, with as many requests as may go; return its state."""
        self.number += 1
        state = BatchState(self.directory / f"batch-{self.number:04}.json", self.journal.name, uuid.uuid4().hex, {})
        size, usage = 0, Usage()
        with write_whole(state.input) as file:
            while len(state.rows) < self.max_requests and (request := self.pending.peek()) is not None:
                self.api.raise_if_stopped()
                line = encode_request(self.journal, request, self.shape)
                size, usage = size + len(line), usage + request.max_usage
                too_large = size > self.teacher.batch.megabytes * MEGABYTE
                # A batch has at least one request; one that is too large by itself is the server's to refuse.
                if state.rows and (too_large or not self.budget.has_room_for(usage)):
                    break
                file.write(line)
                state.rows[request.index] = request.max_usage
                self.pending.take()
        return state

    def _send(self, state: BatchState, *, may_exist: bool) -> None:
        """Bring a batch to the server. Errors: as `BatchApi`."""
        try:
            # Saved after each step: whatever the server has confirmed is never asked of it twice.
            if state.file_id is None:
                state.file_id, may_exist = self.api.upload(state.input), False
                state.save()
            if state.batch_id is None:
                state.batch_id = self.api.create(state.file_id, state.tag, may_exist=may_exist)
                state.save()
        except NotSubmitted:
            self._record_not_charged(state.rows)
            self._close(state, remaining=set())
            raise

    # --- collect

    def _check(self, state: BatchState) -> None:
        batch = self.api.retrieve(state)
        if batch.status == "failed":
            self._withdraw(state, batch)
        elif batch.status in ENDED:
            self._collect(state, batch)

    def _withdraw(self, state: BatchState, batch: Batch) -> None:
        """Take back a batch that the server refuses as a whole, to submit it later if its queue was full.

        Errors: UserError with the server's message for any other cause.
        """
        errors = list_errors(batch)
        cannot_shrink = len(state.rows) == 1 and len(self.batches) == 1
        is_full = not cannot_shrink and any(code == QUEUE_IS_FULL for code, _ in errors)
        self._record_not_charged(state.rows)
        self._close(state, remaining=set(state.rows) if is_full else set())
        if not is_full:
            messages = "; ".join(message for _, message in errors[:3]) or "the server does not say why"
            raise UserError(f"{self.api.base_url}: batch {batch.id} failed: {messages}")
        self.queue_is_full = True
        if not self.batches:  # this batch alone may exceed the queue
            self.max_requests = max(1, len(state.rows) // 2)
        count = len(state.rows)
        say(f"batch {batch.id}: the queue is full; its {count} requests are submitted again later", error=True)

    def _collect(self, state: BatchState, batch: Batch) -> None:
        """Journal the results of a batch and submit the rest again. Errors: UserError if that is hopeless."""
        failures, refused, is_torn = self._record_results(state, batch)
        missing = [index for index in state.rows if index not in self.recorder]
        is_complete = batch.status == "completed"
        # A row without a result may have been billed, unless the batch ended before its turn.
        silence_is_free = not is_complete and not is_torn
        free = {index for index in missing if _is_free(failures.get(index), silence_is_free=silence_is_free)}
        self._record_not_charged([*free, *refused])
        # An expiry counts too, although nothing was tried: a queue that never gets its turn must end.
        if batch.status != "cancelled":
            self.failures.update(missing)
        retried = {index for index in missing if self.failures[index] < self.teacher.max_attempts}
        self._close(state, remaining=retried)
        self.queue_is_full = False
        done, retries = len(state.rows) - len(missing), f", {len(retried)} to be asked again" if retried else ""
        say(f"batch {batch.id}: {batch.status}, {done} of {len(state.rows)} done{retries}", error=True)
        for index in missing:
            self._give_up(index, failures.get(index), is_retried=index in retried)
        self.recorder.flush()
        if batch.status == "cancelled" and retried:
            # Whoever cancels a batch wants to stop the cost; only a new command may submit its rows again.
            raise UserError(
                f"{self.api.base_url}: batch {batch.id} was cancelled; its results are kept, and the same command "
                f"submits the remaining {len(retried)} requests again"
            )

    def _give_up(self, index: int, failure: Exception | None, *, is_retried: bool) -> None:
        """Record a row without an answer, unless it is asked again. Errors: UserError if asking again is hopeless."""
        is_row_alone = isinstance(failure, AccessDenied) and self.recorder.breaker.answered
        if isinstance(failure, UserError) and not is_row_alone:
            raise failure
        if not is_retried:
            attempts = self.failures[index]
            message = f"no answer in {attempts} batches: {failure or 'no result'}"
            self.recorder.add(Unanswered(index, message, attempts))

    def _record_results(self, state: BatchState, batch: Batch) -> tuple[dict[int, Exception], list[int], bool]:
        """Journal answers and refusals.

        Returns the failures of other rows, the refused rows, and whether a results file stayed unreadable in part.
        """
        failures: dict[int, Exception] = {}
        refused: list[int] = []
        is_torn = False
        path = state.path.with_name(f"{state.path.stem}-results.jsonl")
        seconds = measure_seconds(batch)
        for file_id in filter(None, (batch.output_file_id, batch.error_file_id)):
            is_torn = self._fetch(file_id, path, state) or is_torn
            for result in read_results(path):
                index = parse_index(result["custom_id"], self.journal) if result is not None else None
                if result is None or index is None or index not in state.rows or index in self.recorder:
                    continue
                outcome = read_outcome(result, self.api.base_url, self.api.key)
                if isinstance(outcome, dict):
                    request, attempts = state.make_stub(index), self.failures[index] + 1
                    answered = make_answered(request, attempts, seconds, outcome, noted=True, by_batch=True)
                    self.recorder.add(answered)
                elif isinstance(outcome, RequestRejected):
                    refused.append(index)
                    limit = state.rows[index].completion
                    self.recorder.add(Refused(index, str(outcome), outcome.code, max_tokens=limit))
                else:
                    failures[index] = outcome
            path.unlink()
        self.recorder.flush()  # before the state file goes: from then on nothing leads back to the results
        return failures, refused, is_torn

    def _fetch(self, file_id: str, path: Path, state: BatchState) -> bool:
        """Download a results file, again if it is torn; return whether it stays torn."""
        for attempt in range(1, self.teacher.max_attempts + 1):
            self.api.download(file_id, path, state)
            if all(result is not None for result in read_results(path)):
                return False
            if attempt < self.teacher.max_attempts:
                self.api.wait(compute_backoff(attempt))
        return True

    def _record_not_charged(self, indices: Iterable[int]) -> None:
        self.journal.append(*(NotCharged(index) for index in indices))

    def _close(self, state: BatchState, remaining: set[int]) -> None:
        """Forget a batch that has ended, and put its remaining rows back."""
        self.batches.remove(state)
        state.remove()
        if remaining:
            self.pending.put_back(state.read_requests(remaining))
        else:
            state.input.unlink()


def measure_seconds(batch: Batch) -> float:
    """Return the duration of a batch in seconds; 0 if the server reports no such numbers."""
    ended = batch.completed_at or batch.expired_at or batch.cancelled_at
    if isinstance(ended, int | float) and isinstance(batch.created_at, int | float):
        return float(ended - batch.created_at)
    return 0.0


def list_errors(batch: Batch) -> list[tuple[str | None, str]]:
    """Return code and message of each error of a batch, whatever form the server gives them."""
    data = getattr(batch.errors, "data", None)
    errors = []
    for error in data if isinstance(data, list) else []:
        line = getattr(error, "line", None)
        message = f"{getattr(error, 'message', error)}{'' if line is None else f' (line {line})'}"
        errors.append((getattr(error, "code", None), message))
    return errors


def read_results(path: Path) -> Iterator[dict[str, Any] | None]:
    """Yield the results in a file, None for a line without one."""
    with open(path, "rb") as file:
        yield from (parse_result(line) for line in file if line.strip())


def _is_free(failure: Exception | None, *, silence_is_free: bool) -> bool:
    """Return whether the server bills nothing for a row with this failure, or with no result at all."""
    if failure is None:
        return silence_is_free
    return not (isinstance(failure, TransientError) and failure.maybe_billed)
