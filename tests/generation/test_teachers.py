"""Servers that want another form of request than OpenAI's of 2023, or answer in another one."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from magicoder.runtime.errors import UserError
from magicoder.teacher.errors import RequestRejected
from magicoder.teacher.request_shape import RequestShape, list_adaptations
from tests import chat_server as server_says
from tests.chat_server import Body, ChatServer, Handler, Reply, chat_server
from tests.generation.runs import SEED, Program
from tests.support import read_jsonl

Here = Callable[..., Path]
DOCUMENTS = [f"line_{number} = {number}\n" for number in range(6)]
ANSWER = "[Problem Description]\nAdd.\n\n[Solution]\na + b"


def manifest(out: Path) -> dict[str, Any]:
    return json.loads((out / "manifest.json").read_bytes())


def strict(refuse: Callable[[Body], str | dict | None], status: int = 400) -> Reply:
    """Refuse what `refuse` names, by a message or a whole body; answer everything else."""

    def reply(handler: Handler, body: Body) -> None:
        if (words := refuse(body)) is None:
            server_says.answer()(handler, body)
        else:
            content = words if isinstance(words, dict) else {"error": {"message": words}}
            handler.send(status, json.dumps(content).encode())

    return reply


# --- the form of a request -------------------------------------------------------------------------------------------


def refuse_like_pydantic(body: Body) -> dict | None:
    extra = [name for name in ("seed", "n") if name in body]
    kind = {"type": "extra_forbidden", "msg": "Extra inputs are not permitted", "input": body}
    return {"detail": [{**kind, "loc": ["body", name]} for name in extra]} if extra else None


def refuse_like_google(body: Body) -> dict | None:
    words = 'Invalid JSON payload received. Unknown name "seed": Cannot find field.'
    return {"error": {"code": 400, "message": words}} if "seed" in body else None


def refuse_system(body: Body) -> str | None:
    is_there = any(message["role"] == "system" for message in body["messages"])
    return "Conversation roles must alternate user/assistant/user/assistant/..." if is_there else None


def refuse_limit_without_a_hint(body: Body) -> str | None:
    return "Unrecognized request argument supplied: max_tokens" if "max_tokens" in body else None


@pytest.mark.parametrize(
    ("refuse", "key"),
    [
        (refuse_like_pydantic, "teacher.request.omit=[n,seed]"),
        (refuse_like_google, "teacher.request.omit=[seed]"),
        (refuse_system, "teacher.request.system_role=user"),
        (refuse_limit_without_a_hint, "teacher.request.max_tokens_field=max_completion_tokens"),
    ],
)
def test_what_a_server_refuses_is_left_out_for_the_whole_run(
    here: Here, server: ChatServer, capsys: pytest.CaptureFixture[str], refuse: Callable[[Body], Any], key: str
) -> None:
    server.reply = strict(refuse)
    out = here(DOCUMENTS)
    assert len(read_jsonl(out / "rows.jsonl")) == len(DOCUMENTS)
    assert len(server.requests) == len(DOCUMENTS) + 1, "one refusal"
    notices = [line for line in capsys.readouterr().err.splitlines() if "asked again as with" in line]
    assert len(notices) == 1
    assert key in notices[0]
    path, _, value = key.removeprefix("teacher.request.").partition("=")
    used = manifest(out)["request"][path]
    assert (f"[{','.join(used)}]" if isinstance(used, list) else used) == value


def test_what_was_learned_holds_after_a_kill_and_may_become_a_key(here: Here, server: ChatServer) -> None:
    server.reply = strict(refuse_like_google)
    server.script(-1, server_says.answer(), server_says.error(401, "revoked"))
    with pytest.raises(UserError, match="revoked"):
        here(DOCUMENTS, "teacher.concurrency=1")
    asked = len(server.requests)
    # The key that the notice named is no other config: the directory continues.
    out = here(DOCUMENTS, "teacher.request.omit=[seed]", "teacher.concurrency=1")
    assert len(read_jsonl(out / "rows.jsonl")) == len(DOCUMENTS)
    assert all("seed" not in request.body for request in server.requests[asked:])


@pytest.mark.parametrize(
    ("words", "omitted"),
    [
        ("unknown field `n`, expected one of `model`, `messages`, `temperature`, `seed`", ["n"]),
        ("Unsupported parameter: 'seed'. Supported parameters: n, temperature, max_tokens", ["seed"]),
        ('{"message": "not permitted", "param": "seed"}', ["seed"]),
        ("body -> n\n  Extra inputs are not permitted\nbody -> seed\n  Extra inputs are not permitted", ["n", "seed"]),
        ("The temperature must be below 1", []),
        ("Model acme/seed-coder is not supported", []),
        ("Our moderation system flagged this prompt: not permitted", []),
    ],
)
def test_only_what_a_refusal_names_is_left_out(words: str, omitted: list[str]) -> None:
    body = {"model": "acme/seed-coder", "messages": [{"role": "system", "content": "s"}], "n": 1, "seed": 5}
    body |= {"temperature": 0.0, "max_tokens": 9}
    refusal = RequestRejected("HTTP 400", None, words)
    shapes = list(list_adaptations(RequestShape(), refusal, body))
    assert [list(shape.omit) for shape in shapes] == ([omitted] if omitted else [])


def test_a_server_that_wants_what_it_refuses_is_given_up(here: Here, server: ChatServer) -> None:
    def refuse(body: Body) -> str | None:
        bad = [name for name in ("max_tokens", "max_completion_tokens", "seed") if name in body]
        return f"Unrecognized fields: {bad}. Supported fields: model, messages, max_tokens" if bad else None

    server.reply = strict(refuse)
    with pytest.raises(UserError, match="refuses every request"):
        here(DOCUMENTS, "teacher.concurrency=1")
    assert len(server.requests) < 4 * len(DOCUMENTS)
    assert all({"max_tokens", "max_completion_tokens"} & {*each.body} for each in server.requests), "never without"


def test_a_form_that_did_not_help_is_taken_back(here: Here, server: ChatServer, tmp_path: Path) -> None:
    server.script(SEED, server_says.error(400, "seed is not supported here"), server_says.error(400, "no, not at all"))
    server.script(-1, server_says.error(400, "no, not at all"))
    out = here(DOCUMENTS, "teacher.concurrency=1")
    assert [row["index"] for row in read_jsonl(out / "rejected.jsonl")] == [0]
    assert all("seed" in request.body for request in server.requests[2:])
    assert not (out / "request.json").exists()


def test_a_configured_name_holds_against_what_was_learned(here: Here, server: ChatServer) -> None:
    server.reply = strict(refuse_like_google)
    server.script(-1, server_says.answer(), server_says.error(401, "revoked"))
    with pytest.raises(UserError, match="revoked"):
        here(DOCUMENTS, "teacher.concurrency=1", "teacher.request.system_role=user")
    server.requests.clear()
    here(DOCUMENTS, "teacher.concurrency=1", "teacher.request.system_role=developer")
    assert {message["role"] for request in server.requests for message in request.body["messages"]} == {
        "developer",
        "user",
    }


def test_samples_have_other_seeds_under_another_name(here: Here, server: ChatServer) -> None:
    names = ("teacher.request.seed_field=random_seed", "teacher.temperature=0.5", "data.generate.samples=2")
    here(DOCUMENTS, *names)
    assert len({request.body["random_seed"] for request in server.requests}) == 2 * len(DOCUMENTS)
    assert all("seed" not in request.body for request in server.requests)


def test_a_value_out_of_bounds_is_for_the_user_to_change(here: Here, server: ChatServer) -> None:
    server.reply = strict(lambda body: "temperature: must be between 0 and 1")
    with pytest.raises(UserError, match=r"refuses every request: .*must be between 0 and 1"):
        here(DOCUMENTS, "teacher.temperature=1.5")
    assert all("temperature" in request.body for request in server.requests)


def test_keys_shape_every_request(here: Here, server: ChatServer) -> None:
    here(
        DOCUMENTS,
        "teacher.request.omit=[n,temperature]",
        "teacher.request.max_tokens_field=max_new",
        "teacher.request.system_role=none",
        "+teacher.request.extra_body.reasoning.effort=low",
        "+teacher.request.extra_headers.X-Title=mine",
    )
    for request in server.requests:
        assert {*request.body} == {"model", "messages", "seed", "max_new", "reasoning"}
        assert [message["role"] for message in request.body["messages"]] == ["user"]
        assert request.body["reasoning"] == {"effort": "low"}
        assert request.headers["x-title"] == "mine"


def test_system_message_joins_the_first_message_of_the_user(here: Here, server: ChatServer) -> None:
    here(["x = 1\n"], "teacher.request.system_role=user", "prompt.system=Be kind.", "prompt.user='Look: {code}'")
    (request,) = server.requests
    assert request.body["messages"] == [{"role": "user", "content": "Be kind.\n\nLook: x = 1\n"}]


def test_the_key_goes_into_the_header_that_is_named(here: Here, server: ChatServer) -> None:
    here(["x = 1\n"], "teacher.key_header=api-key")
    (request,) = server.requests
    assert request.headers["api-key"].startswith("sk-")
    assert "authorization" not in request.headers


def test_a_secret_in_a_header_of_the_config_is_refused(program: Program) -> None:
    ended = program.run("+teacher.request.extra_headers.Authorization=Bearer_x")
    assert ended.status == 1
    assert "secret" in ended.only_line
    assert "OPENAI_CUSTOM_HEADERS" in ended.only_line


# --- the first request -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code"), [(401, "invalid_api_key"), (404, "model_not_found"), (404, None), (402, None)]
)
def test_a_mistake_costs_one_request(here: Here, server: ChatServer, status: int, code: str | None) -> None:
    server.reply = server_says.error(status, "no", code)
    with pytest.raises(UserError):
        here([f"a = {number}\n" for number in range(40)], "teacher.concurrency=16")
    assert len(server.requests) == 1


def test_an_address_without_its_version_is_named(here: Here, server: ChatServer) -> None:
    base = server.base_url.removesuffix("/v1")
    with pytest.raises(UserError, match=rf"HTTP 404.*{base}/v1"):
        here(["a = 1\n"], f"teacher.base_url={base}")


@pytest.mark.parametrize("end", ["/", "/chat/completions", "/chat/completions/"])
def test_a_whole_endpoint_is_an_address_too(here: Here, server: ChatServer, end: str) -> None:
    out = here(["a = 1\n"], f"teacher.base_url={server.base_url}{end}")
    assert len(read_jsonl(out / "rows.jsonl")) == 1


def test_variables_of_openai_stay_with_openais_key(program: Program) -> None:
    secrets = {"OPENAI_CUSTOM_HEADERS": "Authorization: Bearer of-openai\nX-Own: 1", "OPENAI_ORG_ID": "org-1"}
    ended = program.run("teacher.api_key_env=OTHER_KEY", OTHER_KEY="key-of-another", **secrets)
    assert ended.status == 0
    (headers, *_) = (request.headers for request in program.server.requests)
    assert headers["authorization"] == "Bearer key-of-another"
    assert not {"openai-organization", "x-own"} & {*headers}


def test_empty_variables_are_none(program: Program) -> None:
    ended = program.run(OPENAI_ORG_ID="", OPENAI_PROJECT_ID=" ", OPENAI_BASE_URL="")
    assert ended.status == 0
    assert not {"openai-organization", "openai-project"} & {*program.server.requests[0].headers}


# --- several servers -------------------------------------------------------------------------------------------------


@pytest.fixture
def second() -> Iterator[ChatServer]:
    with chat_server() as running:
        yield running


def test_servers_share_the_work_as_each_has_capacity(here: Here, server: ChatServer, second: ChatServer) -> None:
    second.reply = server_says.slow(0.2)
    documents = [f"a = {number}\n" for number in range(60)]
    urls = f"teacher.base_url=[{server.base_url},{second.base_url}]"
    out = here(documents, urls, "teacher.concurrency=2")
    assert [row["index"] for row in read_jsonl(out / "rows.jsonl")] == list(range(60))
    assert len(server.requests) > len(second.requests) > 0
    assert len(server.requests) + len(second.requests) == 60


def test_a_server_that_dies_is_dropped_and_no_row_is_lost(
    here: Here, server: ChatServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("magicoder.teacher.engine.FIRST_WAIT", 0.01)
    documents = [f"a = {number}\n" for number in range(60)]
    with chat_server() as dying:

        def die_after_some(handler: Handler, body: Body) -> None:
            if len(dying.requests) < 8:
                server_says.answer()(handler, body)
            else:
                dying.socket.close()
                server_says.no_answer(handler, body)

        dying.reply, server.reply = die_after_some, server_says.slow(0.02)
        out = here(documents, f"teacher.base_url=[{dying.base_url},{server.base_url}]", "teacher.concurrency=2")
    assert [row["index"] for row in read_jsonl(out / "rows.jsonl")] == list(range(60))
    dropped = [line for line in capsys.readouterr().err.splitlines() if "dropped" in line]
    assert len(dropped) == 1
    assert dying.base_url in dropped[0]


def test_a_server_that_was_never_there_is_dropped(
    here: Here, server: ChatServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("magicoder.teacher.engine.SECONDS_TO_FIND_THE_SERVER", 0.6)
    out = here(DOCUMENTS, f"teacher.base_url=[http://127.0.0.1:9/v1,{server.base_url}]", "teacher.concurrency=1")
    assert len(read_jsonl(out / "rows.jsonl")) == len(DOCUMENTS)
    assert "http://127.0.0.1:9/v1" in capsys.readouterr().err


def both(server: ChatServer, second: ChatServer) -> str:
    return f"teacher.base_url=[{server.base_url},{second.base_url}]"


@pytest.mark.parametrize(
    "reply",
    [
        server_says.error(400, "This model's maximum context length is 100 tokens"),
        server_says.error(400, "Model is not loaded on this replica"),
        server_says.error(403, "not you"),
        server_says.error(401, "who are you"),
        server_says.error(404, "no such model", "model_not_found"),
        server_says.error(500, "broken"),
        server_says.error(429, "never", Retry_After="7200"),
    ],
)
def test_a_server_of_no_use_costs_no_row(
    here: Here, server: ChatServer, second: ChatServer, monkeypatch: pytest.MonkeyPatch, reply: Reply
) -> None:
    monkeypatch.setattr("magicoder.teacher.engine.FIRST_WAIT", 0.01)
    server.reply, second.reply = reply, server_says.slow(0.05)
    out = here(
        [f"a = {n}\n" for n in range(30)], both(server, second), "teacher.concurrency=2", "teacher.max_attempts=2"
    )
    assert len(read_jsonl(out / "rows.jsonl")) == 30
    assert set(second.counts().values()) == {1}
    assert len(server.requests) <= 6


def test_a_server_that_pauses_holds_no_row(here: Here, server: ChatServer, second: ChatServer) -> None:
    server.reply = server_says.error(429, "later", Retry_After="30")
    began = time.monotonic()
    budget = ("teacher.max_cost=1", "teacher.price={input: 1.0, output: 1.0}")
    out = here(DOCUMENTS, both(server, second), "teacher.concurrency=1", *budget)
    assert len(read_jsonl(out / "rows.jsonl")) == len(DOCUMENTS)
    assert time.monotonic() - began < 15


def test_a_row_that_one_server_refuses_is_asked_at_another(here: Here, server: ChatServer, second: ChatServer) -> None:
    server.script(SEED + 2, server_says.error(400, "maximum context length is 5"))
    second.script(SEED + 3, server_says.error(400, "maximum context length is 5"))
    for each in (server, second):
        each.script(SEED + 4, *[server_says.error(400, "not with anybody")] * 2)
        each.reply = server_says.slow(0.02)
    out = here([f"a = {n}\n" for n in range(12)], both(server, second), "teacher.concurrency=1")
    assert [row["index"] for row in read_jsonl(out / "rejected.jsonl")] == [4]


def test_each_server_has_a_form_of_its_own(here: Here, server: ChatServer, second: ChatServer) -> None:
    def refuse_new(body: Body) -> str | None:
        return "max_completion_tokens: Extra inputs are not permitted" if "max_completion_tokens" in body else None

    server.reply, second.reply = strict(refuse_limit_without_a_hint), strict(refuse_new)
    out = here([f"a = {n}\n" for n in range(12)], both(server, second), "teacher.concurrency=1")
    assert len(read_jsonl(out / "rows.jsonl")) == 12
    used = manifest(out)["request"]
    fields = [used[each.base_url]["max_tokens_field"] for each in (server, second)]
    assert fields == ["max_completion_tokens", "max_tokens"]


# --- answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "text", "text": ANSWER[:20]}, {"type": "output_text", "text": ANSWER[20:]}],
        [{"type": "reasoning", "summary": [{"text": "[Problem Description] hm"}]}, {"type": "text", "text": ANSWER}],
        [ANSWER],
    ],
)
def test_text_parts_are_the_answer(here: Here, server: ChatServer, content: list) -> None:
    server.reply = server_says.answer(content=content)
    (row,) = read_jsonl(here(["a = 1\n"]) / "rows.jsonl")
    assert (row["problem"], row["solution"]) == ("Add.", "a + b")
    assert row.get("reasoning", "") in ("", "[Problem Description] hm")


@pytest.mark.parametrize("word", ["eos", "end_turn", "STOP", "stop_sequence", "complete"])
def test_any_other_word_is_the_models_own_end(here: Here, server: ChatServer, word: str) -> None:
    server.reply = server_says.answer(finish_reason=word)
    out = here(["a = 1\n"])
    assert len(read_jsonl(out / "rows.jsonl")) == 1
    assert word in (out / "report.html").read_text()


@pytest.mark.parametrize(
    ("word", "end"),
    [("MAX_TOKENS", "length"), ("model_length", "length"), ("SAFETY", "content_filter"), ("tool_use", "tool_calls")],
)
def test_other_words_for_known_ends_are_known(here: Here, server: ChatServer, word: str, end: str) -> None:
    server.script(SEED, server_says.answer(finish_reason=word))
    out = here(DOCUMENTS)
    assert [row["reason"] for row in read_jsonl(out / "rejected.jsonl")] == [f"finish_reason {end}"]


USAGE = {"prompt_tokens": 50, "completion_tokens": 2500}


@pytest.mark.parametrize(
    "body",
    [
        {"choices": None, "usage": USAGE},
        {"choices": [], "usage": USAGE},
        {"choices": [{"message": None, "finish_reason": "length"}]},
        {"choices": [{"index": 0, "finish_reason": "length"}], "usage": None},
        {"choices": [{"index": 0, "finish_reason": None}], "usage": USAGE},
    ],
    ids=str,
)
def test_what_was_charged_is_not_asked_again(here: Here, server: ChatServer, body: dict) -> None:
    server.script(SEED + 1, server_says.raw(json.dumps(body).encode()))
    out = here(DOCUMENTS)
    assert server.counts()[SEED + 1] == 1
    assert [row["index"] for row in read_jsonl(out / "rejected.jsonl")] == [1]
    assert len(read_jsonl(out / "rows.jsonl")) == len(DOCUMENTS) - 1


@pytest.mark.parametrize(
    "whole",
    [
        {"error": {"code": 503, "message": "upstream is full"}},
        {"error": {"code": "server_error", "message": "upstream is full"}, "choices": []},
        {"error": "upstream is full", "choices": None, "usage": USAGE},
        {
            "choices": [
                {"message": {"content": "half"}, "finish_reason": "stop", "error": {"code": 502, "message": "x"}}
            ]
        },
        {"choices": [{"message": {"content": "half"}, "finish_reason": "network_error"}]},
    ],
    ids=str,
)
def test_an_error_inside_a_success_is_asked_again(
    here: Here, server: ChatServer, monkeypatch: pytest.MonkeyPatch, whole: dict
) -> None:
    monkeypatch.setattr("magicoder.teacher.engine.FIRST_WAIT", 0.01)
    server.script(SEED + 1, *[server_says.raw(json.dumps(whole).encode())] * 2)
    out = here(DOCUMENTS)
    assert len(read_jsonl(out / "rows.jsonl")) == len(DOCUMENTS)
    assert server.counts()[SEED + 1] == 3


@pytest.mark.parametrize("empty", [{}, {"message": "", "type": "", "code": None}, "", None], ids=str)
def test_an_empty_error_beside_an_answer_is_none(here: Here, server: ChatServer, empty: Any) -> None:
    server.reply = server_says.answer(error=empty)
    assert len(read_jsonl(here(DOCUMENTS) / "rows.jsonl")) == len(DOCUMENTS)
    assert set(server.counts().values()) == {1}


def test_a_refusal_inside_a_success_is_a_refusal(here: Here, server: ChatServer) -> None:
    whole = {"error": {"message": "too long", "type": "invalid_request_error", "code": "context_length_exceeded"}}
    server.script(SEED + 1, server_says.raw(json.dumps(whole).encode()))
    out = here(DOCUMENTS)
    assert [row["reason"] for row in read_jsonl(out / "rejected.jsonl")] == ["longer than the context of the model"]


def test_a_rate_limit_inside_a_success_costs_no_attempt(
    here: Here, server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("magicoder.teacher.rate_limits.FIRST_PAUSE", 0.01)
    limited = server_says.raw(b'{"error": {"code": "rate_limit_exceeded", "message": "slowly"}}')
    server.script(SEED, *[limited] * 4)
    out = here(DOCUMENTS, "teacher.max_attempts=1")
    assert len(read_jsonl(out / "rows.jsonl")) == len(DOCUMENTS)


def test_a_wrong_key_inside_a_success_ends_the_run_with_its_words(here: Here, server: ChatServer) -> None:
    server.reply = server_says.raw(b'{"error": {"code": 401, "message": "who are you?"}}')
    with pytest.raises(UserError, match="HTTP 401: who are you"):
        here(DOCUMENTS)
    assert len(server.requests) == 1


def test_thoughts_are_kept_apart(here: Here, server: ChatServer) -> None:
    server.script(SEED, server_says.answer(content=f"[Problem Description]? [Solution]?</think>\n{ANSWER}"))
    server.script(SEED + 1, server_says.answer(content=f"{{thinks}}[Solution]?{{/thinks}}{ANSWER}"))
    message = {"role": "assistant", "content": ANSWER, "reasoning_content": "Hm. [Solution]"}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    server.script(SEED + 2, server_says.answer(choices=[choice]))
    rows = read_jsonl(here(DOCUMENTS[:3], "teacher.thoughts=['<think> </think>','{thinks} {/thinks}']") / "rows.jsonl")
    assert [(row["problem"], row["solution"]) for row in rows] == [("Add.", "a + b")] * 3
    assert [row["reasoning"] for row in rows] == ["[Problem Description]? [Solution]?", "[Solution]?", "Hm. [Solution]"]


# --- limits ----------------------------------------------------------------------------------------------------------


def test_a_context_smaller_than_configured_stops_the_run_and_is_revised(here: Here, server: ChatServer) -> None:
    def refuse(body: Body) -> str | None:
        is_too_long = body["max_tokens"] > 1000
        return "This model's maximum context length is 1024 tokens." if is_too_long else None

    server.reply = strict(refuse)
    with pytest.raises(UserError, match=r"teacher\.model_max_tokens.*teacher\.max_new_tokens"):
        here(DOCUMENTS)
    out = here(DOCUMENTS, "teacher.max_new_tokens=500")
    assert len(read_jsonl(out / "rows.jsonl")) == len(DOCUMENTS)


def test_rows_refused_for_length_are_asked_again_for_less(here: Here, server: ChatServer) -> None:
    server.script(SEED + 1, server_says.error(400, "maximum context length exceeded"))
    out = here(DOCUMENTS, "teacher.concurrency=1")
    assert [row["reason"] for row in read_jsonl(out / "rejected.jsonl")] == ["longer than the context of the model"]
    out = here(DOCUMENTS, "teacher.max_new_tokens=500", "teacher.concurrency=1")
    assert len(read_jsonl(out / "rows.jsonl")) == len(DOCUMENTS)
    assert len(server.requests) == len(DOCUMENTS) + 1


def test_a_request_larger_than_the_accounts_limit_holds_up_nobody(here: Here, server: ChatServer) -> None:
    words = "Request too large for gpt on tokens per min (TPM): Limit 1000, Requested 2600."
    server.script(SEED + 1, server_says.error(429, words, "rate_limit_exceeded", Retry_After="50"))
    out = here(DOCUMENTS)
    assert [row["reason"] for row in read_jsonl(out / "rejected.jsonl")] == ["larger than the limit of the account"]
    assert len(server.requests) == len(DOCUMENTS)


def test_nothing_but_429_is_said_and_ends_after_the_bound(
    here: Here, server: ChatServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("magicoder.teacher.engine.SECONDS_BETWEEN_LOOKS", 0.2)
    monkeypatch.setattr("magicoder.teacher.rate_limits.LEAST_WAIT", 0.3)
    server.reply = server_says.error(429, "allowance of zero")
    with pytest.raises(UserError, match=r"teacher\.max_wait.*allowance of zero"):
        here(DOCUMENTS, "teacher.max_wait=1")
    lines = [line for line in capsys.readouterr().err.splitlines() if "allowance of zero" in line]
    assert len(lines) == 1, "once a minute"
    assert "all requests wait" in lines[0]


# --- evidence --------------------------------------------------------------------------------------------------------


def test_a_preview_shows_answers_in_full_and_pays_them_once(
    here: Here, server: ChatServer, capsys: pytest.CaptureFixture[str]
) -> None:
    out = here(DOCUMENTS, "preview=2")
    shown = capsys.readouterr().out
    assert shown.count("[Problem Description]") == 2
    assert "would be kept" in shown
    assert len(server.requests) == 2
    here(DOCUMENTS, "preview=2")
    assert capsys.readouterr().out.count("[Problem Description]") == 2
    assert len(server.requests) == 2, "looking again is free"
    assert not (out / "manifest.json").exists()
    here(DOCUMENTS)
    assert set(server.counts().values()) == {1}
    assert len(read_jsonl(out / "rows.jsonl")) == len(DOCUMENTS)


def test_an_unfinished_run_leaves_what_it_has(here: Here, server: ChatServer, tmp_path: Path) -> None:
    server.script(SEED + 3, server_says.error(500))
    with pytest.raises(UserError, match="row 3: "):
        here(DOCUMENTS, "teacher.max_attempts=1")
    out = tmp_path / "made"
    assert [row["index"] for row in read_jsonl(out / "rows.jsonl")] == [0, 1, 2, 4, 5]
    assert "unfinished" in (out / "report.html").read_text()
    assert not (out / "manifest.json").exists()
    here(DOCUMENTS)
    assert len(read_jsonl(out / "rows.jsonl")) == len(DOCUMENTS)
    assert "unfinished" not in (out / "report.html").read_text().split("</style>")[-1].split("<script")[0]


def test_samples_are_answers_to_the_same_snippet_and_more_may_be_asked_later(here: Here, server: ChatServer) -> None:
    here(DOCUMENTS, "data.generate.samples=2", "teacher.temperature=0.7")
    out = here(DOCUMENTS, "data.generate.samples=3", "teacher.temperature=0.7")
    rows = read_jsonl(out / "rows.jsonl")
    assert [(row["index"], row["sample"]) for row in rows] == [(i, s) for i in range(6) for s in (1, 2, 3)]
    assert len({row["problem"] for row in rows}) == 18
    assert len(server.requests) == 18
    assert manifest(out)["counts"]["in"] == 18


def test_a_journal_that_cannot_be_read_leaves_former_rows_alone(here: Here, server: ChatServer) -> None:
    out = here(DOCUMENTS, "data.generate.samples=2", "teacher.temperature=0.7")
    rows = (out / "rows.jsonl").read_bytes()
    (out / "journal-sample-2.jsonl").write_text("spoilt\n")
    with pytest.raises(UserError, match="not a journal"):
        here(DOCUMENTS, "data.generate.samples=3", "teacher.temperature=0.7")
    assert (out / "rows.jsonl").read_bytes() == rows


def test_a_wrong_key_leaves_no_rows(here: Here, server: ChatServer, tmp_path: Path) -> None:
    server.reply = server_says.error(401, "who are you")
    with pytest.raises(UserError, match="who are you"):
        here(DOCUMENTS)
    assert not (tmp_path / "made" / "rows.jsonl").exists()


def test_samples_at_temperature_zero_are_refused(program: Program) -> None:
    ended = program.run("data.generate.samples=2")
    assert ended.status == 1
    assert "teacher.temperature" in ended.only_line


def test_a_run_that_keeps_nothing_exits_with_1_also_the_next_time(program: Program) -> None:
    program.server.reply = server_says.answer(content="I would rather not.")
    for _ in range(2):
        ended = program.run()
        assert ended.status == 1
        assert "kept none of" in ended.only_line
