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
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from magicoder.runtime.errors import UserError
from magicoder.runtime.text import make_encodable
from magicoder.teacher.api_key import Key

TOO_LARGE = re.compile(
    r"request (is )?too large|\blimit:? (?P<limit>[\d,]+)\D{1,20}requested:? (?P<asked>[\d,]+)", re.I
)
"""Words of a server about a request that exceeds the account's limit by itself: waiting does not help it."""
ABOUT_ONE_REQUEST = (400, 413, 422)
"""Statuses of a request that is malformed for this server, too long, or against its rules."""
TRANSIENT = (408, 409, 425)
TIMED_OUT = (408, 504, 522, 524)
FROM_GATEWAYS = (502, 520, *TIMED_OUT)
"""Statuses of gateways, which do not know whether the server behind them works on the request all the same."""
LASTING_CODES = ("model_not_found", "insufficient_quota")
TOO_LARGE_FOR_ACCOUNT = "request_too_large"
"""Our code for a request that no wait lets pass."""
CODES_ABOUT_LENGTH = ("context_length_exceeded", TOO_LARGE_FOR_ACCOUNT)
"""Refusals that a lower limit of the answer may cure."""


class TransientError(Exception):
    """A failure that may be gone at the next attempt.

    maybe_billed: the server may have done the work all the same. timed_out: the answer took too long. unreachable: no
    connection at all. wait: seconds that the server asks for. is_rate_limit: the server turned this request alone away.
    """

    def __init__(
        self,
        message: str,
        *,
        maybe_billed: bool,
        timed_out: bool = False,
        unreachable: bool = False,
        wait: float = 0.0,
        is_rate_limit: bool = False,
    ) -> None:
        self.maybe_billed, self.timed_out, self.unreachable = maybe_billed, timed_out, unreachable
        self.wait, self.is_rate_limit = wait, is_rate_limit
        super().__init__(message)


class RateLimited(Exception):
    """The server accepts no request at present.

    wait: seconds, None if the server did not say. headers: those of the response, which may say what remains.
    """

    def __init__(self, message: str, wait: float | None, headers: Mapping[str, str] | None = None) -> None:
        self.wait, self.headers = wait, headers or {}
        super().__init__(message)


class RequestRejected(Exception):
    """A request that this server will not answer. code: the server's name for the cause. body: its whole response."""

    def __init__(self, message: str, code: str | None, body: str = "") -> None:
        self.code, self.body = code, body
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
    if status in ABOUT_ONE_REQUEST:
        return RequestRejected(message, _guess_code(words) or code, key.mask(content.decode(errors="replace")))
    if status < 500 and status not in (429, *TRANSIENT):
        return UserError(f"{message}{_hint_at_address(status, place)}")
    return _classify_passing(status, headers, message)


def _classify_passing(status: int, headers: Mapping[str, str], message: str) -> Exception:
    """Return the error for a status that may be gone at the next attempt."""
    if status == 429 and is_too_large(message):
        return RequestRejected(message, TOO_LARGE_FOR_ACCOUNT)
    wait = parse_retry_after(headers.get("retry-after"))
    if status == 429 or (status >= 500 and wait is not None):
        return RateLimited(message, wait, headers)
    return TransientError(message, maybe_billed=status in FROM_GATEWAYS, timed_out=status in TIMED_OUT)


def is_too_large(words: str) -> bool:
    """Return whether a rate-limit message says that the request itself exceeds the limit."""
    found = TOO_LARGE.search(words)
    if found is None or found["limit"] is None:
        return found is not None
    limit, asked = (int(found[name].replace(",", "")) for name in ("limit", "asked"))
    return asked > limit


def _guess_code(words: str) -> str | None:
    """Return OpenAI's code for what other servers, vLLM among them, say in words alone."""
    lowered = words.lower()
    is_about_length = any(phrase in lowered for phrase in ("context length", "context window", "maximum context"))
    return "context_length_exceeded" if is_about_length else None


def _hint_at_address(status: int, place: str) -> str:
    """Return a hint where the path of the address is probably wrong."""
    path = urlsplit(place).path.rstrip("/")
    if status not in (404, 405) or path.endswith("/v1"):
        return ""
    example = "" if path else f" Many servers want {place.rstrip('/')}/v1"
    return f"; is teacher.base_url right?{example}"


def _classify_denial(status: int, message: str, key: Key) -> Exception:
    hint = "does this server want a key? teacher.api_key_env names its variable"
    explained = f"{message}; {hint if key.name is None else f'is the key in {key.name} right?'}"
    return AccessDenied(explained) if status == 403 else UserError(explained)


def extract_message(content: bytes, key: Key) -> tuple[str, str | None]:
    """Return a server's message about an error and its code, in at most 200 characters each, with the key masked.

    The message is at `error.message` in OpenAI's form; others have it at the top, or call it `detail`, or send a list.
    """
    words: Any = content.decode(errors="replace")
    code: Any = None
    try:
        whole = json.loads(content)
        whole = whole[0] if isinstance(whole, list) and whole else whole
        error = whole.get("error") or whole
        error = error if isinstance(error, dict) else {"message": error}
        words = next((error[name] for name in ("message", "detail") if error.get(name)), words)
        code = error.get("code")
    except (ValueError, AttributeError, RecursionError):
        pass  # the whole content is the message
    words = words if isinstance(words, str) else json.dumps(words)
    message = key.mask(" ".join(make_encodable(words).split()))[:200]
    return message, key.mask(make_encodable(code))[:200] if isinstance(code, str) else None


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
