"""Mark which config fields are part of a run's identity, and read the identity out of a config."""

import copy
import hashlib
from collections.abc import Iterator
from dataclasses import Field, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from omegaconf import MISSING


def execution(default: Any = MISSING) -> Any:
    """Declare a field that changes the execution of a run but not its result."""
    return field(default=default, metadata={"identity": False})


def revisable() -> Any:
    """Declare a field that bears on the result but not on everything that was paid for: rows are derived again."""
    return field(default=MISSING, metadata={"revisable": True})


def location() -> Any:
    """Declare a field that locates an input; the input itself bears identity by its content."""
    return field(default=MISSING, metadata={"identity": False, "location": True})


def later(implied: Any, *, revisable: bool = False) -> Any:
    """Declare a field that was added later: with the value `implied` it bears no identity, as in runs before it."""
    return field(default=MISSING, metadata={"implied": implied, "revisable": revisable})


def _is_implied(entry: Field, value: Any) -> bool:
    return "implied" in entry.metadata and getattr(value, entry.name) == entry.metadata["implied"]


RENAMED_KEYS = {
    "data.generate.licences": "data.generate.licenses",
    "teacher.give_up": "teacher.reject_failed_rows",
    "teacher.serve": "teacher.serve_model",
    "teacher.results": "teacher.results_file",
    "parallel.nodes": "parallel.num_nodes",
}
"""Old key -> new key. On the command line an old key is an error that names the new one; on disk it is translated."""

_OF_SNIPPETS = ("chunk_size", "min_lines", "max_lines", "continue_from", "parser")
_OF_LOCAL_CODE = ("path", "near_duplicates", "licenses")
UNREAD_KEYS = {
    "hub": ("evolve", *_OF_LOCAL_CODE),
    "local": ("evolve", "dataset_name"),
    "instructions": ("dataset_name", "data_dir", "unit", *_OF_LOCAL_CODE, *_OF_SNIPPETS),
}
"""By `data.generate.source`: keys that former identities hold though the source never read them."""

UNREAD_VALUES = {"hub": {"unit": "lines"}}
"""By `data.generate.source`: the same of keys that the source reads today, with the value that they had then."""


def translate_identity(former: dict[str, Any]) -> dict[str, Any]:
    """Return a former run's identity with today's keys. former: what `manifest.json` or `started.json` holds."""
    if not isinstance(former.get("config"), dict):
        return former
    translated = copy.deepcopy(former)
    for old, new in RENAMED_KEYS.items():
        *path, old_name = old.split(".")
        node: Any = translated["config"]
        for name in path:
            node = node.get(name) if isinstance(node, dict) else None
        if isinstance(node, dict) and old_name in node:
            node[new.rpartition(".")[2]] = node.pop(old_name)
    _move_tokenizer(translated)
    data = translated["config"].get("data")
    seeds = data.get("generate") if isinstance(data, dict) else None
    if isinstance(seeds, dict):
        source = str(seeds.get("source"))
        for name in UNREAD_KEYS.get(source, ()):
            seeds.pop(name, None)
        for name, value in UNREAD_VALUES.get(source, {}).items():
            if seeds.get(name) == value:
                del seeds[name]
    return translated


def _move_tokenizer(identity: dict[str, Any]) -> None:
    """Name the tokenizer of a former identity among the inputs, as `identify_tokenizer` does now."""
    teacher = identity["config"].get("teacher")
    if isinstance(teacher, dict) and isinstance(name := teacher.pop("tokenizer", None), str):
        identity["inputs"] = {**(identity.get("inputs") or {}), "tokenizer": identify_tokenizer(name)}


def identify_tokenizer(name: str) -> str:
    """Return the SHA-256 of a tokenizer on this machine, so that its folder may be moved or respelled; else its
    name."""
    path = Path(name)
    file = path / "tokenizer.json" if (path / "tokenizer.json").is_file() else path
    if name == "tiktoken" or not path.exists():
        return name
    if file.is_file():
        return _digest(file)
    parts = sorted(each for each in path.iterdir() if each.suffix in (".model", ".json", ".txt") and each.is_file())
    return hashlib.sha256("".join(map(_digest, parts)).encode()).hexdigest()


def _digest(path: Path) -> str:
    with open(path, "rb") as file:  # as a stream: a GGUF file has gigabytes
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_distinguishing(settings: Any, key: str) -> bool:
    """Return whether a dotted key below the dataclass `settings` distinguishes runs, by result or by input."""
    name, _, deeper = key.partition(".")
    entry = next((entry for entry in fields(settings) if entry.name == name), None)
    if entry is None:
        return True
    if not entry.metadata.get("identity", True) and not entry.metadata.get("location", False):
        return False
    value = getattr(settings, name)
    if not is_dataclass(value) or isinstance(value, type):
        return True
    return (
        is_distinguishing(value, deeper)
        if deeper
        else any(is_distinguishing(value, field.name) for field in fields(value))
    )


def select_identity(value: Any) -> Any:
    """Return the part of a config that bears on the result, as plain dictionaries, lists and scalars."""
    if is_dataclass(value):
        bearing = [entry for entry in fields(value) if entry.metadata.get("identity", True)]
        parts = {
            entry.name: select_identity(getattr(value, entry.name))
            for entry in bearing
            if not _is_implied(entry, value)
        }
        return {name: part for name, part in parts.items() if part != {}}
    if isinstance(value, dict):
        return {key: select_identity(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [select_identity(entry) for entry in value]
    return value


def list_revisable_keys(value: Any, path: str = "") -> Iterator[str]:
    """Yield the dotted key of every field that is `revisable`."""
    if is_dataclass(value):
        for entry in fields(value):
            deeper = f"{path}.{entry.name}" if path else entry.name
            if entry.metadata.get("revisable", False):
                yield deeper
            yield from list_revisable_keys(getattr(value, entry.name), deeper)


def list_leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of nested dictionaries that are not dictionaries, with their dotted keys."""
    if isinstance(value, dict):
        for key, deeper in value.items():
            yield from list_leaves(deeper, f"{path}.{key}" if path else str(key))
    else:
        yield path, value
