"""What is made of single answers and faults; whole runs against a faulty server are in test_generate."""

import json
from email.utils import formatdate
from time import time

import pytest

from magicoder.teacher.api_key import Key
from magicoder.teacher.completions import parse_completion
from magicoder.teacher.engine import MAX_WAIT, compute_backoff
from magicoder.teacher.errors import (
    TransientError,
    classify_response,
    extract_message,
    parse_retry_after,
)
from tests.chat_server import completion

NO_KEY, PLACE = Key(None), "http://server/v1"


def test_backoff_doubles_to_a_minute_with_jitter() -> None:
    for attempt, base in ((1, 0.5), (2, 1.0), (3, 2.0), (7, 32.0), (8, MAX_WAIT), (2000, MAX_WAIT)):
        waits = {compute_backoff(attempt) for _ in range(50)}
        assert len(waits) > 40
        assert all(0.75 * base <= wait <= 1.25 * base for wait in waits)


@pytest.mark.parametrize(("header", "seconds"), [("0", 0), ("2", 2), (" 1.5 ", 1.5), ("3601", 3601)])
def test_retry_after_in_seconds_is_understood_however_long(header: str, seconds: float) -> None:
    assert parse_retry_after(header) == seconds


@pytest.mark.parametrize("header", [None, "", "soon", "-1", "nan", "inf", "1e400", "9" * 5000, "٣ apples"])
def test_meaningless_retry_after_leaves_the_wait_to_backoff(header: str | None) -> None:
    assert parse_retry_after(header) is None


def test_retry_after_may_be_a_date() -> None:
    assert parse_retry_after(formatdate(time() + 30, usegmt=True)) == pytest.approx(30, abs=3)
    assert parse_retry_after("Mon, 32 Foo 2024 25:00:00 GMT") is None


def test_past_date_means_now_and_an_impossible_one_nothing() -> None:
    assert parse_retry_after(formatdate(time() - 5, usegmt=True)) == 0
    assert parse_retry_after("Thu, 01 Jan 1970 00:00:00 GMT") == 0
    for header in (f"Mon, 01 Jan {'9' * 30} 00:00:00 GMT", "Mon, 01 Jan 2024 00:00:00 +9999999999999999"):
        assert parse_retry_after(header) is None


def test_key_echoed_in_escaped_json_is_masked() -> None:
    key = Key("OPENAI_API_KEY", "sk-with/a/slash")
    content = rb'{"error": {"message": "no sk-with\/a\/slash", "code": "sk-with\u002fa\u002fslash"}}'
    words, code = extract_message(content, key)
    assert (words, code) == ("no [API key]", "[API key]")
    assert "slash" not in str(classify_response(401, {}, content, "here", key))
    assert "slash" not in repr(key)


def test_a_completion_is_taken_as_it_came() -> None:
    body = completion({"model": "m", "messages": [], "seed": 1}, content="\ud800 \x00", beyond="the format")
    assert parse_completion(json.dumps(body).encode(), PLACE, NO_KEY) == body


@pytest.mark.parametrize("message", [{}, {"content": None}, {"content": []}, {"content": 5}, {"content": "x"}])
def test_an_answer_with_a_message_is_an_answer_whatever_is_in_it(message: dict) -> None:
    # It is paid for: asked again, such a server answers the same and is paid again.
    body = {"choices": [{"message": message}]}
    assert parse_completion(json.dumps(body).encode(), PLACE, NO_KEY) == body


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>upstream timed out</html>",
        b"null",
        b"[]",
        b'"text"',
        b"{}",
        b'{"choices": null, "usage": null}',
        b'{"choices": []}',
        b'{"choices": {}}',
        b'{"choices": [null]}',
        b'{"choices": [{"finish_reason": null}]}',
        b'{"choices": [{"message": null}]}',
        b'{"choices": [{"finish_reason": "stop", "message": {"content": "cut o',
        b'{"choices": [{"finish_reason": "stop", "message": {"content": "\xff\xfe"}}]}',
        b"[" * 200_000,
        b"9" * 5000,
    ],
)
def test_what_is_no_completion_is_a_passing_fault(content: bytes) -> None:
    with pytest.raises(TransientError, match="not a chat completion"):
        parse_completion(content, PLACE, NO_KEY)
