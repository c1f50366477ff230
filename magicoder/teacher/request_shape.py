"""Shape the body of a request as a server wants it, and learn from refusals what that is."""

import dataclasses
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from magicoder.config import RequestConfig
from magicoder.runtime.console import say
from magicoder.storage.files import read_json, write_json
from magicoder.teacher.errors import RequestRejected

SHAPE_FILE = "request.json"
MAX_TOKENS = "max_tokens"
NEVER_OMITTED = ("model", "messages")
UNSUPPORTED = re.compile(
    r"unsupported|not supported|n[o']t support|not (permitted|allowed|recognized|available|accepted)|unrecognized"
    r"|unknown (name|field|param|arg)|unexpected|extra[_ ](inputs?|fields?|forbidden)|extraneous|only the default"
    r"|deprecated|no longer",
    re.IGNORECASE,
)
"""Words of servers about a field that they do not take. A value out of bounds is for the user to change."""
ABOUT_LENGTH = re.compile(r"context (length|window)|too large|too long", re.IGNORECASE)
NO_SYSTEM_ROLE = re.compile(
    r"system[^.]{0,60}(role|message|prompt|instruction)|role[^.]{0,60}system|user and assistant roles"
    r"|roles must alternate",
    re.IGNORECASE,
)
LIMIT_NAME = re.compile(r"\bmax_\w*tokens\b")
NEXT_LIMIT_NAME = "max_completion_tokens"
ECHOED = ("input", "body", "request")
"""Keys under which servers send back what they were sent: the fields in there are not what they refuse."""


@dataclass(frozen=True)
class RequestShape:
    """The form of every request of a run. Its fields are those of `teacher.request` that a refusal can teach."""

    omit: tuple[str, ...] = ()
    max_tokens_field: str = MAX_TOKENS
    system_role: str = "system"
    extra_body: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_config(cls, request: RequestConfig) -> "RequestShape":
        """Return the shape that the config asks for."""
        return cls(tuple(request.omit), request.max_tokens_field, request.system_role, dict(request.extra_body))

    def apply(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return the body in this shape. body: a chat completion request. Applied twice, it changes nothing more."""
        shaped = {name: value for name, value in body.items() if name != MAX_TOKENS}
        shaped["messages"] = place_system_message(body["messages"], self.system_role)
        if MAX_TOKENS in body:
            shaped[self.max_tokens_field] = body[MAX_TOKENS]
        return {name: value for name, value in (shaped | self.extra_body).items() if name not in self.omit}

    def describe_changes(self, former: "RequestShape") -> Iterator[str]:
        """Yield, as on the command line, each key that differs from a former shape."""
        if self.omit != former.omit:
            yield f"teacher.request.omit=[{','.join(self.omit)}]"
        if self.max_tokens_field != former.max_tokens_field:
            yield f"teacher.request.max_tokens_field={self.max_tokens_field}"
        if self.system_role != former.system_role:
            yield f"teacher.request.system_role={self.system_role}"


def place_system_message(messages: Iterable[dict[str, str]], role: str) -> list[dict[str, str]]:
    """Return the messages with the system message under another role, inside the first message of the user, or without
    it.

    role: `none` leaves it out, `user` puts it ahead of the user's first message, anything else is its role.
    """
    system = [message for message in messages if message["role"] == "system"]
    others = [message for message in messages if message["role"] != "system"]
    if not system or role == "none":
        return others
    if role == "user":
        text = "\n\n".join(message["content"] for message in (*system, others[0]))
        return [{"role": "user", "content": text}, *others[1:]]
    return [*({**message, "role": role} for message in system), *others]


def adapt_shape(shape: RequestShape, refusal: RequestRejected, body: dict[str, Any]) -> RequestShape | None:
    """Return a shape without what a refusal names; None if it names nothing that can be left out.

    body: the request as it was sent.
    """
    words = _drop_echo(refusal.body) or str(refusal)
    if ABOUT_LENGTH.search(words) or not (UNSUPPORTED.search(words) or NO_SYSTEM_ROLE.search(words)):
        return None
    has_system_message = any(message["role"] not in ("user", "assistant") for message in body["messages"])
    if has_system_message and NO_SYSTEM_ROLE.search(words):
        return dataclasses.replace(shape, system_role="user")
    refused = [name for name in body if name not in NEVER_OMITTED and _is_named(name, words)]
    if (current := shape.max_tokens_field) in refused:
        others = [name for name in LIMIT_NAME.findall(words) if name != current]
        if others or current == MAX_TOKENS:
            return dataclasses.replace(shape, max_tokens_field=others[0] if others else NEXT_LIMIT_NAME)
    return dataclasses.replace(shape, omit=(*shape.omit, *refused)) if refused else None


def _drop_echo(body: str) -> str:
    """Return a response's JSON without the parts of the request that it repeats; other text as it is."""

    def drop(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: drop(entry) for key, entry in value.items() if key not in ECHOED}
        return [drop(entry) for entry in value] if isinstance(value, list) else value

    try:
        return json.dumps(drop(json.loads(body)), ensure_ascii=False)
    except (ValueError, RecursionError):
        return body


def _is_named(name: str, words: str) -> bool:
    """Return whether a refusal names a field; a name as short as `n` only where it is quoted or a path."""
    found = re.search(rf"(?<!\w){re.escape(name)}(?!\w)", words)
    if len(name) > 3 or found is None:
        return found is not None
    return re.search(rf"""["'`\[(.]{name}\\?["'`\])]|-> {name}\b|\b{name}: """, words) is not None


class Shaper:
    """The shape of a run's requests, which the first refusals may change."""

    def __init__(self, shape: RequestShape, directory: Path | None = None) -> None:
        """directory: keeps what refusals teach, also for the next run; None: it is forgotten."""
        self.shape = shape
        self._directory = directory

    def adapt(self, used: RequestShape, refusal: RequestRejected, body: dict[str, Any]) -> bool:
        """Return whether a refused request is to be sent again in another shape, and say which key asks for that.

        used: the shape in which it was refused. body: the request before it was shaped.
        """
        if used is not self.shape:  # another server's refusal changed it meanwhile
            return True
        adapted = adapt_shape(used, refusal, used.apply(body))
        if adapted is None:
            return False
        self.shape = adapted
        if self._directory is not None:
            save_shape(self._directory, adapted)
        keys = " ".join(adapted.describe_changes(used))
        say(f"{refusal}; asked again as with {keys}, which holds for the whole run", error=True)
        return True


def read_shape(directory: Path, configured: RequestShape) -> RequestShape:
    """Return the shape that a former run of the directory learned, joined with the configured one."""
    path = directory / SHAPE_FILE
    if not path.exists():
        return configured
    learned = read_json(path)
    default = RequestShape()
    names = ("max_tokens_field", "system_role")
    chosen = {name: getattr(configured, name) for name in names if getattr(configured, name) != getattr(default, name)}
    kept = {name: learned[name] for name in names if name not in chosen}
    omit = tuple(dict.fromkeys([*configured.omit, *learned["omit"]]))
    return dataclasses.replace(configured, omit=omit, **kept)


def save_shape(directory: Path, shape: RequestShape) -> None:
    """Write the learned shape: it holds for the rest of the run, also after a kill."""
    write_json(directory / SHAPE_FILE, describe_shape(shape))


def describe_shape(shape: RequestShape) -> dict[str, Any]:
    """Return the shape as JSON, for its file and the manifest."""
    return dataclasses.asdict(shape)
