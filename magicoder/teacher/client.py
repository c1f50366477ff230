"""One chat completion over HTTP: asked again after a passing fault, given up at once after a lasting one."""

import asyncio
import contextlib
import json
import math
import random
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import openai

from magicoder.config import Teacher
from magicoder.errors import UserError
from magicoder.teacher.key import api_key

FIRST_WAIT = 0.5
# Shorter keys are placeholders for servers that ask for none, and parts of honest words.
SHORTEST_SECRET = 8
LONGEST_WAIT = 60.0
# Seconds; a server that asks for a longer wait by Retry-After ends the run.
LONGEST_RETRY_AFTER = 3600.0
# Statuses that are about the one request: malformed for this server, too long, or against its rules.
REFUSALS = (400, 413, 422)


class Unanswered(Exception):
    """A request that failed on every attempt."""


class Stopped(Exception):
    """A request that was given up between two attempts because the work is to end."""


class Refused(Exception):
    """A request that this server will never answer, though it answers others."""


@dataclass(frozen=True)
class Answer:
    """What the server sent, as it came."""

    body: dict[str, Any]
    attempts: int
    seconds: float


class Client:
    """Sends requests to an OpenAI-compatible server."""

    def __init__(self, teacher: Teacher, base_url: str | None = None) -> None:
        """base_url: takes the place of the config's, for a server that was started just now.

        Errors: UserError if there is no API key where one is needed.
        """
        self._max_attempts = teacher.max_attempts
        self._stop = asyncio.Event()
        self._key_name = teacher.api_key_env
        self._key = api_key(teacher)
        # The SDK's timeout is one between two packets; a whole attempt has ours.
        self._timeout = teacher.timeout
        # Retries are ours: they must be counted, and honour Retry-After however long it is.
        self._sdk = openai.AsyncOpenAI(
            api_key=self._key, base_url=base_url or teacher.base_url, timeout=teacher.timeout, max_retries=0
        )

    @property
    def base_url(self) -> str:
        """Where requests go; it holds no password, for the config's check refuses one."""
        return str(self._sdk.base_url)

    @property
    def stopping(self) -> bool:
        """Whether the work is to end."""
        return self._stop.is_set()

    def stop(self) -> None:
        """Make no further attempts; those under way go on to their end."""
        self._stop.set()

    async def close(self) -> None:
        """Close every connection."""
        await self._sdk.close()

    async def ask(self, body: dict[str, Any]) -> Answer:
        """The server's answer to `body`.

        Errors: UserError for what no retry mends (key, model, quota); Refused for a request that the server will never
        answer; Unanswered after the last attempt; Stopped if the work is to end before the next one.
        """
        begun = time.monotonic()
        fault = ""
        for attempt in range(1, self._max_attempts + 1):
            try:
                answer = await self._attempt(body)
            except _PassingFault as passing:
                fault = str(passing)
                if attempt < self._max_attempts:
                    await self._wait(passing.wait if passing.wait is not None else backoff(attempt))
            else:
                return Answer(answer, attempt, round(time.monotonic() - begun, 3))
        raise Unanswered(f"{self.base_url}: no answer after {self._max_attempts} attempts: {fault}")

    async def _wait(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)
            raise Stopped

    async def _attempt(self, body: dict[str, Any]) -> dict[str, Any]:
        try:
            async with asyncio.timeout(self._timeout):
                response = await self._sdk.chat.completions.with_raw_response.create(**body)
            return well_formed(response.http_response.content)
        except TimeoutError as error:
            raise _PassingFault(f"no whole answer within {self._timeout} s") from error
        except openai.APIStatusError as error:
            raise self._judged(error) from error
        except openai.APIConnectionError as error:  # timeouts, resets and broken bodies among them
            cause = error.__cause__ or error
            raise _PassingFault(self._masked(f"{type(cause).__name__}: {cause}")) from error

    def _judged(self, error: openai.APIStatusError) -> Exception:
        message = f"{self.base_url}: HTTP {error.status_code}: {self._masked(first_line(error))}"
        if error.status_code in (401, 403):
            return UserError(f"{message}; is the key in {self._key_name} right?")
        if error.code in ("model_not_found", "insufficient_quota"):
            return UserError(message)
        if error.status_code in (408, 409, 425, 429) or error.status_code >= 500:
            wait = retry_after(error.response.headers.get("retry-after"))
            if wait is not None and wait > LONGEST_RETRY_AFTER:
                return UserError(f"{message}; it asks to wait {wait:.0f} s: run the same command again then")
            return _PassingFault(message, wait)
        return Refused(message) if error.status_code in REFUSALS else UserError(message)

    def _masked(self, message: str) -> str:
        """A message without the API key, if the server echoes it: it must reach no file and no screen."""
        return message if len(self._key) < SHORTEST_SECRET else message.replace(self._key, "[API key]")


class _PassingFault(Exception):
    """What may be gone at the next attempt; `wait` seconds if the server said when."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        self.wait = wait
        super().__init__(message)


def well_formed(content: bytes) -> dict[str, Any]:
    """The JSON of a chat completion that has a choice with a message. Errors: _PassingFault for anything else.

    What is in the message is no matter here: an answer without text is an answer too, and paid for.
    """
    try:
        body = json.loads(content)
        if isinstance(body["choices"][0]["message"], dict):
            return body
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise _PassingFault(f"not a chat completion: {content[:60]!r}") from error
    raise _PassingFault(f"not a chat completion: {content[:60]!r}")


def first_line(error: openai.APIStatusError) -> str:
    """The server's own words about an error, in at most 200 characters."""
    details = error.body.get("message") if isinstance(error.body, dict) else None
    return " ".join(str(details or error.response.text or error.message).split())[:200]


def backoff(attempt: int) -> float:
    """Seconds to wait after the given failed attempt: doubling, with jitter so that requests do not return at once."""
    doubled = FIRST_WAIT * 2 ** min(attempt - 1, 10)  # the exponent is bounded, for a float is
    return min(LONGEST_WAIT, doubled) * random.uniform(0.75, 1.25)


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
