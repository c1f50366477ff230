"""Read chat completions, whatever a server makes of OpenAI's protocol.

What a server reports as an error inside a success is raised as that error. Everything else that was paid for is an
answer, even without a choice or a text.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from magicoder.teacher.api_key import Key
from magicoder.teacher.errors import TransientError, classify_response

CUT = ("length", "max_tokens", "max_output_tokens", "max_length", "model_length", "model_context_window_exceeded")
FILTERED = (
    *("content_filter", "content_filtered", "safety", "recitation", "blocklist", "prohibited_content", "spii"),
    *("sensitive", "refusal", "guardrail_intervened"),
)
CALLED = ("tool_calls", "tool_call", "tool_use", "function_call", "malformed_function_call")
BROKEN_OFF = ("error", "abort", "aborted", "cancelled", "canceled", "network_error", "insufficient_system_resource")
"""Words by which servers say how an answer ended, in lower case with underscores: at the token limit, by a filter, with
a tool call, by their own failure. Any other word is the model's own end: `stop`, `eos`, `end_turn`."""

STATUSES = {
    "context_length": 400,
    "content_filter": 400,
    "content_policy": 400,
    "model_not_found": 404,
    "insufficient_quota": 429,
    "rate_limit": 429,
    "too_many_requests": 429,
    "overloaded": 503,
    "timeout": 504,
    "invalid_api_key": 401,
    "authentication": 401,
    "permission": 403,
    "invalid_request": 400,
}
"""Statuses of the words that gateways put where a number is expected, by a part of the word; the first one counts."""
REASONING_KEYS = ("reasoning_content", "reasoning")
TEXT_PARTS = ("text", "output_text")
TEXT_KEYS = ("text", "thinking", "reasoning", "summary", "content")


@dataclass(frozen=True)
class Message:
    """The model's words. text: None if there are none. reasoning: thoughts that the server keeps apart; may be
    empty."""

    text: str | None
    reasoning: str = ""


def parse_completion(content: bytes, place: str, key: Key) -> dict[str, Any]:
    """Parse the body of a response with status 200.

    place: the server, for messages. key: masked in them. Errors: those of `classify_response` for an error that the
    body reports; TransientError for anything that is not a chat completion.
    """
    try:
        body = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _describe_garbage(content, key) from error
    if not isinstance(body, dict):
        raise _describe_garbage(content, key)
    choice = read_choice(body)
    for reported in (body.get("error"), choice.get("error")):
        if _says_something(reported):
            raise _classify_reported(reported, place, key)
    if classify_end(choice.get("finish_reason")) == "broken off":
        message = f"{place}: the server broke off its answer (finish_reason {choice['finish_reason']})"
        raise TransientError(message, maybe_billed=True)
    # An answer without a text is an answer too, and paid for: asked again, such a server answers the same.
    if isinstance(choice.get("message"), dict) or isinstance(choice.get("finish_reason"), str) or _is_charged(body):
        return body
    raise _describe_garbage(content, key)


def read_choice(answer: dict[str, Any]) -> dict[str, Any]:
    """Return the first choice of a completion; empty if it has none."""
    choices = answer.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, dict) else {}


def read_message(answer: dict[str, Any]) -> Message:
    """Return the words of a completion. Parts of a content are joined; those with thoughts are kept apart."""
    message = read_choice(answer).get("message")
    if not isinstance(message, dict):
        return Message(None)
    thoughts = [text for name in REASONING_KEYS if isinstance(text := message.get(name), str)][:1]
    content = message.get("content")
    if not isinstance(content, list):
        return Message(content if isinstance(content, str) else None, "".join(thoughts))
    texts: list[str] = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else "text"
        (texts if kind in TEXT_PARTS else thoughts).extend(_find_texts(part))
    return Message("".join(texts) if texts else None, "".join(thoughts))


def classify_end(finish_reason: Any) -> str:
    """Return how an answer ended: `stop`, `length`, `content_filter`, `tool_calls`, `broken off`, `None` or `unknown`.

    finish_reason: text if the server follows the protocol. `unknown`: not text; `None`: missing or empty.
    """
    if finish_reason is None or finish_reason == "":
        return "None"
    if not isinstance(finish_reason, str):
        return "unknown"
    word = finish_reason.strip().lower().replace("-", "_").replace(" ", "_")
    ends = {"length": CUT, "content_filter": FILTERED, "tool_calls": CALLED, "broken off": BROKEN_OFF}
    return next((end for end, words in ends.items() if word in words), "stop")


def _find_texts(part: Any) -> Iterator[str]:
    """Yield the texts of a part of a content in their order, in whatever key and depth its kind has them."""
    waiting = [part]  # no recursion: a broken server may nest as deep as JSON can be read
    while waiting:
        found = waiting.pop()
        if isinstance(found, str):
            yield found
        elif isinstance(found, list):
            waiting += reversed(found)
        elif isinstance(found, dict):
            waiting += (found[name] for name in reversed(TEXT_KEYS) if name in found)


def _is_charged(body: dict[str, Any]) -> bool:
    usage = body.get("usage")
    return isinstance(usage, dict) and isinstance(usage.get("prompt_tokens"), int) and "choices" in body


def _says_something(reported: Any) -> bool:
    """Return whether an `error` is one: some gateways send an object with empty values beside every answer."""
    if isinstance(reported, dict):
        return any(reported.get(name) for name in ("message", "code", "type", "detail"))
    return bool(reported)


def _classify_reported(reported: Any, place: str, key: Key) -> Exception:
    """Return the error of an `error` object inside a success, as if its code were the status."""
    code = reported.get("code") if isinstance(reported, dict) else None
    kind = reported.get("type") if isinstance(reported, dict) else None
    numbers = [str(code), str(reported.get("status") if isinstance(reported, dict) else None)]
    status = next((int(each) for each in numbers if re.fullmatch(r"[45]\d\d", each)), None)
    if status is None:
        words = f"{code} {kind}".lower()
        # An unknown code may pass or not, so the request is sent again, a bounded number of times.
        status = next((number for word, number in STATUSES.items() if word in words), 502)
    return classify_response(status, {}, json.dumps({"error": reported}).encode(), place, key)


def _describe_garbage(content: bytes, key: Key) -> TransientError:
    text = key.mask(content.decode(errors="replace"))
    return TransientError(f"not a chat completion: {text[:60]!r}", maybe_billed=True)
