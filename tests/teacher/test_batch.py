"""Batches: nothing is paid twice or beyond the budget, whatever becomes of a batch, the server or the process."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from magicoder.config import BatchConfig, RequestConfig, TeacherConfig
from magicoder.runtime.errors import UserError
from magicoder.runtime.signals import StopRequest
from magicoder.teacher import batch_api
from magicoder.teacher.batch import answer_in_batches
from magicoder.teacher.batch_state import list_batch_states
from magicoder.teacher.budget import Budget, OutOfBudget
from magicoder.teacher.circuit_breaker import CircuitBreaker
from magicoder.teacher.journal import Journal
from magicoder.teacher.records import Record, Refused, Usage
from magicoder.teacher.request_shape import RequestShape
from magicoder.teacher.requests import Request
from tests import batch_server
from tests.batch_server import BatchServer, babble, complete, each, end_half_done, error, fail, fall_over, refuse
from tests.chat_server import completion
from tests.support import PROJECT, environment

ROWS = range(10)
PRICE = (1.0, 1.0)  # a dollar for a million tokens of either kind
MOST = (20 + 100) / 1e6  # dollars that one of these requests may cost


def teacher_for(base_url: str, **changes: object) -> TeacherConfig:
    settings = {
        "model": "m",
        "base_url": base_url,
        "api_key_env": None,
        "key_header": "Authorization",
        "request": RequestConfig(extra_headers={}),
        "mode": "batch",
        "max_attempts": 3,
        "reject_failed_rows": False,
        "timeout": 10.0,
        "batch": BatchConfig(requests=4, megabytes=1.0, price=0.5, poll_seconds=0.01),
        **changes,
    }
    return TeacherConfig(**settings)


def request(index: int) -> Request:
    messages = [{"role": "user", "content": f"row {index} \u2028 \U0001f600"}]
    return Request(index, {"model": "m", "messages": messages, "seed": index, "max_tokens": 100}, 20, 100)


def run(
    teacher: TeacherConfig, folder: Path, rows: range = ROWS, max_cost: float | None = None, name: str = "journal"
) -> tuple[StopRequest, list[Record]]:
    """One session: every row that the journal does not know is asked for."""
    shown: list[Record] = []
    with Journal(folder / f"{name}.jsonl", rows) as journal:
        price = PRICE if max_cost is not None else None
        budget = Budget(price, max_cost, lambda: [journal.totals], batch_discount=1.0, by_batch=True)
        answered, left = journal.totals.answers > 0, journal.left
        breaker = CircuitBreaker(
            answered=answered, reject_failed_rows=teacher.reject_failed_rows, failed_before=left, at_most=None
        )
        requests = (request(index) for index in rows if index not in journal)
        return answer_in_batches(
            teacher, requests, journal, budget, folder, breaker, shown.append, RequestShape()
        ), shown


def records(folder: Path, rows: range = ROWS, name: str = "journal") -> dict[int, Record]:
    with Journal(folder / f"{name}.jsonl", rows) as journal:
        return {index: journal[index] for index in rows if index in journal}


def all_answered(folder: Path, rows: range = ROWS) -> bool:
    known = records(folder, rows)
    return {index: known[index].answer for index in known} == {index: completion(request(index).body) for index in rows}


@pytest.fixture
def server() -> Iterator[BatchServer]:
    with batch_server.batch_server() as running:
        yield running


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_api, "compute_backoff", lambda attempt: 0.01)
    monkeypatch.setattr(batch_api, "STOP_CHECK_SECONDS", 0.01)


# --- splitting -------------------------------------------------------------------------------------------------------


def test_every_row_is_answered_once_in_the_largest_batches(server: BatchServer, tmp_path: Path) -> None:
    stop, shown = run(teacher_for(server.base_url), tmp_path)
    assert not stop
    assert all_answered(tmp_path)
    assert sorted(record.index for record in shown) == list(ROWS)
    assert [batch.seeds for batch in server.batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert set(server.paid.values()) == {1}
    assert [path.name for path in tmp_path.iterdir()] == ["journal.jsonl"]  # the folder is as a live run leaves it


def test_no_file_is_larger_than_the_config_allows(server: BatchServer, tmp_path: Path) -> None:
    limit = 0.0006
    run(
        teacher_for(server.base_url, batch=BatchConfig(requests=100, megabytes=limit, price=1, poll_seconds=0.01)),
        tmp_path,
    )
    uploads = [server.files[batch.told["input_file_id"]] for batch in server.batches]
    assert max(map(len, uploads)) <= limit * 1e6
    assert max(upload.count(b"\n") for upload in uploads) > 1
    assert all_answered(tmp_path)


def test_what_the_journal_holds_already_is_not_asked_again(server: BatchServer, tmp_path: Path) -> None:
    run(teacher_for(server.base_url), tmp_path)
    calls = len(server.calls)
    run(teacher_for(server.base_url), tmp_path)
    assert len(server.calls) == calls


# --- batches that end otherwise --------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["expired", "cancelled"])
def test_half_done_batch_is_taken_and_only_the_rest_is_retried(
    status: str, server: BatchServer, tmp_path: Path
) -> None:
    server.fates.append(end_half_done(status))
    if status == "cancelled":  # by the user, to stop the cost
        with pytest.raises(UserError, match="was cancelled; its results are kept"):
            run(teacher_for(server.base_url), tmp_path, max_cost=1.0)
        assert len(server.batches) == 3
    run(teacher_for(server.base_url), tmp_path, max_cost=1.0)
    assert all_answered(tmp_path)
    assert server.batches[3].seeds == [1, 3]
    assert set(server.paid.values()) == {1}
    with Journal(tmp_path / "journal.jsonl", ROWS) as journal:
        assert journal.totals.sum_batch() == Usage(7 * len(ROWS), 5 * len(ROWS))  # what expired is charged with nothing


def test_invalid_input_file_ends_the_run_and_holds_no_money(server: BatchServer, tmp_path: Path) -> None:
    server.fates.extend([fail("invalid_model", "The model `m` is not for batches.")])
    with pytest.raises(UserError, match=r"batch batch_1 failed: The model `m` is not for batches. \(line 1\)"):
        run(teacher_for(server.base_url, batch=BatchConfig(10, 1.0, 1.0, 0.01)), tmp_path, max_cost=1.0)
    with Journal(tmp_path / "journal.jsonl", ROWS) as journal:
        assert journal.totals.sum_batch() == Usage(0, 0)
    assert list_batch_states(tmp_path) == []
    run(teacher_for(server.base_url), tmp_path, max_cost=1.0)
    assert all_answered(tmp_path)


def test_a_full_queue_is_waited_for_and_not_taken_for_a_mistake(server: BatchServer, tmp_path: Path) -> None:
    server.queue = 5  # one batch of four at a time
    run(teacher_for(server.base_url), tmp_path, max_cost=1.0)
    assert all_answered(tmp_path)
    assert set(server.paid.values()) == {1}


@pytest.mark.parametrize("queue", [3, 1])
def test_a_batch_larger_than_the_whole_queue_is_made_smaller(server: BatchServer, tmp_path: Path, queue: int) -> None:
    server.queue = queue
    run(teacher_for(server.base_url, batch=BatchConfig(10, 1.0, 1.0, 0.01)), tmp_path)
    assert all_answered(tmp_path)
    assert set(server.paid.values()) == {1}


# --- rows that end otherwise -----------------------------------------------------------------------------------------


def test_refused_row_is_journaled_and_failed_ones_are_retried(server: BatchServer, tmp_path: Path) -> None:
    server.fates.append(each(seed_1=refuse, seed_2=fall_over, seed_3=babble))
    run(teacher_for(server.base_url), tmp_path, max_cost=1.0)
    known = records(tmp_path)
    assert known[1] == Refused(1, known[1].message, "invalid_prompt", max_tokens=100)
    assert "HTTP 400: not this one" in known[1].message
    assert server.batches[3].seeds == [2, 3]
    assert [known[index].attempts for index in (0, 2, 3)] == [1, 2, 2]
    with Journal(tmp_path / "journal.jsonl", ROWS) as journal:  # what came as babble may have been charged in full
        assert journal.totals.sum_batch() == Usage(7 * 9 + 20, 5 * 9 + 100)


def test_row_without_answer_in_all_batches_ends_the_run(server: BatchServer, tmp_path: Path) -> None:
    server.fates.extend([each(seed_2=fall_over)] * 10)
    with pytest.raises(
        UserError, match=r"row 2: no answer in 3 batches: .*HTTP 500: fell over; 1 row is left without an answer"
    ):
        run(teacher_for(server.base_url), tmp_path)
    assert set(records(tmp_path)) == set(ROWS) - {2}
    server.fates.clear()
    run(teacher_for(server.base_url), tmp_path)
    assert all_answered(tmp_path)
    assert set(server.paid.values()) == {1}


def test_row_without_answer_in_all_batches_can_be_rejected(server: BatchServer, tmp_path: Path) -> None:
    server.fates.extend([each(seed_2=fall_over)] * 10)
    run(teacher_for(server.base_url, reject_failed_rows=True), tmp_path)
    assert records(tmp_path)[2].message.startswith("no answer in 3 batches")
    assert len(records(tmp_path)) == len(ROWS)


def test_teacher_that_refuses_every_row_loses_no_row(server: BatchServer, tmp_path: Path) -> None:
    rows = range(3)
    server.fates.append(each(seed_0=refuse, seed_1=refuse, seed_2=refuse))
    with pytest.raises(UserError, match=r"the teacher refuses every request: .*not this one"):
        run(teacher_for(server.base_url), tmp_path, rows, max_cost=1.0)
    assert records(tmp_path, rows) == {}
    run(teacher_for(server.base_url), tmp_path, rows, max_cost=1.0)
    assert all_answered(tmp_path, rows)


def test_torn_results_are_fetched_again_not_asked_again(server: BatchServer, tmp_path: Path) -> None:
    server.script("GET /v1/files/.*", batch_server.torn_download)
    run(teacher_for(server.base_url), tmp_path)
    assert all_answered(tmp_path)
    assert set(server.paid.values()) == {1}


def test_results_that_stay_torn_are_used_and_the_rest_is_billed(server: BatchServer, tmp_path: Path) -> None:
    server.script("GET /v1/files/.*", *[batch_server.torn_download] * 3)
    run(teacher_for(server.base_url), tmp_path, range(4), max_cost=1.0)
    assert all_answered(tmp_path, range(4))
    lost = sum(server.paid.values()) - 4
    assert 0 < lost < 4
    with Journal(tmp_path / "journal.jsonl", ROWS) as journal:
        assert journal.totals.sum_batch() == Usage(7 * 4 + 20 * lost, 5 * 4 + 100 * lost)


def test_unknown_and_repeated_results_change_nothing(server: BatchServer, tmp_path: Path) -> None:
    def untidy(running: BatchServer, done: batch_server.Batch) -> None:
        for line in done.input:
            done.answer(line)
            done.answer(line, content="another answer to the same")
        for custom_id in ("row-99999", "row-x", "other-row-1", "row-9"):
            done.answer({**done.input[0], "custom_id": custom_id}, content="a stranger")
        done.output[-4:] = [line for line in done.output[-4:] if b"row-9" not in line]  # known to `end` as strangers
        running.end(done, "completed")

    server.fates.append(untidy)
    run(teacher_for(server.base_url), tmp_path)
    assert all_answered(tmp_path)


# --- the server's moods ----------------------------------------------------------------------------------------------


def test_transient_failures_are_retried_without_a_second_batch(server: BatchServer, tmp_path: Path) -> None:
    server.script("POST /v1/files", error(500), batch_server.lose_the_reply)
    server.script("POST /v1/batches", batch_server.lose_the_reply, batch_server.lose_the_reply, error(503))
    server.script("GET /v1/batches", error(502), batch_server.lose_the_reply)
    server.script("GET /v1/batches/batch_.", *[error(500)] * 5, error(429), batch_server.lose_the_reply)
    server.script("GET /v1/files/.*", error(500), batch_server.lose_the_reply)
    run(teacher_for(server.base_url), tmp_path)
    assert all_answered(tmp_path)
    assert len(server.batches) == 3
    assert set(server.paid.values()) == {1}


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "; is the key in KEY right"),
        (403, "; is the key in KEY right"),
        (404, "; has this server a Batch API"),
        (400, "$"),
    ],
)
@pytest.mark.parametrize("call", ["POST /v1/files", "POST /v1/batches"])
def test_lasting_failure_is_one_line_and_holds_no_money(
    status: int, words: str, call: str, server: BatchServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", "sk-1234567890")
    server.script(call, error(status, "no credit"))
    with pytest.raises(UserError, match=f"HTTP {status}: no credit{words}") as raised:
        run(teacher_for(server.base_url, api_key_env="KEY"), tmp_path, max_cost=1.0)
    assert len(raised.value.problems) == 1
    assert server.calls.count(call) == 1
    assert list_batch_states(tmp_path) == []
    with Journal(tmp_path / "journal.jsonl", ROWS) as journal:
        assert journal.totals.sum_batch() == Usage(0, 0)


def test_missing_server_is_reported_after_the_allowed_attempts(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"http://127.0.0.1:9/v1: .*; results so far are kept, and the same command"):
        run(teacher_for("http://127.0.0.1:9/v1"), tmp_path)


def test_a_key_that_a_server_echoes_reaches_no_message(
    server: BatchServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "sk-1234567890")
    server.script("POST /v1/files", error(401, "wrong key: sk-1234567890"))
    with pytest.raises(UserError, match=r"wrong key: \[API key\]"):
        run(teacher_for(server.base_url, api_key_env="SECRET"), tmp_path)


# --- budget ----------------------------------------------------------------------------------------------------------


@contextmanager
def watched(server: BatchServer, folder: Path, bound: float) -> Iterator[list[float]]:
    """Dollars that all that was submitted may come to, each time that a batch arrives."""
    seen: list[float] = []
    create = server.create

    def watching(asked: dict) -> dict:
        told = create(asked)
        done = sum(server.paid.values()) * 12 / 1e6
        open_rows = sum(
            len(batch.input) for batch in server.batches if batch.told["status"] in ("validating", "in_progress")
        )
        seen.append(done + open_rows * MOST)
        return told

    server.create = watching
    yield seen
    assert max(seen) <= bound + 1e-12


def test_requests_in_flight_never_exceed_the_budget(server: BatchServer, tmp_path: Path) -> None:
    bound = 5.5 * MOST
    with watched(server, tmp_path, bound):
        run(teacher_for(server.base_url), tmp_path, max_cost=bound)
    assert [len(batch.input) for batch in server.batches][:2] == [4, 1]  # a smaller one, where only that fits
    assert all_answered(tmp_path)
    assert set(server.paid.values()) == {1}


def test_spent_budget_ends_the_run_and_a_higher_one_continues(server: BatchServer, tmp_path: Path) -> None:
    bound = MOST + 3.5 * 12 / 1e6
    with watched(server, tmp_path, bound), pytest.raises(OutOfBudget, match=r"teacher.max_cost=.* dollars are spent"):
        run(teacher_for(server.base_url), tmp_path, max_cost=bound)
    assert list(records(tmp_path)) == [0, 1, 2, 3]
    run(teacher_for(server.base_url), tmp_path, max_cost=1.0)
    assert all_answered(tmp_path)
    assert set(server.paid.values()) == {1}


# --- restarts --------------------------------------------------------------------------------------------------------

DRIVER = """
import sys
from pathlib import Path
from tests.teacher import test_batch as tests

