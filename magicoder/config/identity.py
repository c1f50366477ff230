"""Mark which config fields are part of a run's identity, and read the identity out of a config."""

from collections.abc import Iterator
from dataclasses import field, fields, is_dataclass
from typing import Any

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


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Each value of nested dictionaries that is no dictionary itself, with its dotted key."""
    if isinstance(value, dict):
        for key, deeper in value.items():
            yield from leaves(deeper, f"{path}.{key}" if path else str(key))
    else:
        yield path, value
