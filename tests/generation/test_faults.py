"""Faults of the server that pass, and faults that stay."""

import contextlib
import json
import random
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path

import pytest

from magicoder.runtime.errors import UserError
from tests import chat_server as server_says
from tests.chat_server import ChatServer, Reply
from tests.generation.runs import COUNT, SECRET, SEED, Program
from tests.support import read_jsonl


def test_passing_faults_leave_no_trace_in_the_result(program: Program, undisturbed: Program) -> None:
    faults = [
        server_says.error(429, "slow down", "rate_limit_exceeded", Retry_After="2"),
        server_says.error(429, "slow down", "rate_limit_exceeded"),
        server_says.error(500),
        server_says.error(503, Retry_After="soon"),
        server_says.no_answer,
        server_says.reset_in_body,
        server_says.raw(b"<html>bad gateway</html>"),
        server_says.raw(b""),
        server_says.raw(b'{"choices": []}'),
        server_says.hang,
    ]
    for index, fault in enumerate(faults):
        program.server.script(SEED + index, fault, fault)
    assert program.run("teacher.concurrency=16", "teacher.timeout=2").status == 0
    assert program.result() == undisturbed.result()

    counts = program.server.counts()
    assert all(counts[SEED + index] >= 3 for index in range(len(faults)))
    first, second, third = (request.time for request in program.server.requests if request.seed == SEED)
    assert second - first >= 2
    assert third - second >= 2


def test_attempt_times_out_though_blanks_keep_arriving(program: Program, undisturbed: Program) -> None:
    program.server.script(SEED, server_says.drip)
    assert program.run("teacher.timeout=2").status == 0
    assert program.result() == undisturbed.result()
    first, second = (request.time for request in program.server.requests if request.seed == SEED)
    assert second - first < 8, "teacher.timeout is of one try, not of one packet"


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (server_says.error(401, "Incorrect API key: {authorization}", "invalid_api_key"), "OPENAI_API_KEY"),
        (server_says.error(404, "The model `gpt` does not exist", "model_not_found"), "does not exist"),
        (server_says.error(429, "You exceeded your quota", "insufficient_quota", Retry_After="1"), "quota"),
    ],
    ids=["wrong key", "unknown model", "no quota"],
)
def test_permanent_failure_stops_at_once_and_keeps_answers(program: Program, fault: Reply, words: str) -> None:
    for index in range(6, COUNT):
        program.server.script(SEED + index, fault)
    stopped = program.run("teacher.concurrency=3")
    assert stopped.status == 1
    assert stopped.only_line.startswith("error: ")
    assert words in stopped.only_line
    assert program.journalled() == set(range(6))
    assert set(program.server.counts().values()) == {1}, "nothing is tried again"
    assert len(program.server.requests) <= 6 + 3


def test_a_wrong_model_is_corrected_in_the_same_directory(program: Program) -> None:
    """Nothing was answered and nothing billed, so there is nothing to protect from another config."""
    program.server.reply = server_says.error(404, "The model `gtp` does not exist", "model_not_found")
    assert program.run("teacher.model=gpt-4-turbo").status == 1
    program.server.reply = server_says.answer()
    assert program.run("teacher.model=gpt-4").status == 0
    assert len(program.result()[0].splitlines()) > 0


@pytest.mark.parametrize("status", [402, 404, 405, 410, 451])
def test_a_status_about_every_request_stops_the_run_at_once(
    here: Callable[..., Path], server: ChatServer, status: int
) -> None:
    server.reply = server_says.error(status, "no more of this")
    with pytest.raises(UserError, match=f"HTTP {status}: no more of this") as raised:
        here(["a\n", "b\n"], "teacher.concurrency=1")
    assert "\n" not in str(raised.value)
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_status_about_one_request_costs_one_row(here: Callable[..., Path], server: ChatServer, status: int) -> None:
    server.script(SEED, server_says.error(status, "not this one"))
    out = here(["a\n", "b\n"])
    (refused,) = read_jsonl(out / "rejected.jsonl")
    assert (refused["index"], refused["reason"]) == (0, "refused by the server")
    assert refused["evidence"].endswith(f"HTTP {status}: not this one")
    assert server.counts()[SEED] == 1


