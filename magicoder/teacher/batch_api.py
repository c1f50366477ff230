"""Call the Batch API: files and batches, retried until the server answers."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import openai
from openai.types import Batch

from magicoder.config import TeacherConfig
from magicoder.runtime.console import say
from magicoder.runtime.errors import UserError
from magicoder.runtime.signals import StopRequest
from magicoder.storage.files import write_whole
from magicoder.teacher import errors
from magicoder.teacher.address import collect_headers, resolve_address
from magicoder.teacher.api_key import read_api_key
from magicoder.teacher.batch_state import BatchState
from magicoder.teacher.engine import compute_backoff
from magicoder.teacher.errors import Cancelled, RateLimited, RequestRejected, RetriesExhausted, TransientError
from magicoder.teacher.request_lines import URL

PATIENCE = 3600.0
"""Seconds for which a server that has answered before is retried."""
TAG = "magicoder"
SDK_HEADERS = ("Authorization", "OpenAI-Organization", "OpenAI-Project")
"""Headers that the SDK would add by itself."""
STOP_CHECK_SECONDS = 0.2
"""Interval at which a wait checks whether the work is to end."""
T = TypeVar("T")


class NotSubmitted(UserError):
    """The server has certainly not accepted a batch."""


class BatchApi:
    """Files and batches of an account. Transient failures are retried after waits that grow to a minute."""

    def __init__(self, teacher: TeacherConfig, stop: StopRequest) -> None:
        """stop: once true, every wait ends with Cancelled. Errors: UserError without a key or with an unusable
        proxy."""
        self._stop, self._max_attempts = stop, teacher.max_attempts
        self.key = read_api_key(teacher)
        address = resolve_address(teacher.base_urls[0])
        headers: dict[str, Any] = {**collect_headers(self.key, teacher.key_header, teacher.request.extra_headers)}
        del headers["Content-Type"]  # uploads have one of their own
        # A header whose variable is empty is left out; the SDK would send it empty.
        headers |= {name: openai.Omit() for name in SDK_HEADERS if name not in headers}
        if self.key.name is None:
            del headers["Authorization"]  # the SDK insists on its own
        try:
            self._client = openai.OpenAI(
                api_key=self.key.value,
                base_url=address.base,
                default_headers=headers,
                default_query=dict(address.query),
                max_retries=0,
                timeout=teacher.timeout,
            )
        except (ValueError, ImportError, httpx2.InvalidURL) as error:  # the message may quote the proxy's password
            raise UserError("http_proxy, https_proxy or all_proxy does not name a usable proxy") from error
        self.base_url = address.base
        self._reached = False

    def raise_if_stopped(self) -> None:
        """Errors: Cancelled if the work is to end."""
        if self._stop:
            raise Cancelled

    def wait(self, seconds: float) -> None:
        """Wait. Errors: Cancelled as soon as the work is to end."""
        end = time.monotonic() + seconds
        self.raise_if_stopped()
        while (remaining := end - time.monotonic()) > 0:
            time.sleep(min(STOP_CHECK_SECONDS, remaining))
            self.raise_if_stopped()

    def upload(self, path: Path) -> str:
        """Upload a file of requests; return its id. Errors: NotSubmitted, Cancelled."""

        def ask() -> str:
            with open(path, "rb") as file:  # an open file is streamed, not read into memory
                return read_id(self._client.files.create(file=file, purpose="batch"))

        try:
            return self._retry(ask, "has this server a Batch API?")
        except UserError as error:
            raise NotSubmitted(error.problems) from error

    def create(self, file_id: str, tag: str, *, may_exist: bool) -> str:
        """Submit an uploaded file as the batch with this tag, unless that exists; return the batch's id.

        Errors: NotSubmitted; UserError if it is unknown whether the batch exists; Cancelled.
        """
        hint = "has this server a Batch API?"

        def ask() -> str:
            nonlocal may_exist
            if may_exist and (found := self._find(tag)) is not None:
                return found
            may_exist = True  # from here on a failure may hide a created batch
            try:
                return read_id(
                    self._client.batches.create(
                        input_file_id=file_id, endpoint=URL, completion_window="24h", metadata={TAG: tag}
                    )
                )
            except openai.APIStatusError as error:
                failure = self._classify(error, hint)
                if isinstance(failure, UserError):
                    raise NotSubmitted(failure.problems) from error
                raise

        return self._retry(ask, hint)

    def _find(self, tag: str) -> str | None:
        """Find the batch with a tag. Errors: TransientError if the server's list is malformed: that is not an empty
        list."""
        page = self._client.batches.list(limit=100)
        if not isinstance(getattr(page, "data", None), list):
            raise TransientError(f"not a list of batches: {str(page)[:60]!r}", maybe_billed=True)
        for batch in page:
            if isinstance(batch.metadata, dict) and batch.metadata.get(TAG) == tag:
                return read_id(batch)
        return None

    def retrieve(self, state: BatchState) -> Batch:
        """Return the current state of a batch. Errors: UserError, Cancelled."""

        def ask() -> Batch:
            batch = self._client.batches.retrieve(state.batch_id or "")
            read_id(batch)
            return batch

        return self._retry(ask, _describe_loss(state))

    def download(self, file_id: str, path: Path, state: BatchState) -> None:
        """Download a results file. Errors: UserError, Cancelled; OSError on a full disk."""

        def ask() -> None:
            with (
                self._client.files.with_streaming_response.content(file_id) as response,
                write_whole(path) as file,
            ):
                for piece in response.iter_bytes():
                    file.write(piece)

        self._retry(ask, _describe_loss(state))

    def _retry(self, ask: Callable[[], T], if_missing: str) -> T:
        began, attempts = time.monotonic(), 0
        while True:
            self.raise_if_stopped()
            try:
                answer = ask()
                self._reached = True
                return answer
            except openai.APIStatusError as error:
                failure = self._classify(error, if_missing)
            except (openai.APIConnectionError, httpx2.RequestError) as error:
                cause = error.__cause__ or error
                message = self.key.mask(f"{self.base_url}: {type(cause).__name__}: {cause}")
                failure = TransientError(message, maybe_billed=True)
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                failure = TransientError(f"{self.base_url}: the answer is not JSON: {error}", maybe_billed=True)
            except TransientError as error:
                failure = error
            if isinstance(failure, UserError):
                raise failure
            attempts += 1
            patience = PATIENCE if self._reached else 0.0
            if attempts >= self._max_attempts and time.monotonic() - began >= patience:
                raise RetriesExhausted(f"{failure}; results so far are kept, and the same command resumes")
            if attempts == 3:
                say(f"{failure}; trying again", error=True)
            asked_for = failure.wait if isinstance(failure, RateLimited) else None
            if asked_for is not None and asked_for > PATIENCE:
                raise UserError(f"{failure}; it asks to wait {asked_for:.0f} s: run the same command again then")
            self.wait(max(compute_backoff(attempts), asked_for or 0.0))

    def _classify(self, error: openai.APIStatusError, if_missing: str) -> Exception:
        """Return the error for an HTTP status: TransientError, RateLimited or UserError."""
        content, headers = error.response.content, error.response.headers
        failure = errors.classify_response(error.status_code, headers, content, self.base_url, self.key)
        if error.status_code == 404:
            return UserError(f"{failure}; {if_missing}")
        return UserError(str(failure)) if isinstance(failure, RequestRejected) else failure


def read_id(thing: object) -> str:
    """Return the id of a server's object. Errors: TransientError if it has none."""
    found = getattr(thing, "id", None)
    if isinstance(found, str) and found:
        return found
    raise TransientError(f"not an object of the Batch API: {str(thing)[:60]!r}", maybe_billed=True)


def _describe_loss(state: BatchState) -> str:
    return (
        f"does it belong to another account, or is it too old? If you delete {state.path}, its rows are asked, and "
        "paid, again"
    )
