"""Requests and results as lines of files: what OpenAI's Batch API and vLLM's batch runner have in common.

A request is {"custom_id", "method", "url", "body"}. A result is {"custom_id", "response": {"status_code", "body"},
"error"}; they come in any order.
"""

import itertools
import json
import re
import shlex
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Final

from magicoder.config import TeacherConfig
from magicoder.runtime.errors import Unfinished, UserError
from magicoder.runtime.text import encodable
from magicoder.storage.files import json_line, written_whole
from magicoder.teacher.api_key import Key
from magicoder.teacher.circuit_breaker import CircuitBreaker
from magicoder.teacher.errors import RequestRejected, TransientError, of_status, server_words, well_formed
from magicoder.teacher.journal import Journal, Record, answered
from magicoder.teacher.requests import Request

URL: Final = "/v1/chat/completions"
ONLY_JOURNAL = "journal"
"""The name of a run's first journal, which stands in no file name and in no custom_id."""
GROUP = 256
"""Records that are journalled together."""


def answer_from_file(
    teacher: TeacherConfig,
    requests: Iterable[Request],
    journal: Journal,
    directory: Path,
    breaker: CircuitBreaker,
    on_record: Callable[[Record], None],
) -> None:
    """Journal what a batch runner made of `requests`, and write those that are left to a file for it.

    A result is known by its row alone: that it answers these very words, the file does not tell.
    Errors: Unfinished, with the runner's command, while rows are left; UserError if the results are of another run, or
    tell what no repetition mends.
    """
    requests = (request for request in requests if request.index not in journal)
    first = next(requests, None)
    if first is None:
        return
    suffix = "" if journal.name == ONLY_JOURNAL else f"-{journal.name}"
    requests_path = directory / f"requests{suffix}.jsonl"
    results_path = Path(teacher.results) if teacher.results is not None else directory / f"results{suffix}.jsonl"
    left = RemainingRequests(requests_path)
    with written_whole(requests_path) as file:
        keeper = Recorder(journal, breaker, on_record)
        for request, told in with_results(itertools.chain([first], requests), results_path, journal, teacher):
            if isinstance(told, dict):
                keeper.keep(answered(request, 1, 0.0, told))  # how long it took, nobody says
            elif isinstance(told, RequestRejected):
                keeper.keep({"index": request.index, "refused": str(told), "code": told.code})
            elif isinstance(told, TransientError) and teacher.give_up:
                keeper.keep({"index": request.index, "unanswered": str(told), "attempts": 1})
            else:
                left.add(told)
                file.write(request_line(journal, request))
        keeper.flush()
        left.check()
        keeper.end()
    if left.count:
        raise Unfinished(left.what_to_do(results_path, teacher.model))
    requests_path.unlink()


# --- lines -----------------------------------------------------------------------------------------------------------


def request_line(journal: Journal, request: Request) -> bytes:
    """The line that asks for a request. A text that UTF-8 cannot hold is mended: it would spoil all of the file."""
    messages = [{**message, "content": encodable(message["content"])} for message in request.body["messages"]]
    name = f"{_prefix(journal.name)}{request.index}"
    return json_line({"custom_id": name, "method": "POST", "url": URL, "body": {**request.body, "messages": messages}})


def index_of(custom_id: object, journal: Journal) -> int | None:
    """The row of a custom_id; None for one that is not of this journal."""
    prefix = _prefix(journal.name)
    if not isinstance(custom_id, str) or not custom_id.startswith(prefix):
        return None
    try:
        index = int(custom_id.removeprefix(prefix))
        _ = index in journal  # which says by a ValueError that it has no such row
    except ValueError:
        return None
    return index


def _is_of_another_pass(custom_id: object, journal: Journal) -> bool:
    """Whether a run of several passes, of which this is one, may have given this name."""
    if journal.name == ONLY_JOURNAL or not isinstance(custom_id, str) or custom_id.startswith(_prefix(journal.name)):
        return False
    return re.fullmatch(rf"{ONLY_JOURNAL}-[a-z]+-\d+-row-\d+", custom_id) is not None


def _prefix(journal_name: str) -> str:
    return "row-" if journal_name == ONLY_JOURNAL else f"{journal_name}-row-"


def parsed(line: bytes) -> Record | None:
    """The result on a line; None for what is none."""
    try:
        result = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return result if isinstance(result, dict) and "custom_id" in result else None


def outcome(result: Record, place: str, key: Key) -> Record | Exception:
    """The chat completion that a result holds, or else the fault that it tells, one of `faults` or a UserError.

    place: the server, for messages. key: is shown in none.
    """
    response, error = result.get("response"), result.get("error")
    if not isinstance(response, dict):  # its turn never came: the batch expired or was cancelled
        return TransientError(f"{place}: {_words(error, key)}", maybe_billed=error is None)
    status, body = response.get("status_code"), response.get("body")
    if status == 200:
        try:
            return well_formed(json.dumps(body).encode(), key)
        except RecursionError:
            return TransientError(f"{place}: not a chat completion", maybe_billed=True)
        except TransientError as passing:
            return passing
    if isinstance(error, str) or not isinstance(status, int) or not 100 <= status <= 599:
        # vLLM gives status 400 and a bare text to whatever goes wrong within itself; OpenAI has been seen to give 0.
        return TransientError(f"{place}: {_words(error or body, key)}", maybe_billed=True)
    told = body if isinstance(body, dict) and "error" in body else _wrapped(error)
    return of_status(status, {}, json.dumps(told).encode(), place, key)


