"""One chat completion over HTTP: asked again after a passing fault, given up at once after a lasting one."""

import asyncio
import contextlib
import json
import os
import random
import time
from dataclasses import dataclass
from typing import Any

import openai

from magicoder.config import Teacher
from magicoder.errors import UserError

FIRST_WAIT = 0.5
LONGEST_WAIT = 60.0
# The longest that a server may make us wait by Retry-After before its word counts as a fault, in seconds.
LONGEST_RETRY_AFTER = 3600.0


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
        key = os.environ.get(teacher.api_key_env, "") if teacher.api_key_env else "none"
        if not key:
            raise UserError(missing_key(teacher))
        # Retries are ours: they must be counted, and honour Retry-After however long it is.
        self._sdk = openai.AsyncOpenAI(
            api_key=key, base_url=base_url or teacher.base_url, timeout=teacher.timeout, max_retries=0
        )

    @property
    def base_url(self) -> str:
        """Where requests go, without any user name or password in it."""
        return str(self._sdk.base_url.copy_with(userinfo=b""))

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
            response = await self._sdk.chat.completions.with_raw_response.create(**body)
            return well_formed(response.http_response.content)
        except openai.APIStatusError as error:
            raise self._judged(error) from error
        except openai.APIConnectionError as error:  # timeouts, resets and broken bodies among them
            raise _PassingFault(f"{type(error.__cause__ or error).__name__}: {error.__cause__ or error}") from error

    def _judged(self, error: openai.APIStatusError) -> Exception:
        message = f"{self.base_url}: HTTP {error.status_code}: {first_line(error)}"
        if error.status_code in (401, 403):
            return UserError(f"{message}; is the key in {self._key_name} right?")
        if error.status_code == 404 or error.code in ("model_not_found", "insufficient_quota"):
            return UserError(message)
        if error.status_code in (408, 409, 429) or error.status_code >= 500:
            return _PassingFault(message, retry_after(error.response.headers.get("retry-after")))
        return Refused(message)


class _PassingFault(Exception):
    """What may be gone at the next attempt; `wait` seconds if the server said when."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        self.wait = wait
        super().__init__(message)


def missing_key(teacher: Teacher) -> str:
    """What to say when the environment variable with the key is not set."""
    return f"teacher.api_key_env: the environment variable {teacher.api_key_env} is not set; put the API key into it"


def well_formed(content: bytes) -> dict[str, Any]:
    """The JSON of a chat completion that has a choice. Errors: _PassingFault for anything else."""
    try:
        body = json.loads(content)
        choice = body["choices"][0]
        choice["message"]["content"], choice["finish_reason"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise _PassingFault(f"not a chat completion: {content[:60]!r}") from error
    return body


def first_line(error: openai.APIStatusError) -> str:
    """The server's own words about an error, in at most 200 characters."""
    details = error.body.get("message") if isinstance(error.body, dict) else None
    return " ".join(str(details or error.response.text or error.message).split())[:200]


def backoff(attempt: int) -> float:
    """Seconds to wait after the given failed attempt: doubling, with jitter so that requests do not return at once."""
    return min(LONGEST_WAIT, FIRST_WAIT * 2 ** (attempt - 1)) * random.uniform(0.75, 1.25)


def retry_after(header: str | None) -> float | None:
    """Seconds that a Retry-After header asks for; None where it says nothing that can be followed."""
    try:
        seconds = float(header or "")
    except ValueError:
        return None
    return seconds if 0 <= seconds <= LONGEST_RETRY_AFTER else None
