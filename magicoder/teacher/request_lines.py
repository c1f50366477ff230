"""Lines of request and result files: the form that OpenAI's Batch API and vLLM's batch runner share.

A request is {"custom_id", "method", "url", "body"}. A result is {"custom_id", "response": {"status_code", "body"},
"error"}. Results come in any order.
"""

import json
import re
from typing import Any, Final

from magicoder.runtime.errors import UserError
from magicoder.runtime.text import make_encodable
from magicoder.storage.files import encode_row
from magicoder.teacher.api_key import Key
from magicoder.teacher.completions import parse_completion
from magicoder.teacher.errors import (
    RateLimited,
    RequestRejected,
    TransientError,
    classify_response,
    extract_message,
)
from magicoder.teacher.journal import Journal
from magicoder.teacher.request_shape import RequestShape
from magicoder.teacher.requests import Request

URL: Final = "/v1/chat/completions"
SAMPLE_JOURNAL = "journal-sample"
"""Beginning of the names of the journals with further samples."""
MAIN_JOURNAL = "journal"
"""Name of a run's first journal; it appears in no file name and in no custom_id."""


def encode_request(journal: Journal, request: Request, shape: RequestShape) -> bytes:
    """Return the line of a request. Lone surrogates are replaced: one would spoil the whole file."""
    body = shape.apply(request.body)
    messages = [{**message, "content": make_encodable(message["content"])} for message in body["messages"]]
    name = f"{_make_prefix(journal.name)}{request.index}"
    return encode_row({"custom_id": name, "method": "POST", "url": URL, "body": {**body, "messages": messages}})


def parse_index(custom_id: object, journal: Journal) -> int | None:
    """Return the row of a custom_id; None if it does not belong to this journal."""
    prefix = _make_prefix(journal.name)
    if not isinstance(custom_id, str) or not custom_id.startswith(prefix):
        return None
    try:
        index = int(custom_id.removeprefix(prefix))
        _ = index in journal  # raises ValueError for a row outside the journal
    except ValueError:
        return None
    return index


def is_of_another_pass(custom_id: object, journal: Journal) -> bool:
    """Return whether another pass of the same run may have given this name."""
    if not isinstance(custom_id, str):
        return False
    if journal.name == MAIN_JOURNAL:
        return re.fullmatch(rf"{SAMPLE_JOURNAL}-\d+-row-\d+", custom_id) is not None
    if journal.name.startswith(SAMPLE_JOURNAL) and re.fullmatch(r"row-\d+", custom_id) is not None:
        return True
    if custom_id.startswith(_make_prefix(journal.name)):
        return False
    return re.fullmatch(rf"{MAIN_JOURNAL}-[a-z]+-\d+-row-\d+", custom_id) is not None


def parse_result(line: bytes) -> dict[str, Any] | None:
    """Return the result on a line; None if the line holds none."""
    try:
        result = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return result if isinstance(result, dict) and "custom_id" in result else None


def read_outcome(result: dict[str, Any], place: str, key: Key) -> dict[str, Any] | Exception:
    """Return the chat completion of a result, or the error that it reports (see `errors`).

    place: the server, for messages. key: masked in them.
    """
    response, error = result.get("response"), result.get("error")
    if not isinstance(response, dict):  # the batch expired or was cancelled before this request
        return TransientError(f"{place}: {_describe(error, key)}", maybe_billed=error is None)
    status, body = response.get("status_code"), response.get("body")
    if status == 200:
        try:
            return parse_completion(json.dumps(body).encode(), place, key)
        except RecursionError:
            return TransientError(f"{place}: not a chat completion", maybe_billed=True)
        except (TransientError, RequestRejected, RateLimited, UserError) as failure:
            return failure
    if isinstance(error, str) or not isinstance(status, int) or not 100 <= status <= 599:
        # vLLM gives status 400 and a bare text for all its internal failures; OpenAI has been seen to give 0.
        return TransientError(f"{place}: {_describe(error or body, key)}", maybe_billed=True)
    reported = body if isinstance(body, dict) and "error" in body else _wrap_error(error)
    return classify_response(status, {}, json.dumps(reported).encode(), place, key)


def _make_prefix(journal_name: str) -> str:
    return "row-" if journal_name == MAIN_JOURNAL else f"{journal_name}-row-"


def _wrap_error(error: object) -> object:
    """Return an error in the form of a live server; vLLM's already has it."""
    return error if isinstance(error, dict) and "error" in error else {"error": error}


def _describe(error: object, key: Key) -> str:
    wrapped = _wrap_error({"message": error} if isinstance(error, str) else error)
    return extract_message(json.dumps(wrapped).encode(), key)[0]
