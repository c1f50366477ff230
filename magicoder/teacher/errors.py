"""What can go wrong with a request, and what follows from it."""

import json
import math
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from magicoder.runtime.errors import UserError
from magicoder.runtime.text import encodable
from magicoder.teacher.api_key import Key

LONGEST_RETRY_AFTER = 3600.0
"""Seconds; a server that asks for a longer wait ends the run."""
ABOUT_ONE_REQUEST = (400, 413, 422)
"""Statuses of a request that is malformed for this server, too long, or against its rules."""
PASSING = (408, 409, 425)
TIMED_OUT = (408, 504, 522, 524)
BETWEEN = (502, 520, *TIMED_OUT)
"""Statuses of what stands between, which does not know whether the server is at work on the request all the same."""
LASTING_CODES = ("model_not_found", "insufficient_quota")


class TransientError(Exception):
    """What may be gone at the next attempt.

    perhaps_charged: whether the server may have done the work all the same. timed_out: whether it took too long.
    unreachable: whether there was no server at all. wait: seconds that the server asks for.
    """

    def __init__(
        self,
        message: str,
        *,
        maybe_billed: bool,
        timed_out: bool = False,
        unreachable: bool = False,
        wait: float = 0.0,
    ) -> None:
        self.maybe_billed, self.timed_out, self.unreachable = maybe_billed, timed_out, unreachable
        self.wait = wait
        super().__init__(message)


class RateLimited(Exception):
    """The server takes no request at present; for `wait` seconds, if it said for how long."""

    def __init__(self, message: str, wait: float | None) -> None:
        self.wait = wait
        super().__init__(message)


class RequestRejected(Exception):
    """A request that this server will not answer, as it says. code: its name for why."""

    def __init__(self, message: str, code: str | None) -> None:
        self.code = code
        super().__init__(message)


class Forbidden(UserError):
    """A request that the key does not allow; from a server that answers others with that key, one of odd content."""


class RetriesExhausted(UserError):
    """A request that failed on every attempt."""


class Cancelled(Exception):
    """A request that was given up before its next attempt because the work is to end."""


def of_status(status: int, headers: Mapping[str, str], content: bytes, place: str, key: Key) -> Exception:
    """The fault that an HTTP status other than success tells.

    place: the server, for the message. key: is shown in no message, though the server may echo it.
    """
    words, code = server_words(content, key)
    message = f"{place}: HTTP {status}: {words}"
    if status in (401, 403):
        return _of_key(status, message, key)
    if 300 <= status < 400:
        message += f"; teacher.base_url is at {key.masked(headers.get('location', 'another place'))}"
    if code in LASTING_CODES:
        return UserError(message)
    wait = retry_after(headers.get("retry-after"))
    if wait is not None and wait > LONGEST_RETRY_AFTER and (status == 429 or status >= 500):
        return UserError(f"{message}; it asks to wait {wait:.0f} s: run the same command again then")
    if status == 429 or (status >= 500 and wait is not None):
        return RateLimited(message, wait)
    if status in PASSING or status >= 500:
        return TransientError(message, maybe_billed=status in BETWEEN, timed_out=status in TIMED_OUT)
    return RequestRejected(message, code or _guessed(words)) if status in ABOUT_ONE_REQUEST else UserError(message)


def _guessed(words: str) -> str | None:
    """The code that OpenAI gives to what others tell in words alone, vLLM among them."""
    return "context_length_exceeded" if "context length" in words.lower() else None


def _of_key(status: int, message: str, key: Key) -> Exception:
    asked = "does this server want a key? teacher.api_key_env names its variable"
    told = f"{message}; {asked if key.name is None else f'is the key in {key.name} right?'}"
    return Forbidden(told) if status == 403 else UserError(told)


def server_words(content: bytes, key: Key) -> tuple[str, str | None]:
    """The server's own words about an error, and its code for it; in at most 200 characters each, without the key."""
    try:
        told = json.loads(content)["error"]
        words, code = told["message"], told.get("code")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        words, code = content.decode(errors="replace"), None
    told = key.masked(" ".join(encodable(str(words)).split()))[:200]
    return told, key.masked(encodable(code))[:200] if isinstance(code, str) else None


def well_formed(content: bytes, key: Key) -> dict[str, Any]:
    """The JSON of a chat completion that has a choice with a message. Errors: Passing for anything else.

    What is in the message is no matter here: an answer without text is an answer too, and paid for.
    key: is not shown, though the server may echo it.
    """
    try:
        body = json.loads(content)
        if isinstance(body["choices"][0]["message"], dict):
            return body
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise _no_completion(content, key) from error
    raise _no_completion(content, key)


def _no_completion(content: bytes, key: Key) -> TransientError:
    told = key.masked(content.decode(errors="replace"))
    return TransientError(f"not a chat completion: {told[:60]!r}", maybe_billed=True)


def retry_after(header: str | None) -> float | None:
    """Seconds that a Retry-After header asks for, by number or by date; None where it says nothing to be followed.

    Source: RFC 9110, section 10.2.3.
    """
    try:
        seconds = float(header or "")
    except ValueError:
        try:
            # A date that is past by our clock means now.
            seconds = max(0.0, parsedate_to_datetime(header or "").timestamp() - time.time())
        except (ValueError, OverflowError):
            return None
    return seconds if 0 <= seconds < math.inf else None
