"""The Batch API itself: files and batches, asked for until the server answers."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import httpx2
import openai
from openai.types import Batch

from magicoder.config import TeacherConfig
from magicoder.runtime.errors import UserError
from magicoder.runtime.signals import StopRequest
from magicoder.storage.files import written_whole
from magicoder.teacher import errors
from magicoder.teacher.api_key import api_key
from magicoder.teacher.batch_state import BatchState
from magicoder.teacher.engine import backoff
from magicoder.teacher.errors import Cancelled, RateLimited, RequestRejected, RetriesExhausted, TransientError
from magicoder.teacher.request_file import URL

PATIENCE = 3600.0
"""Seconds for which a server that answered before is tried again."""
TAG = "magicoder"
SLICE = 0.2
"""Seconds after which a wait looks whether it is to end."""
T = TypeVar("T")


class NotSubmitted(UserError):
    """The server did not take a batch: it is certain that there is none."""


class Api:
    """Files and batches of an account. What may pass is tried again, after waits that grow to a minute."""

    def __init__(self, teacher: TeacherConfig, stop: StopRequest) -> None:
        """stop: once it is true, every wait ends with Stopped. Errors: UserError without a key or with an odd proxy."""
        self._stop, self._max_attempts = stop, teacher.max_attempts
        self.key = api_key(teacher)
        try:
            self._client = openai.OpenAI(
                api_key=self.key.value, base_url=teacher.base_url, max_retries=0, timeout=teacher.timeout
            )
        except (ValueError, ImportError, httpx2.InvalidURL) as error:  # whose words may hold the proxy's password
            raise UserError("http_proxy, https_proxy or all_proxy holds no proxy that can be used") from error
        self.base_url = str(self._client.base_url)
        self._reached = False

    def check(self) -> None:
        """Errors: Stopped if the work is to end."""
        if self._stop:
            raise Cancelled

    def wait(self, seconds: float) -> None:
        """Wait. Errors: Stopped as soon as the work is to end."""
        end = time.monotonic() + seconds
        self.check()
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(SLICE, left))
            self.check()

    def upload(self, path: Path) -> str:
        """Upload a file of requests; return its id. Errors: NotSubmitted, Stopped."""

        def ask() -> str:
            with open(path, "rb") as file:  # as a file that is open, it is not read as a whole
                return _id(self._client.files.create(file=file, purpose="batch"))

        try:
            return self._persist(ask, "has this server a Batch API?")
        except UserError as error:
            raise NotSubmitted(error.problems) from error

    def create(self, file_id: str, tag: str, *, may_exist: bool) -> str:
        """Submit an uploaded file as the batch with this tag, unless there is one; return the batch's id.

        Errors: NotSubmitted; UserError where it is not certain whether there is one; Stopped.
        """
        hint = "has this server a Batch API?"

        def ask() -> str:
            nonlocal may_exist
            if may_exist and (found := self._find(tag)) is not None:
                return found
            may_exist = True  # whatever goes wrong from here on
            try:
                return _id(
                    self._client.batches.create(
                        input_file_id=file_id, endpoint=URL, completion_window="24h", metadata={TAG: tag}
                    )
                )
            except openai.APIStatusError as error:
                fault = self._fault(error, hint)
                if isinstance(fault, UserError):
                    raise NotSubmitted(fault.problems) from error
                raise

        return self._persist(ask, hint)

    def _find(self, tag: str) -> str | None:
        """Errors: Passing if the server lists no batches: that is not the same as none."""
        page = self._client.batches.list(limit=100)
        if not isinstance(getattr(page, "data", None), list):
            raise TransientError(f"not a list of batches: {str(page)[:60]!r}", maybe_billed=True)
        for batch in page:
            if isinstance(batch.metadata, dict) and batch.metadata.get(TAG) == tag:
                return _id(batch)
        return None

    def retrieve(self, noted: BatchState) -> Batch:
        """A batch as it stands. Errors: UserError, Stopped."""

        def ask() -> Batch:
            batch = self._client.batches.retrieve(noted.batch_id or "")
            _id(batch)
            return batch

        return self._persist(ask, _hint(noted))

    def download(self, file_id: str, path: Path, noted: BatchState) -> None:
        """Fetch a file of results. Errors: UserError, Stopped; OSError on a full disk."""

        def ask() -> None:
            with (
                self._client.files.with_streaming_response.content(file_id) as response,
                written_whole(path) as file,
            ):
                for piece in response.iter_bytes():
                    file.write(piece)

        self._persist(ask, _hint(noted))

    def _persist(self, ask: Callable[[], T], if_missing: str) -> T:
        begun, attempts = time.monotonic(), 0
        while True:
            self.check()
            try:
                answer = ask()
                self._reached = True
                return answer
            except openai.APIStatusError as error:
                fault = self._fault(error, if_missing)
            except (openai.APIConnectionError, httpx2.RequestError) as error:
                cause = error.__cause__ or error
                told = self.key.masked(f"{self.base_url}: {type(cause).__name__}: {cause}")
                fault = TransientError(told, maybe_billed=True)
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                fault = TransientError(f"{self.base_url}: an answer that is no JSON: {error}", maybe_billed=True)
            except TransientError as passing:
                fault = passing
            if isinstance(fault, UserError):
                raise fault
            attempts += 1
            patience = PATIENCE if self._reached else 0.0
            if attempts >= self._max_attempts and time.monotonic() - begun >= patience:
                raise RetriesExhausted(f"{fault}; what came is kept, and the same command goes on from there")
            if attempts == 3:
                print(f"{fault}; trying again", file=sys.stderr)
            asked_for = fault.wait if isinstance(fault, RateLimited) else None
            self.wait(max(backoff(attempts), asked_for or 0.0))

    def _fault(self, error: openai.APIStatusError, if_missing: str) -> Exception:
        """What an HTTP status tells: Passing, Throttled or UserError."""
        content, headers = error.response.content, error.response.headers
        fault = errors.of_status(error.status_code, headers, content, self.base_url, self.key)
        if error.status_code == 404:
            return UserError(f"{fault}; {if_missing}")
        return UserError(str(fault)) if isinstance(fault, RequestRejected) else fault


def _id(thing: object) -> str:
    """The id of what a server sent. Errors: Passing if it has none."""
    found = getattr(thing, "id", None)
    if isinstance(found, str) and found:
        return found
    raise TransientError(f"not an object of the Batch API: {str(thing)[:60]!r}", maybe_billed=True)


def _hint(noted: BatchState) -> str:
    return f"is it of another account, or too old? Whoever deletes {noted.path} has its rows asked, and paid, again"
