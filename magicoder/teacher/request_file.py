"""Have requests answered by a batch runner, through files: no server needed."""

import itertools
import json
import shlex
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from magicoder.config import TeacherConfig
from magicoder.runtime.errors import Unfinished, UserError
from magicoder.storage.files import write_whole
from magicoder.teacher.api_key import Key
from magicoder.teacher.circuit_breaker import CircuitBreaker
from magicoder.teacher.completions import classify_end, read_choice
from magicoder.teacher.errors import RequestRejected, TransientError
from magicoder.teacher.journal import Journal, make_answered
from magicoder.teacher.recorder import Recorder
from magicoder.teacher.records import Record, Refused, Unanswered
from magicoder.teacher.request_lines import (
    MAIN_JOURNAL,
    encode_request,
    is_of_another_pass,
    parse_index,
    parse_result,
    read_outcome,
)
from magicoder.teacher.request_shape import RequestShape
from magicoder.teacher.requests import Request

Outcome = dict[str, Any] | Exception | None
"""A chat completion, the error that the result reports, or None where the file has no result."""


def answer_from_file(
    teacher: TeacherConfig,
    requests: Iterable[Request],
    journal: Journal,
    directory: Path,
    breaker: CircuitBreaker,
    on_record: Callable[[Record], None],
    shape: RequestShape,
) -> None:
    """Journal the results of a batch runner, and write the remaining requests to a file for it.

    A result is matched by its row alone: the file does not say which prompt it answers. shape: the form of the
    requests. Errors: Unfinished, with the runner's command, while rows remain; UserError if the results belong to
    another run or report what no repetition cures.
    """
    requests = (request for request in requests if request.index not in journal)
    first = next(requests, None)
    if first is None:
        return
    suffix = "" if journal.name == MAIN_JOURNAL else f"-{journal.name}"
    requests_path = directory / f"requests{suffix}.jsonl"
    chosen = teacher.results_file
    results_path = Path(chosen) if chosen is not None else directory / f"results{suffix}.jsonl"
    remaining = RemainingRequests(requests_path)
    with write_whole(requests_path) as file:
        recorder = Recorder(journal, breaker, on_record)
        for request, outcome in match_results(itertools.chain([first], requests), results_path, journal, teacher):
            if isinstance(outcome, dict):
                recorder.add(make_answered(request, 1, 0.0, outcome))  # the file does not say how long it took
            elif isinstance(outcome, RequestRejected):
                limit = request.max_tokens
                recorder.add(Refused(request.index, str(outcome), outcome.code, max_tokens=limit))
            elif isinstance(outcome, TransientError) and teacher.reject_failed_rows:
                recorder.add(Unanswered(request.index, str(outcome), 1))
            else:
                remaining.add(outcome)
                file.write(encode_request(journal, request, shape))
        recorder.flush()
        remaining.raise_if_hopeless()
        recorder.finish()
    if remaining.count:
        raise Unfinished(remaining.explain(results_path, teacher.model))
    requests_path.unlink()


def match_results(
    requests: Iterable[Request], path: Path, journal: Journal, teacher: TeacherConfig
) -> Iterator[tuple[Request, Outcome]]:
    """Yield each request with its outcome in the results file, which may not exist yet.

    Errors: UserError naming a line that is not a result, or one of another run.
    """
    if not path.is_file():
        yield from ((request, None) for request in requests)
        return
    with open(path, "rb") as file:
        offsets, key = find_offsets(file, path, journal), Key(teacher.api_key_env)
        for request in requests:
            outcome: Outcome = None
            if request.index in offsets:
                file.seek(offsets[request.index])
                outcome = read_outcome(json.loads(file.readline()), str(path), key)
            yield request, None if is_old_answer(outcome, request.index, journal) else outcome


def is_old_answer(outcome: Outcome, index: int, journal: Journal) -> bool:
    """Return whether this is the truncated answer that the row is asked again for."""
    if not isinstance(outcome, dict) or index not in journal.cut:
        return False
    if classify_end(read_choice(outcome).get("finish_reason")) != "length":
        return False
    usage = outcome.get("usage")
    completion = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return not isinstance(completion, int) or completion <= journal.cut[index]


def find_offsets(file: IO[bytes], path: Path, journal: Journal) -> dict[int, int]:
    """Return the byte offset of each row's result; of the last one, if files of several attempts were joined.

    Errors: UserError naming a line that is not a result, or one of another run.
    """
    offsets: dict[int, int] = {}
    offset = 0
    for number, line in enumerate(file, start=1):
        result = parse_result(line)
        if result is not None:
            index = parse_index(result["custom_id"], journal)
            if index is not None:
                offsets[index] = offset
            elif not is_of_another_pass(result["custom_id"], journal):
                raise UserError(
                    f"{path}, line {number}: custom_id {str(result['custom_id'])[:60]!r} is not a row of this run"
                )
        elif line.strip() and line.endswith(b"\n"):  # without a line end it is still being written
            raise UserError(f"{path}, line {number}: is not a result of a batch runner")
        offset += len(line)
    return offsets


class RemainingRequests:
    """Counts the requests that the batch runner has not answered."""

    def __init__(self, path: Path) -> None:
        """path: the file with these requests."""
        self._path = path
        self.count = 0
        self._failures: list[Exception] = []

    def add(self, outcome: Outcome) -> None:
        """Count one request. outcome: the error of its result, if it has one."""
        self.count += 1
        if isinstance(outcome, UserError) or (isinstance(outcome, Exception) and not self._failures):
            self._failures.insert(0, outcome)

    def raise_if_hopeless(self) -> None:
        """Errors: UserError if a result reports one: it would come again."""
        if self._failures and isinstance(self._failures[0], UserError):
            raise self._failures[0]

    def explain(self, results: Path, model: str) -> str:
        """Return the instruction for the user, with the runner's command."""
        runner = shlex.join(["vllm", "run-batch", "-i", str(self._path), "-o", str(results), "--model", model])
        failed = f" (some failed, the first with: {self._failures[0]})" if self._failures else ""
        return (
            f"{self.count} requests wait in {self._path}{failed}; run\n\n    {runner}\n\n"
            "and then the same command again"
        )