_, base_url, folder, max_cost = sys.argv
teacher = tests.teacher_for(base_url)
stop, _ = tests.run(teacher, Path(folder), max_cost=float(max_cost))
sys.exit(0 if stop.signal_number is None else 128 + stop.signal_number)
"""


@contextmanager
def driver(server: BatchServer, folder: Path, max_cost: float = 1.0) -> Iterator[subprocess.Popen[str]]:
    """A session in a process of its own."""
    line = [sys.executable, "-c", DRIVER, server.base_url, str(folder), str(max_cost)]
    process = subprocess.Popen(
        line, cwd=PROJECT, env=environment(PYTHONPATH=str(PROJECT)), stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_until(reached: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.01)


def asked_about(server: BatchServer) -> bool:
    return {"GET /v1/batches/batch_1", "GET /v1/batches/batch_3"} <= set(server.calls)


def test_killed_while_waiting_the_next_run_adopts_its_batches(server: BatchServer, tmp_path: Path) -> None:
    server.holding = True
    with driver(server, tmp_path) as process:
        wait_until(lambda: asked_about(server))
        process.kill()
        process.wait()
    assert len(list_batch_states(tmp_path)) == 3
    with Journal(tmp_path / "journal.jsonl", ROWS) as journal:
        assert journal.totals.sum_batch() == Usage(
            20 * len(ROWS), 100 * len(ROWS)
        )  # all that is under way counts in full
    server.holding = False
    server.fates.extend([complete, end_half_done("expired")])
    run(teacher_for(server.base_url), tmp_path, max_cost=1.0)
    assert [batch.seeds for batch in server.batches][3:] == [[5, 7]]
    assert all_answered(tmp_path)
    assert set(server.paid.values()) == {1}
    with Journal(tmp_path / "journal.jsonl", ROWS) as journal:
        assert journal.totals.sum_batch() == Usage(7 * len(ROWS), 5 * len(ROWS))


def test_stop_request_leaves_batches_running_and_says_so(server: BatchServer, tmp_path: Path) -> None:
    server.holding = True
    with driver(server, tmp_path) as process:
        wait_until(lambda: asked_about(server))
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    assert "submitted batches continue" in told
    server.holding = False
    run(teacher_for(server.base_url), tmp_path)
    assert all_answered(tmp_path)
    assert len(server.batches) == 3


@pytest.mark.parametrize(
    ("call", "when"),
    [
        ("POST /v1/files", "before"),
        ("POST /v1/files", "after"),
        ("POST /v1/batches", "before"),
        ("POST /v1/batches", "after"),
        ("GET /v1/files/.*", "before"),
    ],
)
def test_killed_around_any_call_a_run_submits_nothing_twice(
    call: str, when: str, server: BatchServer, tmp_path: Path
) -> None:
    with driver(server, tmp_path) as process:

        def kill(handler: batch_server.Handler) -> bool:
            os.kill(process.pid, signal.SIGKILL)
            handler.close_connection = handler.silent = True
            return when == "before"

        server.script(call, kill)
        assert process.wait(timeout=60) == -signal.SIGKILL
    run(teacher_for(server.base_url), tmp_path, max_cost=1.0)
    assert all_answered(tmp_path)
    assert sorted(seed for batch in server.batches for seed in batch.seeds) == list(ROWS)
    with Journal(tmp_path / "journal.jsonl", ROWS) as journal:
        assert journal.totals.sum_batch() == Usage(7 * len(ROWS), 5 * len(ROWS))


def test_killed_repeatedly_a_run_pays_nothing_twice(server: BatchServer, tmp_path: Path) -> None:
    begun = time.monotonic()
    with driver(server, tmp_path / "undisturbed") as process:
        (tmp_path / "undisturbed").mkdir()
        process.wait(timeout=60)
    whole = time.monotonic() - begun
    server.paid.clear()
    folder = tmp_path / "killed"
    folder.mkdir()
    for part in range(6):
        with driver(server, folder) as process:
            time.sleep(whole * (0.7 + part * 0.05))
    run(teacher_for(server.base_url), folder, max_cost=1.0)
    assert all_answered(folder)
    assert server.paid == dict.fromkeys(ROWS, 1)


def test_batches_of_another_pass_are_left_alone(server: BatchServer, tmp_path: Path) -> None:
    server.holding = True
    with driver(server, tmp_path) as process:
        wait_until(lambda: asked_about(server))
        process.kill()
        process.wait()
    server.holding = False
    run(teacher_for(server.base_url), tmp_path, range(3), name="second-journal")
    assert len(list_batch_states(tmp_path)) == 3
    assert json.loads(server.files[server.batches[3].told["input_file_id"]].splitlines()[0])["custom_id"] == (
        "second-journal-row-0"
    )
    assert len(records(tmp_path, range(3), "second-journal")) == 3
