"""Shape the body of a request as a server wants it, and learn from refusals what that is."""

import dataclasses
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from magicoder.config import RequestConfig
from magicoder.runtime.console import say
from magicoder.storage.files import read_json, write_json
from magicoder.teacher.errors import RequestRejected

SHAPE_FILE = "request.json"
MAX_TOKENS, SEED = "max_tokens", "seed"
LIMIT_NAMES = (MAX_TOKENS, "max_completion_tokens")
NEVER_OMITTED = ("model", "messages")
LEARNED_WORDS = ("max_tokens_field", "system_role")
LEARNED = ("omit", *LEARNED_WORDS)
"""Fields of a shape that a refusal can teach."""

UNSUPPORTED = re.compile(
    r"unsupported|not supported|n[o']t support|not (permitted|allowed|recognized|available|accepted|enabled)"
    r"|unrecognized|unknown|unexpected|extra[_ ](inputs?|fields?|forbidden)|extraneous|only the default|deprecated"
    r"|no longer",
    re.IGNORECASE,
)
"""Words of servers about a field that they do not take. A value out of bounds is for the user to change."""
ABOUT_THE_ROW = re.compile(
    r"context (length|window)|too large|too long|content.?filter|moderation|policy", re.IGNORECASE
)
NO_SYSTEM_ROLE = re.compile(
    r"(system|developer)[^.]{0,20}(role|message|prompt|instruction)|role[^.]{0,40}system|messages\[0\]\.role",
    re.IGNORECASE,
)
ONLY_OTHER_ROLES = re.compile(r"user and assistant roles|roles must alternate", re.IGNORECASE)
WHAT_IS_TAKEN = re.compile(
    r"\bexpected|(?<!not )\b(supported|known|allowed|valid|accepted|permitted) (field|param|prop|arg|key|value|input)"
    r"|must be one of|\buse\b",
    re.IGNORECASE,
)
"""Begins the part of a refusal that names the fields which the server does take."""
LIMIT_NAME = re.compile(r"\bmax_\w*tokens\b")
ECHOED = ("input", "body", "request")
"""Keys under which servers send back what they were sent: the fields in there are not what they refuse."""


