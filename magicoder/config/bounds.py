"""Check config values against their bounds."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any
from urllib.parse import urlsplit


def require_at_least(minimum: float, **values: float) -> Iterator[str]:
    """Yield a problem for each named value below `minimum`."""
    for name, value in values.items():
        if not value >= minimum:  # "not", so that NaN is a violation
            yield f"{name}={value}: must be at least {minimum}"


def require_above(bound: float, **values: float) -> Iterator[str]:
    """Yield a problem for each named value that is not above `bound`."""
    for name, value in values.items():
        if not value > bound:
            yield f"{name}={value}: must be above {bound}"


def find_url_problems(url: str) -> Iterator[str]:
    """Yield a problem if `url` is not HTTP, has a password, which would reach files, or names another endpoint."""
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").encode("idna")  # the codec rejects empty and overlong labels
        named = parts.scheme in ("http", "https") and bool(host) and parts.port != 0
    except ValueError:
        named = False
    if not named:
        yield "must begin with http:// or https:// and name a host, and a port by its number"
    elif "@" in parts.netloc:
        yield "must hold no user name or password; put a key into the variable of teacher.api_key_env"
    elif "#" in url:
        yield "must have no #; requests go to /chat/completions below its path"
    elif re.search(r"(?<!/chat)/(completions|responses|messages|embeddings)/?$", parts.path):
        yield "names another endpoint; requests go to /chat/completions, so it should look like https://HOST/v1"


def require_one_of(choices: tuple[str, ...], **values: str) -> Iterator[str]:
    """Yield a problem for each named value that is not among `choices`."""
    for name, value in values.items():
        if value not in choices:
            yield f"{name}={value}: choose one of {', '.join(choices)}"


def require_paths(**values: Any) -> Iterator[str]:
    """Yield a problem for each named value that is neither a text nor a list of texts."""
    for name, value in values.items():
        if not all(isinstance(path, str) for path in (value if isinstance(value, list) else [value])):
            yield f"{name}={value}: name one file or directory, or several as [a,b]"


def validate(value: Any, path: str = "") -> Iterator[str]:
    """Yield one line for each value of the tree outside its bounds, with its key."""
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
        yield from reject_bytes(part, deeper)
        yield from validate(part, deeper)


def reject_bytes(value: Any, path: str) -> Iterator[str]:
    """Yield a problem for a text with bytes that were not UTF-8 on the command line."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            yield f"{path}: is not UTF-8"
