"""Records of the journal: what is known about each request, and their form on disk.

One line of the journal is one record:

    {"index", "max_tokens", "attempts", "seconds", "finish_reason", "usage", "answer"}   Answered
    {"index", "refused", "code", "max_tokens"}   Refused
    {"index", "unanswered", "attempts"}          Unanswered
    {"index", "no_room"}                         PromptTooLong
    {"index", "sent"}                            Sent
    {"index", "not_charged"}                     NotCharged

`usage` and `sent` are [prompt tokens, completion tokens]. `"batch": true` beside them means the price of batches,
`"noted": true` that the answer belongs to the last `sent`, `"left": true` that the next run asks the row again. The
answer comes last in its line, so the head of a line is read without parsing what the teacher wrote.
"""

import json
from dataclasses import dataclass
from typing import Any

from magicoder.storage.files import encode_row
from magicoder.teacher.completions import Message, classify_end, read_choice, read_message

BEFORE_ANSWER = b', "answer": '
"""Separates head and answer. No text in the head can contain it: quotes within a text are escaped."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of prompts and of completions."""

    prompt: int = 0
    completion: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        """Return the sum."""
        return Usage(self.prompt + other.prompt, self.completion + other.completion)

    def __sub__(self, other: "Usage") -> "Usage":
        """Return the difference."""
        return Usage(self.prompt - other.prompt, self.completion - other.completion)


@dataclass(frozen=True, slots=True)
class Answered:
    """The server's answer as received.

    max_tokens: limit of the completion. seconds: from the request's turn to the answer, waits included. noted: the
    journal says that this very request was sent. by_batch: billed at the price of batches. answer: the JSON of the chat
    completion; empty where only the head of the line was read.
    """

    index: int
    max_tokens: int
    attempts: int
    seconds: float
    finish_reason: str | None
    usage: Usage
    answer: dict[str, Any]
    noted: bool = False
    by_batch: bool = False

    @property
    def message(self) -> Message:
        """The model's words."""
        return read_message(self.answer)

    @property
    def content(self) -> Any:
        """The message's content as the server sent it: text, parts, or anything else; None without a message."""
        message = read_choice(self.answer).get("message")
        return message.get("content") if isinstance(message, dict) else None

    @property
    def end(self) -> str:
        """How the answer ended, in OpenAI's word: see `classify_end`."""
        return classify_end(read_choice(self.answer).get("finish_reason"))


@dataclass(frozen=True, slots=True)
class Refused:
    """The server will not answer this request.

    code: the server's name for the cause. left: the next run asks again. max_tokens: limit of the completion that was
    asked for; None in older journals.
    """

    index: int
    message: str
    code: str | None
    left: bool = False
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Unanswered:
    """Every attempt failed. message: the last failure. left: the next run asks again."""

    index: int
    message: str
    attempts: int
    left: bool = False


@dataclass(frozen=True, slots=True)
class PromptTooLong:
    """No request was made: a prompt of so many tokens leaves no room for an answer."""

    index: int
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Sent:
    """The request is about to be sent and may be billed with `usage` at most."""

    index: int
    usage: Usage
    by_batch: bool = False


@dataclass(frozen=True, slots=True)
class NotCharged:
    """The request that was sent last for this row was not billed."""

    index: int


Record = Answered | Refused | Unanswered | PromptTooLong
"""What settles a row, unless it is left to the next run. The last one counts."""
Note = Sent | NotCharged
"""What is said about money alone."""


def encode_record(record: Record | Note) -> bytes:
    """Return the line of a record, with its line end."""
    match record:
        case Answered():
            flags = {name: True for name, is_set in (("noted", record.noted), ("batch", record.by_batch)) if is_set}
            head = {"index": record.index, "max_tokens": record.max_tokens, "attempts": record.attempts}
            usage = {"finish_reason": record.finish_reason, "usage": [record.usage.prompt, record.usage.completion]}
            return encode_row({**head, "seconds": record.seconds, **flags, **usage, "answer": record.answer})
        case Refused():
            fields: dict[str, Any] = {"refused": record.message, "code": record.code}
            fields |= {} if record.max_tokens is None else {"max_tokens": record.max_tokens}
        case Unanswered():
            fields = {"unanswered": record.message, "attempts": record.attempts}
        case PromptTooLong():
            fields = {"no_room": record.prompt_tokens}
        case Sent():
            fields = {"sent": [record.usage.prompt, record.usage.completion]}
            fields |= {"batch": True} if record.by_batch else {}
        case NotCharged():
            fields = {"not_charged": True}
    if isinstance(record, Refused | Unanswered) and record.left:
        fields["left"] = True
    return encode_row({"index": record.index, **fields})


def decode_head(line: bytes) -> Record | Note:
    """Parse a line except for its answer, which stays empty. Errors: ValueError if it is not a record."""
    head, separator, _ = line.partition(BEFORE_ANSWER)
    return decode_record(head + b"}" if separator else line)


def decode_record(line: bytes) -> Record | Note:
    """Parse a whole line. Errors: ValueError if it is not a record."""
    try:
        # As text: for bytes json.loads guesses the encoding, which takes 5 % of the time to open a long journal.
        fields = json.loads(line.decode("utf-8", "surrogatepass"))
        if not isinstance(fields, dict) or type(fields["index"]) is not int:
            raise ValueError("no index")
        return _build(fields)
    except (LookupError, RecursionError, TypeError) as error:
        raise ValueError(str(error)) from error


def _build(fields: dict[str, Any]) -> Record | Note:
    index = fields["index"]
    if "usage" in fields or "sent" in fields:
        if "usage" in fields and "sent" in fields:
            raise ValueError("both sent and answered")
        by_batch = bool(fields.get("batch", False))
        if "sent" in fields:
            return Sent(index, _build_usage(fields["sent"]), by_batch)
        return Answered(
            index,
            fields.get("max_tokens", 0),
            fields.get("attempts", 0),
            fields.get("seconds", 0.0),
            fields.get("finish_reason"),
            _build_usage(fields["usage"]),
            fields.get("answer", {}),
            bool(fields.get("noted", False)),
            by_batch,
        )
    left = bool(fields.get("left", False))
    if "refused" in fields:
        return Refused(index, fields["refused"], fields.get("code"), left, fields.get("max_tokens"))
    if "unanswered" in fields:
        return Unanswered(index, fields["unanswered"], fields.get("attempts", 0), left)
    if "no_room" in fields:
        return PromptTooLong(index, fields["no_room"])
    if "not_charged" in fields:
        return NotCharged(index)
    raise ValueError("unknown kind of record")


def _build_usage(tokens: object) -> Usage:
    if isinstance(tokens, list) and len(tokens) == 2 and type(tokens[0]) is int and type(tokens[1]) is int:
        return Usage(tokens[0], tokens[1])
    raise ValueError("not two numbers of tokens")