@dataclass(frozen=True)
class RequestShape:
    """The form of every request to a server."""

    omit: tuple[str, ...] = ()
    max_tokens_field: str = MAX_TOKENS
    seed_field: str = SEED
    system_role: str = "system"
    extra_body: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def is_usual(self) -> bool:
        """Whether requests go as they are; asked for each of them."""
        return self == USUAL

    @classmethod
    def from_config(cls, request: RequestConfig) -> "RequestShape":
        """Return the shape that the config asks for."""
        names = request.max_tokens_field, request.seed_field
        return cls(tuple(request.omit), *names, request.system_role, dict(request.extra_body))

    def apply(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return the body in this shape. body: a chat completion request. Applied twice, it changes nothing more."""
        if self.is_usual:
            return body
        renamed = {MAX_TOKENS: self.max_tokens_field, SEED: self.seed_field}
        shaped = {renamed.get(name, name): value for name, value in body.items() if name not in self.omit}
        shaped["messages"] = place_system_message(body["messages"], self.system_role)
        return {name: value for name, value in (shaped | self.extra_body).items() if name not in self.omit}

    def describe_changes(self, former: "RequestShape") -> Iterator[str]:
        """Yield, as on the command line, each key that differs from a former shape."""
        for name in LEARNED:
            if (value := getattr(self, name)) != getattr(former, name):
                text = f"[{','.join(value)}]" if isinstance(value, tuple) else value
                yield f"teacher.request.{name}={text}"


USUAL = RequestShape()
"""OpenAI's form of 2023."""


def place_system_message(messages: Iterable[dict[str, str]], role: str) -> list[dict[str, str]]:
    """Return the messages with the system message in another place.

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


def list_adaptations(shape: RequestShape, refusal: RequestRejected, body: dict[str, Any]) -> Iterator[RequestShape]:
    """Yield the shapes without what a refusal names, best first; none if it names nothing that can be left out.

    body: the request as it was sent.
    """
    words = _read_refusal(refusal).replace(str(body.get("model")), " ")
    if ABOUT_THE_ROW.search(words) or ABOUT_THE_ROW.search(refusal.code or ""):
        return
    has_system_message = any(message["role"] not in ("user", "assistant") for message in body["messages"])
    is_unsupported = UNSUPPORTED.search(words) is not None
    if has_system_message and (ONLY_OTHER_ROLES.search(words) or (is_unsupported and NO_SYSTEM_ROLE.search(words))):
        yield dataclasses.replace(shape, system_role="user")
        return
    refused = _list_refused(words, body) if is_unsupported else []
    if shape.max_tokens_field in refused:
        # A request without a limit could cost anything, so only the user may ask for that.
        refused.remove(shape.max_tokens_field)
        for name in dict.fromkeys((*LIMIT_NAME.findall(words), *LIMIT_NAMES)):
            yield dataclasses.replace(shape, max_tokens_field=name)
    names = {shape.seed_field: SEED}
    if omitted := [names.get(name, name) for name in refused]:
        yield dataclasses.replace(shape, omit=tuple(dict.fromkeys((*shape.omit, *omitted))))


def _list_refused(words: str, body: dict[str, Any]) -> list[str]:
    """Return the fields of a body that a refusal names, ahead of those that it says are taken."""
    optional = [name for name in body if name not in NEVER_OMITTED]
    if (found := re.search(r'"param": "(?:body\.)?([\w.]+)"', words)) is not None and found[1] in optional:
        return [found[1]]
    end = WHAT_IS_TAKEN.search(words)
    part = words if end is None else words[: end.start()]
    return [name for name in optional if _is_named(name, part)]


def _read_refusal(refusal: RequestRejected) -> str:
    """Return a response's JSON without the parts of the request that it repeats; other text as it is."""

    def drop(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: drop(entry) for key, entry in value.items() if key not in ECHOED}
        return [drop(entry) for entry in value] if isinstance(value, list) else value

    try:
        return json.dumps(drop(json.loads(refusal.body)), ensure_ascii=False)
    except (ValueError, RecursionError):
        return refusal.body or str(refusal)


def _is_named(name: str, words: str) -> bool:
    """Return whether a refusal names a field; a name as short as `n` only where it is quoted or a path."""
    found = re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", words)
    if len(name) > 3 or found is None:
        return found is not None
    return re.search(rf"""["'`\[(.]{name}\\?["'`\])]|-> {name}\b|\b{name}: """, words) is not None


class Shaper:
    """The shape of the requests to one server, which the first refusals may change."""

    def __init__(self, configured: RequestShape, directory: Path | None = None, place: str = "") -> None:
        """directory: keeps what refusals teach, also for the next run; None: it is forgotten. place: the server."""
        self._configured, self._directory, self._place = configured, directory, place
        self.shape = self._proven = configured if directory is None else read_shape(directory, configured, place)
        self._tried = [self.shape]

    def adapt(self, refusal: RequestRejected, body: dict[str, Any]) -> bool:
        """Return whether a refused request is to be sent again in another shape, and say which key asks for that.

        No shape is tried twice. body: the request before it was shaped. If nothing helped, the last proven shape holds.
        """
        for adapted in list_adaptations(self.shape, refusal, self.shape.apply(body)):
            if adapted not in self._tried:
                keys = " ".join(adapted.describe_changes(self.shape))
                say(f"{refusal}; asked again as with {keys}, for the whole run if that is answered", error=True)
                self._tried.append(adapted)
                self.shape = adapted
                return True
        self.shape = self._proven
        return False

    def confirm(self) -> None:
        """Keep the shape: the server has answered a request in it."""
        if self.shape is self._proven:
            return
        self._proven = self.shape
        if self._directory is not None:
            path = self._directory / SHAPE_FILE
            learned = {name: getattr(self.shape, name) for name in LEARNED}
            changed = {name: value for name, value in learned.items() if value != getattr(self._configured, name)}
            write_json(path, {**(read_json(path) if path.exists() else {}), self._place: changed})


def read_shape(directory: Path, configured: RequestShape, place: str) -> RequestShape:
    """Return the configured shape with what former refusals of the server have taught.

    Where the config asks for another name or role than the usual one, that holds.
    """
    path = directory / SHAPE_FILE
    learned = read_json(path).get(place, {}) if path.exists() else {}
    kept = {
        name: value
        for name, value in learned.items()
        if name in LEARNED_WORDS and getattr(configured, name) == getattr(USUAL, name)
    }
    omit = tuple(dict.fromkeys([*configured.omit, *learned.get("omit", ())]))
    return dataclasses.replace(configured, omit=omit, **kept)