def test_statuses_and_dates_that_pass_are_tried_again(here: Callable[..., Path], server: ChatServer) -> None:
    for index, status in enumerate((408, 409, 425, 429, 500, 599)):
        server.script(SEED + index, server_says.error(status, Retry_After="0"))
    # A date that is past means now, one that no calendar holds means nothing.
    server.script(SEED + 6, server_says.error(503, Retry_After="Thu, 01 Jan 1970 00:00:00 GMT"))
    server.script(SEED + 7, server_says.error(503, Retry_After=f"Mon, 01 Jan {'9' * 30} 00:00:00 GMT"))
    begun = time.monotonic()
    out = here([f"line {number}\n" for number in range(8)])
    assert time.monotonic() - begun < 20
    assert len(read_jsonl(out / "rows.jsonl")) == 8
    assert set(server.counts().values()) == {2}


@pytest.mark.parametrize(
    "wait", ["3700", formatdate(time.time() + 90_000, usegmt=True)], ids=["of seconds", "until a date"]
)
def test_wait_of_over_an_hour_ends_the_run_with_its_length(
    here: Callable[..., Path], server: ChatServer, wait: str
) -> None:
    # A quota of the day: nobody wants to find the program asleep, or his answers lost.
    server.script(SEED + 1, server_says.error(429, "come back later", Retry_After=wait))
    with pytest.raises(UserError, match=r"come back later; it asks to wait (3700|8\d{4}|9000\d) s") as raised:
        here(["a\n", "b\n", "c\n"], "teacher.concurrency=1")
    assert "\n" not in str(raised.value)
    assert [request.seed for request in server.requests] == [SEED, SEED + 1]


def test_key_echoed_in_a_refusal_is_masked(program: Program) -> None:
    program.server.script(SEED + 4, server_says.error(400, "bad row, sent with {authorization}"))
    assert program.run("teacher.concurrency=1").status == 0
    reasons = {row.get("index"): row["reason"] for row in read_jsonl(program.out / "rejected.jsonl")}
    assert reasons[4] == "refused by the server"


def test_failing_row_blocks_no_other_and_is_retried_next_run(program: Program, undisturbed: Program) -> None:
    program = replace(program, code=Path(shutil.copytree(program.code, program.place / "code")))
    broken = server_says.error(500, "still broken")
    program.server.script(SEED + 5, broken, broken)
    stopped = program.run("teacher.concurrency=2", "teacher.max_attempts=2")
    assert stopped.status == 1
    assert "2 attempts" in stopped.only_line
    assert "still broken" in stopped.only_line
    assert "row 5: " in stopped.only_line
    assert {SEED + index for index in program.journalled()} == set(program.server.counts()) - {SEED + 5}
    assert len(program.server.counts()) == COUNT - 1, "one has no room, and is not asked"

    # The corpus has changed meanwhile: a run finishes with the snippets that it drew at its beginning.
    (program.code / "a_first.py").write_text("new = 1\n")
    assert program.run("teacher.concurrency=2", "teacher.max_attempts=2").status == 0
    assert program.result() == undisturbed.result()
    once = {request.seed: 1 for request in undisturbed.server.requests}
    assert program.server.counts() == {**once, SEED + 5: 3}


def test_failing_row_is_rejected_if_the_config_says_so(here: Callable[..., Path], server: ChatServer) -> None:
    server.script(SEED + 2, *[server_says.raw(b"{}")] * 2)
    out = here(["a\n", "b\n", "c\n"], "teacher.max_attempts=2", "teacher.reject_failed_rows=true")
    (row,) = read_jsonl(out / "rejected.jsonl")
    assert (row["index"], row["reason"]) == (2, "no answer from the server")
    assert "no answer after 2 attempts: not a chat completion" in row["evidence"]


