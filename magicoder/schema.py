"""What a schema says besides types: which fields bear on the result, and what is out of its bounds."""

from collections.abc import Iterable, Iterator
from dataclasses import field, fields, is_dataclass
from typing import Any
from urllib.parse import urlsplit

from omegaconf import MISSING


def execution(default: Any = MISSING) -> Any:
    """A field that says how a run is carried out and not what comes out of it."""
    return field(default=default, metadata={"identity": False})


def revisable() -> Any:
    """A field that bears on the result, but not on all that was paid for: another value goes through that anew."""
    return field(default=MISSING, metadata={"revisable": True})


def location() -> Any:
    """A field that says where an input lies; the input itself bears identity by its content."""
    return field(default=MISSING, metadata={"identity": False, "location": True})


def names_a_run(settings: Any, key: str) -> bool:
    """Whether a key (dotted, below the dataclass `settings`) tells one run from another, as result or as input."""
    name, _, deeper = key.partition(".")
    entry = next((entry for entry in fields(settings) if entry.name == name), None)
    if entry is None:
        return True
    if not entry.metadata.get("identity", True) and not entry.metadata.get("location", False):
        return False
    value = getattr(settings, name)
    if not is_dataclass(value) or isinstance(value, type):
        return True
    return names_a_run(value, deeper) if deeper else any(names_a_run(value, field.name) for field in fields(value))


def identity(value: Any) -> Any:
    """The part of a config that bears on the result, as plain dictionaries, lists and scalars."""
    if is_dataclass(value):
        bearing = (entry.name for entry in fields(value) if entry.metadata.get("identity", True))
        parts = {name: identity(getattr(value, name)) for name in bearing}
        return {name: part for name, part in parts.items() if part != {}}
    if isinstance(value, dict):
        return {key: identity(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [identity(entry) for entry in value]
    return value


def revisable_keys(value: Any, path: str = "") -> Iterator[str]:
    """The dotted key of every field that is `revisable`."""
    if is_dataclass(value):
        for entry in fields(value):
            deeper = f"{path}.{entry.name}" if path else entry.name
            if entry.metadata.get("revisable", False):
                yield deeper
            yield from revisable_keys(getattr(value, entry.name), deeper)


def problems(value: Any, path: str = "") -> Iterator[str]:
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
        yield from problems(part, deeper)


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Each value of nested dictionaries that is no dictionary itself, with its dotted key."""
    if isinstance(value, dict):
        for key, deeper in value.items():
            yield from leaves(deeper, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def not_text(value: Any, path: str) -> Iterator[str]:
    """A problem for a text that holds bytes which were no UTF-8 on the command line."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            yield f"{path}: is not UTF-8"


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
