"""The licence of a file of source code as an SPDX expression, and whether it is among those allowed."""

import json
import re
import tomllib
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from magicoder.seeds.code_files import shown

HEAD_LINES = 20
STATED = re.compile(r"SPDX-License-Identifier:\s*([\w.+() -]+)")
LICENCE_FILE = re.compile(r"(licen[sc]e|copying|unlicense)([-_.][\w.+-]*)?", re.IGNORECASE)
LARGEST = 2**20

BSD = (
    "redistribution and use in source and binary forms, with or without modification, are permitted provided that the "
    "following conditions are met"
)
BSD_NAME = re.compile(r"neither the names? of|the names? of .{1,200} may not be used to endorse")
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
"""Texts that no other licence holds. Whether a GPL goes on to later versions it does not say itself."""


@dataclass(frozen=True)
class License:
    """An SPDX expression and the file that states it, both None where none is found."""

    expression: str | None
    stated_in: str | None


class Licenses:
    """The licences of files below `root`: what a file states itself, else the nearest folder above it that does."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._of_folder: dict[Path, License] = {}

    def of(self, path: Path, text: str) -> License:
        """The licence of the file at `path` with this text."""
        stated = STATED.search("\n".join(text.split("\n", HEAD_LINES)[:HEAD_LINES]))
        if stated and (expression := spdx(stated[1].rstrip(" -"))):
            return License(expression, self._shown(path))
        return self._of(path.parent)

    def _of(self, folder: Path) -> License:
        if folder not in self._of_folder:
            found = self._stated_in(folder)
            if found.expression is None and folder != self._root:
                found = self._of(folder.parent)
            self._of_folder[folder] = found
        return self._of_folder[folder]

    def _stated_in(self, folder: Path) -> License:
        """By the description of a package in the folder, else by its licence files: all of them hold."""
        for name, reader in DESCRIPTIONS.items():
            if (expression := reader(_read(folder / name))) is not None:
                return License(expression, self._shown(folder / name))
        texts = {path: recognised(_read(path)) for path in _licence_files(folder)}
        known = {path: identifier for path, identifier in texts.items() if identifier is not None}
        if not known:
            return License(None, None)
        expression = " AND ".join(sorted(set(known.values())))
        return License(expression, ", ".join(self._shown(path) for path in known))

    def _shown(self, path: Path) -> str:
        return shown(str(path.relative_to(self._root)))


def spdx(expression: object) -> str | None:
    """The expression in its canonical spelling; None if it is none. The slash of old Cargo files means OR."""
    if not isinstance(expression, str):
        return None
    try:
        return canonicalize_license_expression(expression.replace("/", " OR "))
    except InvalidLicenseExpression:
        return None


def is_allowed(expression: str, allowed: Iterable[str]) -> bool:
    """Whether someone who accepts the licences `allowed`, and no others, may take what stands under `expression`.

    expression and allowed: in canonical spelling.
    """
    accepted = set(allowed)
    tokens = deque(re.findall(r"[()]|[^\s()]+ WITH [^\s()]+|[^\s()]+", expression))

    def either() -> bool:
        verdicts = [both()]
        while tokens and tokens[0] == "OR":
            tokens.popleft()
            verdicts.append(both())
        return any(verdicts)

    def both() -> bool:
        verdicts = [one()]
        while tokens and tokens[0] == "AND":
            tokens.popleft()
            verdicts.append(one())
        return all(verdicts)

    def one() -> bool:
        token = tokens.popleft()
        if token != "(":
            return token in accepted
        verdict = either()
        tokens.popleft()  # the closing parenthesis
        return verdict

    return either()


def recognised(text: str) -> str | None:
    """The licence of which this is the text; None for another, for one with conditions added, and for several."""
    words = " ".join(re.sub(r"[“”]", '"', text.lower()).replace("``", '"').replace("''", '"').split())
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


def _licence_files(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if LICENCE_FILE.fullmatch(path.name))
    except OSError:
        return []


def _read(path: Path) -> str:
    """The text of a file, empty where there is none that can be read; more than a licence needs is not read."""
    try:
        if not path.is_file():
            return ""
        with open(path, "rb") as file:
            return file.read(LARGEST).decode("utf-8", errors="replace")
    except OSError:
        return ""


def _at(tree: Any, *keys: str) -> Any:
    """The value below nested keys; None where one is missing."""
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def _parsed(text: str, parse: Callable[[str], Any]) -> Any:
    try:
        return parse(text)
    except (ValueError, RecursionError):
        return None


def _pyproject(text: str) -> str | None:
    tree = _parsed(text, tomllib.loads)
    places = (("project", "license"), ("project", "license", "text"), ("tool", "poetry", "license"))
    return next(filter(None, (spdx(_at(tree, *place)) for place in places)), None)


def _cargo(text: str) -> str | None:
    tree = _parsed(text, tomllib.loads)
    return spdx(_at(tree, "package", "license")) or spdx(_at(tree, "workspace", "package", "license"))


def _package_json(text: str) -> str | None:
    tree = _parsed(text, json.loads)
    return spdx(_at(tree, "license")) or spdx(_at(tree, "license", "type"))


DESCRIPTIONS = {"pyproject.toml": _pyproject, "package.json": _package_json, "Cargo.toml": _cargo}