@pytest.mark.parametrize("give_up", ["true", "false"])
def test_silent_server_ends_the_run_without_losing_a_row(
    here: Callable[..., Path], server: ChatServer, give_up: str
) -> None:
    documents = [f"line {number}\n" for number in range(40)]
    here_is = ("teacher.max_attempts=1", f"teacher.reject_failed_rows={give_up}", "teacher.concurrency=4")
    server.script(SEED, server_says.answer())
    server.reply = server_says.error(502, "bad gateway")
    with pytest.raises(UserError, match=r"HTTP 502: bad gateway; .* left without an answer"):
        here(documents, *here_is)
    assert len(server.requests) < 20
    server.reply = server_says.answer()
    assert len(read_jsonl(here(documents, *here_is) / "rows.jsonl")) == 40


def test_rows_that_always_fail_are_finally_rejected(here: Callable[..., Path], server: ChatServer) -> None:
    documents = [f"line {number}\n" for number in range(30)]
    for index in range(12):
        server.script(SEED + index, *[server_says.error(500, "cannot")] * 20)
    arguments = ("teacher.max_attempts=1", "teacher.concurrency=2", "teacher.reject_failed_rows=true")
    server.script(SEED + 12, server_says.answer())
    for _ in range(3):
        with contextlib.suppress(UserError):
            here(documents, *arguments)
    out = here(documents, *arguments)
    rejected = read_jsonl(out / "rejected.jsonl")
    assert [row["index"] for row in rejected] == list(range(12))
    assert {row["reason"] for row in rejected} == {"no answer from the server"}
    assert len(read_jsonl(out / "rows.jsonl")) == 18


def test_total_refusal_that_begins_midway_costs_no_row(here: Callable[..., Path], server: ChatServer) -> None:
    # A proxy's budget is spent: some tell that by status 400.
    documents = [f"line {number}\n" for number in range(40)]
    for index in range(5):
        server.script(SEED + index, server_says.answer())
    server.reply = server_says.error(400, "Budget has been exceeded")
    for _ in range(2):
        with pytest.raises(UserError, match=r"Budget has been exceeded; \d+ rows are left without an answer"):
            here(documents, "teacher.concurrency=1")
    server.reply = server_says.answer()
    assert len(read_jsonl(here(documents, "teacher.concurrency=1") / "rows.jsonl")) == 40


def test_rows_too_long_for_the_server_are_rejected(here: Callable[..., Path], server: ChatServer) -> None:
    # vLLM sends words and no code.
    told = server_says.error(400, "This model's maximum context length is 4096 tokens. However, ...")
    for index in range(1, 11):
        server.script(SEED + index, told)
    out = here([f"line {number}\n" for number in range(12)], "teacher.concurrency=1")
    reasons = [row["reason"] for row in read_jsonl(out / "rejected.jsonl")]
    assert reasons == ["longer than the context of the model"] * 10


