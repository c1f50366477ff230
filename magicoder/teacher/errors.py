"""Errors of requests.

Every failure of a request is one of these:

    Exception
    ├── TransientError        the next attempt may succeed
    ├── RateLimited           the server accepts no request at present
    ├── RequestRejected       the server will not answer this request
    ├── Cancelled             the work is to end before the next attempt
    └── UserError             no attempt can succeed until the user changes something
        ├── AccessDenied      the key may not do this; among other answers, the fault of one row
        ├── RetriesExhausted  every attempt failed
        ├── OutOfBudget       (budget.py) the next request might cost more than is left
        └── NotSubmitted      (batch_api.py) the server has certainly not accepted a batch
"""

import json
import math
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from magicoder.runtime.errors import UserError
from magicoder.runtime.text import make_encodable
from magicoder.teacher.api_key import Key

MAX_RETRY_AFTER = 3600.0
"""Seconds; a server that asks for a longer wait ends the run."""
ABOUT_ONE_REQUEST = (400, 413, 422)
"""Statuses of a request that is malformed for this server, too long, or against its rules."""
TRANSIENT = (408, 409, 425)
TIMED_OUT = (408, 504, 522, 524)
FROM_GATEWAYS = (502, 520, *TIMED_OUT)
"""Statuses of gateways, which do not know whether the server behind them works on the request all the same."""
LASTING_CODES = ("model_not_found", "insufficient_quota")


class TransientError(Exception):
    """A failure that may be gone at the next attempt.

    maybe_billed: the server may have done the work all the same. timed_out: the answer took too long. unreachable: no
    connection at all. wait: seconds that the server asks for.
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
    """The server accepts no request at present. wait: seconds, None if the server did not say."""

    def __init__(self, message: str, wait: float | None) -> None:
        self.wait = wait
        super().__init__(message)


class RequestRejected(Exception):
    """A request that this server will not answer. code: the server's name for the cause."""

    def __init__(self, message: str, code: str | None) -> None:
        self.code = code
        super().__init__(message)


class Cancelled(Exception):
    """The work is to end before the request's next attempt."""


class AccessDenied(UserError):
    """A request that the key does not allow. If the server answers others with that key, the row's content is odd."""


class RetriesExhausted(UserError):
    """A request that failed on every attempt."""


def classify_response(status: int, headers: Mapping[str, str], content: bytes, place: str, key: Key) -> Exception:
    """Return the error for an HTTP response other than success.

    place: the server, for the message. key: masked in every message, because servers echo it.
    """
    words, code = extract_message(content, key)
    message = f"{place}: HTTP {status}: {words}"
    if status in (401, 403):
        return _classify_denial(status, message, key)
    if 300 <= status < 400:
        message += f"; teacher.base_url is at {key.mask(headers.get('location', 'another place'))}"
    if code in LASTING_CODES:
        return UserError(message)
    wait = parse_retry_after(headers.get("retry-after"))
    if wait is not None and wait > MAX_RETRY_AFTER and (status == 429 or status >= 500):
        return UserError(f"{message}; it asks to wait {wait:.0f} s: run the same command again then")
    if status == 429 or (status >= 500 and wait is not None):
        return RateLimited(message, wait)
    if status in TRANSIENT or status >= 500:
        return TransientError(message, maybe_billed=status in FROM_GATEWAYS, timed_out=status in TIMED_OUT)
    return RequestRejected(message, code or _guess_code(words)) if status in ABOUT_ONE_REQUEST else UserError(message)


def _guess_code(words: str) -> str | None:
    """Return OpenAI's code for what other servers, vLLM among them, say in words alone."""
    return "context_length_exceeded" if "context length" in words.lower() else None


def _classify_denial(status: int, message: str, key: Key) -> Exception:
    hint = "does this server want a key? teacher.api_key_env names its variable"
    explained = f"{message}; {hint if key.name is None else f'is the key in {key.name} right?'}"
    return AccessDenied(explained) if status == 403 else UserError(explained)


def extract_message(content: bytes, key: Key) -> tuple[str, str | None]:
    """Return a server's message about an error and its code, in at most 200 characters each, with the key masked."""
    try:
        error = json.loads(content)["error"]
        words, code = error["message"], error.get("code")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        words, code = content.decode(errors="replace"), None
    message = key.mask(" ".join(make_encodable(str(words)).split()))[:200]
    return message, key.mask(make_encodable(code))[:200] if isinstance(code, str) else None


def parse_completion(content: bytes, key: Key) -> dict[str, Any]:
    """Parse a chat completion that has a choice with a message. Errors: TransientError for anything else.

    The content of the message does not matter here: an answer without text is an answer too, and paid for.
    key: masked in the error.
    """
    try:
        body = json.loads(content)
        if isinstance(body["choices"][0]["message"], dict):
            return body
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise _describe_garbage(content, key) from error
    raise _describe_garbage(content, key)


def _describe_garbage(content: bytes, key: Key) -> TransientError:
    text = key.mask(content.decode(errors="replace"))
    return TransientError(f"not a chat completion: {text[:60]!r}", maybe_billed=True)


def parse_retry_after(header: str | None) -> float | None:
    """Return the seconds that a Retry-After header asks for, by number or by date; None if it cannot be followed.

    Source: RFC 9110, section 10.2.3.
    """
    try:
        seconds = float(header or "")
    except ValueError:
        try:
            # A date in the past by our clock means now: the clocks differ.
            seconds = max(0.0, parsedate_to_datetime(header or "").timestamp() - time.time())
        except (ValueError, OverflowError):
            return None
    return seconds if 0 <= seconds < math.inf else None