def _wrapped(error: object) -> object:
    """An error in the form in which a live server sends it; vLLM's has that form already."""
    return error if isinstance(error, dict) and "error" in error else {"error": error}


def _words(error: object, key: Key) -> str:
    told = _wrapped({"message": error} if isinstance(error, str) else error)
    return server_words(json.dumps(told).encode(), key)[0]


# --- results ---------------------------------------------------------------------------------------------------------


def with_results(
    requests: Iterable[Request], path: Path, journal: Journal, teacher: TeacherConfig
) -> Iterator[tuple[Request, Record | Exception | None]]:
    """Each request with what became of it (`outcome`); None where the file has no result for it, or is not there.

    Errors: UserError naming the line that is no result, or one of another run.
    """
    if not path.is_file():
        yield from ((request, None) for request in requests)
        return
    with open(path, "rb") as file:
        places, key = _places(file, path, journal), Key(teacher.api_key_env)
        for request in requests:
            told = None
            if request.index in places:
                file.seek(places[request.index])
                told = outcome(json.loads(file.readline()), str(path), key)
            yield request, None if _is_former(told, request.index, journal) else told


def _is_former(told: Record | Exception | None, index: int, journal: Journal) -> bool:
    """Whether this is the very answer that is asked for again because it was cut short."""
    if not isinstance(told, dict) or index not in journal.cut or told["choices"][0].get("finish_reason") != "length":
        return False
    usage = told.get("usage")
    written = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return not isinstance(written, int) or written <= journal.cut[index]


def _places(file: IO[bytes], path: Path, journal: Journal) -> dict[int, int]:
    """Where the result of each row begins; the last one, where files of several attempts were joined."""
    places: dict[int, int] = {}
    place = 0
    for number, line in enumerate(file, start=1):
        result = parsed(line)
        if result is not None:
            index = index_of(result["custom_id"], journal)
            if index is not None:
                places[index] = place
            elif not _is_of_another_pass(result["custom_id"], journal):
                raise UserError(
                    f"{path}, line {number}: custom_id {str(result['custom_id'])[:60]!r} is no row of this run"
                )
        elif line.strip() and line.endswith(b"\n"):  # without an end it is one that is being written
            raise UserError(f"{path}, line {number}: is not a result of a batch runner")
        place += len(line)
    return places


class Recorder:
    """Journals records in groups, once `doubts` lets them go."""

    def __init__(self, journal: Journal, breaker: CircuitBreaker, on_record: Callable[[Record], None]) -> None:
        """on_record: called with each record once it is in the journal."""
        self.breaker = breaker
        self._journal, self._on_record = journal, on_record
        self._ready: dict[int, Record] = {}

    def __contains__(self, index: int) -> bool:
        """Whether it is known what became of a row."""
        return index in self._ready or index in self._journal or index in self.breaker

    def keep(self, record: Record) -> None:
        """Journal a record, at once or with others."""
        self._take(self.breaker.certain(record, self.breaker.seen))

    def flush(self) -> None:
        """Journal all that need not wait."""
        ready, self._ready = list(self._ready.values()), {}
        self._journal.append(*ready)
        for record in ready:
            self._on_record(record)

    def end(self) -> None:
        """Journal the rest. Errors: UserError if not one request was answered, or rows are left without an answer."""
        self._take(self.breaker.at_the_end())
        self.flush()
        self.breaker.check_left()

    def _take(self, records: Iterable[Record]) -> None:
        self._ready |= {record["index"]: record for record in records}
        if len(self._ready) >= GROUP:
            self.flush()


class RemainingRequests:
    """What a batch runner has still to answer."""

    def __init__(self, path: Path) -> None:
        """path: the file with these requests."""
        self._path = path
        self.count = 0
        self._faults: list[Exception] = []

    def add(self, fault: Record | Exception | None) -> None:
        """One more request is left; `fault`: what its result told, if there was one."""
        self.count += 1
        if isinstance(fault, UserError) or (isinstance(fault, Exception) and not self._faults):
            self._faults.insert(0, fault)

    def check(self) -> None:
        """Errors: UserError if a result told one: asked again, it would come again."""
        if self._faults and isinstance(self._faults[0], UserError):
            raise self._faults[0]

    def what_to_do(self, results: Path, model: str) -> str:
        """How they come to be answered."""
        runner = shlex.join(["vllm", "run-batch", "-i", str(self._path), "-o", str(results), "--model", model])
        again = f" (some failed, the first with: {self._faults[0]})" if self._faults else ""
        return (
            f"{self.count} requests wait in {self._path}{again}; run\n\n    {runner}\n\nand then the same command again"
        )
