"""Check config values against their bounds."""

from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any
from urllib.parse import urlsplit


def at_least(minimum: float, **values: float) -> Iterator[str]:
    """A problem for each named value below `minimum`."""
    for name, value in values.items():
        if not value >= minimum:  # "not" so that NaN counts as wrong
            yield f"{name}={value}: must be at least {minimum}"


def above(bound: float, **values: float) -> Iterator[str]:
    """A problem for each named value that is not above `bound`."""
    for name, value in values.items():
        if not value > bound:
            yield f"{name}={value}: must be above {bound}"


def url_problems(url: str) -> Iterator[str]:
    """A problem if `url` is none of HTTP, holds a password, which would reach files, or more than host and path."""
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").encode("idna")  # which knows of empty and of overlong labels
        named = parts.scheme in ("http", "https") and bool(host) and parts.port != 0
    except ValueError:
        named = False
    if not named:
        yield "must begin with http:// or https:// and name a host, and a port by its number"
    elif "@" in parts.netloc:
        yield "must hold no user name or password; put a key into the variable of teacher.api_key_env"
    elif "?" in url or "#" in url:
        yield "must end with its path: requests go to /chat/completions below it"


def one_of(choices: tuple[str, ...], **values: str) -> Iterator[str]:
    """A problem for each named value that is none of `choices`."""
    for name, value in values.items():
        if value not in choices:
            yield f"{name}={value}: choose one of {', '.join(choices)}"


def validate(value: Any, path: str = "") -> Iterator[str]:
    """Every value of the tree that is out of its bounds, a line each, named by its key."""
    parts: Iterable[tuple[Any, Any]] = ()
    if is_dataclass(value):
        if hasattr(value, "check"):
            yield from (f"{path}.{problem}" if path else problem for problem in value.check())
        parts = ((entry.name, getattr(value, entry.name)) for entry in fields(value))
    elif isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, list):
        parts = enumerate(value)
    for name, part in parts:
        deeper = f"{path}.{name}" if path else str(name)
        yield from not_text(part, deeper)
        yield from validate(part, deeper)


def not_text(value: Any, path: str) -> Iterator[str]:
    """A problem for a text that holds bytes which were no UTF-8 on the command line."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            yield f"{path}: is not UTF-8"
