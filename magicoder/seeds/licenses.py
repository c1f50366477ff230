"""Find the license of a source file as an SPDX expression, and check it against the allowed ones."""

import json
import re
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from license_expression import Licensing
from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from magicoder.seeds.code_files import make_printable

LICENSING = Licensing()

HEAD_LINES = 20
STATED = re.compile(r"SPDX-License-Identifier:\s*([\w.+() -]+)")
LICENSE_FILE = re.compile(r"(licen[sc]e|copying|unlicense)([-_.][\w.+-]*)?", re.IGNORECASE)
MAX_BYTES = 2**20

RULE = re.compile(r"[=*_-]{4,}")
"""Lines that underline a title."""
BSD = (
    "redistribution and use in source and binary forms, with or without modification, are permitted provided that the "
    "following conditions are met"
)
BSD_NAME = re.compile(r"neither the names? |the names? of .{1,200} may not be used to endorse")
BSD_OTHER = re.compile(r"all advertising materials|no express or implied licenses|military|nuclear facility")
MIT = (
    "permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated "
    'documentation files (the "software"), to deal in the software without restriction'
)
MIT_NOTICE = "the above copyright notice and this permission notice shall be included"
MIT_OTHER = re.compile(r"shall be used for good|except as contained in this notice")
ISC = re.compile(
    r"permission to use, copy, modify,? and(/or)? distribute this software for any purpose with or without fee is "
    r"hereby granted, provided that the above copyright notice and this permission notice appear in all copies"
)
TITLES = {
    "Apache-2.0": "apache license version 2.0, january 2004",
    "GPL-2.0": "gnu general public license version 2, june 1991",
    "GPL-3.0": "gnu general public license version 3, 29 june 2007",
    "LGPL-2.1": "gnu lesser general public license version 2.1, february 1999",
    "LGPL-3.0": "gnu lesser general public license version 3, 29 june 2007",
    "AGPL-3.0": "gnu affero general public license version 3, 19 november 2007",
    "MPL-2.0": "mozilla public license version 2.0 1. definitions",
    "Unlicense": "this is free and unencumbered software released into the public domain",
    "Python-2.0": "beopen.com license agreement for python 2.0",
}
"""Texts that no other license contains. A GPL text does not say whether later versions are allowed."""


@dataclass(frozen=True)
class License:
    """An SPDX expression and the file that states it, both None if none was found."""

    expression: str | None
    stated_in: str | None


class Licenses:
    """The licenses of files below `root`: stated by the file itself, else by the nearest folder above it."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._by_folder: dict[Path, License] = {}

    def find(self, path: Path, text: str) -> License:
        """Return the license of the file at `path` with this text."""
        stated = STATED.search("\n".join(text.split("\n", HEAD_LINES)[:HEAD_LINES]))
        if stated and (expression := normalize_expression(stated[1].rstrip(" -"))):
            return License(expression, self._name(path))
        return self._find_above(path.parent)

    def _find_above(self, folder: Path) -> License:
        if folder not in self._by_folder:
            found = self._read_folder(folder)
            if found.expression is None and folder != self._root:
                found = self._find_above(folder.parent)
            self._by_folder[folder] = found
        return self._by_folder[folder]

    def _read_folder(self, folder: Path) -> License:
        """Return the license in a package description, else those of all license files, joined by AND."""
        for name, reader in DESCRIPTIONS.items():
            if (expression := reader(_read(folder / name))) is not None:
                return License(expression, self._name(folder / name))
        texts = {path: recognize_text(_read(path)) for path in _list_license_files(folder)}
        known = {path: identifier for path, identifier in texts.items() if identifier is not None}
        if not known:
            return License(None, None)
        expression = " AND ".join(sorted(set(known.values())))
        return License(expression, ", ".join(self._name(path) for path in known))

    def _name(self, path: Path) -> str:
        return make_printable(str(path.relative_to(self._root)))


def normalize_expression(expression: object) -> str | None:
    """Return an SPDX expression in canonical spelling; None if it is not one. The slash of old Cargo files means OR."""
    if not isinstance(expression, str):
        return None
    try:
        return canonicalize_license_expression(expression.replace("/", " OR "))
    except InvalidLicenseExpression:
        return None


def is_allowed(expression: str, allowed: Iterable[str]) -> bool:
    """Return whether someone who accepts only the licenses `allowed` may use code under `expression`.

    expression, allowed: in canonical spelling; a license WITH an exception is a license of its own.
    """
    accepted = set(allowed)
    parsed = LICENSING.parse(expression, simple=True)
    verdicts = {
        symbol: LICENSING.TRUE if str(symbol) in accepted else LICENSING.FALSE
        for symbol in LICENSING.license_symbols(parsed, unique=True, decompose=False)
    }
    return parsed.subs(verdicts, simplify=True) == LICENSING.TRUE


def recognize_text(text: str) -> str | None:
    """Return the license of a license text; None for an unknown one, for added conditions, and for several."""
    plain = re.sub(r"[“”]", '"', text.lower()).replace("``", '"').replace("''", '"')
    words = " ".join(RULE.sub(" ", plain).split())
    if "commons clause" in words:
        return None
    found = [identifier for identifier, title in TITLES.items() if title in words]
    if MIT in words and MIT_NOTICE in words and not MIT_OTHER.search(words):
        found.append("MIT")
    if ISC.search(words):
        found.append("ISC")
    if BSD in words and not BSD_OTHER.search(words):
        found.append("BSD-3-Clause" if BSD_NAME.search(words) else "BSD-2-Clause")
    return found[0] if len(found) == 1 else None


def _list_license_files(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if LICENSE_FILE.fullmatch(path.name))
    except OSError:
        return []


def _read(path: Path) -> str:
    """Read at most `MAX_BYTES` of a file; empty if it cannot be read."""
    try:
        if not path.is_file():
            return ""
        with open(path, "rb") as file:
            return file.read(MAX_BYTES).decode("utf-8", errors="replace")
    except OSError:
        return ""


def _get(tree: Any, *keys: str) -> Any:
    """Return the value below nested keys; None if one is missing."""
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def _parse(text: str, parse: Callable[[str], Any]) -> Any:
    try:
        return parse(text)
    except (ValueError, RecursionError):
        return None


def _read_pyproject(text: str) -> str | None:
    tree = _parse(text, tomllib.loads)
    places = (("project", "license"), ("project", "license", "text"), ("tool", "poetry", "license"))
    return next(filter(None, (normalize_expression(_get(tree, *place)) for place in places)), None)


def _read_cargo(text: str) -> str | None:
    tree = _parse(text, tomllib.loads)
    return normalize_expression(_get(tree, "package", "license")) or normalize_expression(
        _get(tree, "workspace", "package", "license")
    )


def _read_package_json(text: str) -> str | None:
    tree = _parse(text, json.loads)
    return normalize_expression(_get(tree, "license")) or normalize_expression(_get(tree, "license", "type"))


DESCRIPTIONS = {"pyproject.toml": _read_pyproject, "package.json": _read_package_json, "Cargo.toml": _read_cargo}