def test_one_throttled_row_does_not_stop_the_others(
    here: Callable[..., Path], server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for wait in ("engine.FIRST_WAIT", "rate_limits.FIRST_PAUSE"):
        monkeypatch.setattr(f"magicoder.teacher.{wait}", 0.01)
    server.script(SEED + 1, *[server_says.error(429, "not this one")] * 100)
    server.reply = server_says.slow(0.02)
    with pytest.raises(UserError, match=r"row 1: .*not this one"):
        here([f"line {number}\n" for number in range(200)], "teacher.concurrency=8", "teacher.max_attempts=2")
    assert len(server.counts()) == 200
    assert server.counts()[SEED + 1] < 20


@pytest.mark.parametrize("give_up", ["true", "false"])
def test_a_key_echoed_in_what_is_no_completion_shows_nowhere(program: Program, give_up: str) -> None:
    program.server.script(SEED + 3, *[server_says.raw(f"you sent Bearer {SECRET}".encode())] * 2)
    ended = program.run("teacher.max_attempts=1", f"teacher.reject_failed_rows={give_up}")
    assert ended.status == (0 if give_up == "true" else 1)


def test_forbidden_row_costs_that_row_alone(here: Callable[..., Path], server: ChatServer) -> None:
    # A firewall in front of the server that dislikes a snippet says 403 too.
    forbidden = server_says.error(403, "blocked")
    server.script(SEED + 1, forbidden, forbidden, forbidden)
    with pytest.raises(UserError, match=r"row 1: .*HTTP 403: blocked"):
        here(["a\n", "b\n", "c\n"], "teacher.concurrency=1")
    assert server.counts() == {SEED: 1, SEED + 1: 1, SEED + 2: 1}
    with pytest.raises(UserError, match=r"row 1: .*HTTP 403: blocked; is the key in OPENAI_API_KEY right"):
        here(["a\n", "b\n", "c\n"], "teacher.concurrency=1")
    out = here(["a\n", "b\n", "c\n"], "teacher.concurrency=1", "teacher.reject_failed_rows=true")
    assert [row["index"] for row in read_jsonl(out / "rejected.jsonl")] == [1]


def test_a_redirect_is_told_and_not_followed(here: Callable[..., Path], server: ChatServer) -> None:
    server.reply = server_says.error(308, "moved", Location=f"{server.base_url}/elsewhere")
    with pytest.raises(UserError, match=r"HTTP 308: moved; teacher.base_url is at http://127.0.0.1:\d+/v1/elsewhere"):
        here(["a\n"])
    assert len(server.requests) == 1


def test_odd_finish_reasons_and_usage_do_not_stop_a_run(here: Callable[..., Path], server: ChatServer) -> None:
    hostile = "[/bold]\ud800" + "x" * 300  # no end that we know: the model's own
    server.script(SEED, server_says.answer(finish_reason=hostile))
    server.script(SEED + 1, server_says.answer(usage={"prompt_tokens": 10**400, "completion_tokens": 1}))
    out = here(["a\n", "b\n", "c\n"], "teacher.max_new_tokens=100", "teacher.model_max_tokens=300")
    assert [row["index"] for row in read_jsonl(out / "rows.jsonl")] == [0, 1, 2]
    assert json.loads((out / "manifest.json").read_bytes())["usage"]["prompt_tokens"] < 10_000


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "ftp://me:sk-of-the-proxy@127.0.0.1:9", "http://[::1"])
def test_unusable_proxy_is_one_line_without_the_password(program: Program, proxy: str) -> None:
    ended = program.run(HTTP_PROXY=proxy, NO_PROXY="")
    assert ended.status == 1
    assert ended.only_line == "error: http_proxy: only a proxy of the form http://HOST:PORT can be used"
    ended = program.run(ALL_PROXY=proxy, NO_PROXY="", HTTPS_PROXY="")
    assert ended.only_line == "error: all_proxy: only a proxy of the form http://HOST:PORT can be used"


def test_a_proxy_is_asked_with_its_password_which_shows_nowhere(program: Program) -> None:
    # Nothing listens there. `host:port` alone is a form that many environments have.
    for proxy in (f"http://me:{SECRET}@127.0.0.1:9", "127.0.0.1:9"):
        ended = program.run("teacher.max_attempts=1", HTTP_PROXY=proxy, NO_PROXY="")
        assert ended.status == 1
        assert "127.0.0.1:9" in ended.stderr
    assert program.server.requests == []
    program.run(HTTP_PROXY="127.0.0.1:9", NO_PROXY=program.server.base_url.split("/")[2])
    assert program.server.requests


@pytest.mark.parametrize("url", ["http://a..b/v1", "http://127.0.0.1/v1#x", "http://127.0.0.1/v1/completions"])
def test_unusable_address_is_reported_before_asking(program: Program, url: str) -> None:
    ended = program.run(f"teacher.base_url='{url}'")
    assert ended.status == 1
    assert ended.only_line.startswith("error: teacher.base_url: ")


def test_unusable_header_environment_is_one_line(program: Program) -> None:
    ended = program.run(OPENAI_ORG_ID="org\nline")
    assert ended.status == 1
    assert ended.only_line == "error: OpenAI-Organization: holds characters that no header can have"


def test_a_server_that_is_not_there_is_named(program: Program) -> None:
    began = time.monotonic()
    ended = program.run("teacher.base_url=http://127.0.0.1:9/v1")
    assert ended.status == 1
    notice, error = ended.stderr.splitlines()
    assert notice == "http://127.0.0.1:9/v1: cannot connect to 127.0.0.1:9: Connection refused; trying for 8 s"
    assert error.startswith("error: http://127.0.0.1:9/v1: no answer after ")
    assert "is the server running, and teacher.base_url right?" in error
    assert time.monotonic() - began < 15


@pytest.mark.parametrize(
    ("scheme", "user", "words"),
    [("http", f"me:{SECRET}@", "no user name or password"), ("ftp", "", "http://"), ("", "", "http://")],
)
@pytest.mark.parametrize("place", ["teacher.base_url", "OPENAI_BASE_URL"])
def test_password_or_scheme_in_address_is_refused(
    program: Program, place: str, scheme: str, user: str, words: str
) -> None:
    # A password in it would reach the manifest and every message.
    address = program.server.base_url.removeprefix("http://")
    url = f"{scheme}://{user}{address}" if scheme else address
    if place == "OPENAI_BASE_URL":
        ended = program.run("teacher.base_url=null", OPENAI_BASE_URL=url)
    else:
        ended = program.run(f"teacher.base_url={url}")
    assert ended.status == 1
    assert ended.only_line.startswith(f"error: {place}: ")
    assert words in ended.only_line
    assert program.server.requests == []
    assert not program.out.exists()


def test_the_address_in_the_environment_is_where_requests_go(program: Program, undisturbed: Program) -> None:
    assert program.run("teacher.base_url=null", OPENAI_BASE_URL=program.server.base_url).status == 0
    assert program.result() == undisturbed.result()


@pytest.mark.parametrize("key", ["two words", "line\nend", "pasted-key\n", "\u00e9t\u00e9", "tab\t"], ids=ascii)
def test_malformed_key_is_reported_before_asking(program: Program, key: str) -> None:
    # HTTP's own words about such a header show the key.
    ended = program.run(OPENAI_API_KEY=key)
    assert ended.status == 1
    assert ended.only_line.startswith("error: teacher.api_key_env: OPENAI_API_KEY holds ")
    assert key.strip() not in ended.only_line
    assert program.server.requests == []
    assert not program.out.exists()


def test_server_refusing_everything_stops_the_run(program: Program) -> None:
    program.server.reply = server_says.error(400, "unknown parameter: logit_bias")
    ended = program.run("teacher.concurrency=4")
    assert ended.status == 1
    assert "unknown parameter: logit_bias" in ended.only_line
    assert len(program.server.requests) < COUNT
    assert program.journalled() == set()


def test_huge_answer_fills_no_memory_and_is_retried(program: Program, undisturbed: Program) -> None:
    program.server.script(SEED + 2, server_says.endless(100))
    process = program.start()
    peak = 0
    while process.poll() is None:
        peak = max(peak, memory_of(process.pid))
        time.sleep(0.01)
    assert program.ended(process).status == 0
    assert program.result() == undisturbed.result()
    assert peak < 200
    assert program.server.counts()[SEED + 2] == 2


def memory_of(process_id: int) -> int:
    """Megabytes that a process has in memory; 0 once it has ended."""
    try:
        status = Path(f"/proc/{process_id}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) // 1024 for line in status.splitlines() if line.startswith("VmRSS")), 0)


@pytest.mark.long
def test_a_server_that_is_faulty_at_random_costs_time_and_no_row(program: Program, undisturbed: Program) -> None:
    chance = random.Random(11)
    faults = [
        server_says.error(429, "slow down"),
        server_says.error(500),
        server_says.reset_in_body,
        server_says.raw(b'{"choices": [{"message": {"con'),
        server_says.raw(b'{"choices": []}'),
    ]
    lock = threading.Lock()

    def reply(handler: server_says.Handler, body: server_says.Body) -> None:
        with lock:
            fault = chance.choice(faults) if chance.random() < 0.25 else server_says.answer()
        fault(handler, body)

    program.server.reply = reply
    assert program.run("teacher.concurrency=16").status == 0
    assert program.result() == undisturbed.result()
