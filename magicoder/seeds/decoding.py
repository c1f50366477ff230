"""Turn the bytes of a source file into text: its encoding, its line ends, the cells of a notebook."""

import codecs
import json
import re
from pathlib import Path
from typing import Any

from magicoder.storage.rejected import Rejection

NOTEBOOK = ".ipynb"
WIDE_MARKS = {
    # The mark of little-endian UTF-32 begins with that of UTF-16.
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
"""Byte order marks of encodings with NUL bytes."""

LINE_END = re.compile(rb"\r\n|\r|\n")
DECLARATION = re.compile(rb"[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)")
NO_COMMENT = re.compile(rb"[ \t\f]*[^ \t\f#]")
"""PEP 263: an encoding is declared in the first line, or in the second after a comment or blanks."""

PRINTABLE = bytes(range(32, 127))

MAGIC = re.compile(r"%%?[A-Za-z_]{2}|\?\w|!(?!=)|[\w.,\[\] \t]+=[ \t]*(?:%[A-Za-z_]{2}|!)|[\w.]+\?{1,2}\s*$")
"""Beginnings of lines for IPython: `%matplotlib`, `!pip install`, `files = !ls`, `print?`; not `%s`, part of a text."""

TIMED = re.compile(r"%time(?:it)?[ \t]++(?:-[a-z](?:[ \t]*\d+)?[ \t]++)*+(?=[^\s-])")
"""The beginning of `%timeit -n 10 f()`, before the statement."""

LONG_END = {quote: re.compile(rf"\\.|{quote}") for quote in ('"""', "'''")}
SPECIAL = re.compile(r"#.*|\"\"\"|'''|\"(?:\\.|[^\"\\])*+\"?|'(?:\\.|[^'\\])*+'?|[()\[\]{}]")
"""What opens or closes a part of Python, or hides such a sign: comments, strings of one line."""

OTHER_CELL = re.compile(r"\s*%%(?!(?:time|timeit|capture|prun|python3?)\b)")
"""The first line of a cell in another language, or of a file to write."""


def decode_document(path: Path, content: bytes) -> str | Rejection:
    """Return the text of a source file without byte order mark, or the rejection.

    Python files may declare an encoding (PEP 263); everything else is UTF-8, or UTF-16 or UTF-32 with their marks. Of a
    notebook the text is that of its cells. path: only its suffix is used.
    """
    text = _decode(content, declares_encoding=path.suffix.lower() in (".py", ".pyw"))
    if isinstance(text, Rejection):
        return text
    if "\0" in text:
        return Rejection("binary file", {"nul_at": text.find("\0")})
    return join_cells(text) if path.suffix.lower() == NOTEBOOK else text


def _decode(content: bytes, declares_encoding: bool) -> str | Rejection:
    wide = next((name for mark, name in WIDE_MARKS.items() if content.startswith(mark)), None)
    if wide is None and b"\0" in content:
        return Rejection("binary file", {"nul_byte_at": content.find(b"\0")})
    encoding = wide or "UTF-8"
    if declares_encoding and wide is None:
        encoding = _find_declared(content) or encoding
    try:
        return content.decode("utf-8-sig" if encoding == "UTF-8" else encoding)
    except UnicodeDecodeError as error:
        reason = f"not {encoding}" if encoding in ("UTF-8", *WIDE_MARKS.values()) else "not in its declared encoding"
        return Rejection(reason, {"encoding": encoding, "byte": f"0x{content[error.start]:02x}", "at": error.start})


def _find_declared(content: bytes) -> str | None:
    """Return the encoding that a Python file declares, in Python's spelling; None for UTF-8 and unknown ones."""
    # Not tokenize.detect_encoding, which gives up where the first lines are not UTF-8; Python itself reads them.
    lines = () if content.startswith(codecs.BOM_UTF8) else LINE_END.split(content, maxsplit=2)[:2]
    for line in lines:
        if (found := DECLARATION.match(line)) is not None:
            return _find_codec(found[1].decode("ascii", errors="replace"))
        if NO_COMMENT.match(line):
            return None
    return None


def _find_codec(name: str) -> str | None:
    try:
        encoding = codecs.lookup(name).name
        holds_ascii = PRINTABLE.decode(encoding) == PRINTABLE.decode()
    except (LookupError, UnicodeError):
        return None  # unknown, or no encoding of text
    # Python reads source only in encodings that contain ASCII; others (punycode) may take hours on hostile text.
    return encoding if holds_ascii and not encoding.startswith("utf-8") else None


def end_lines_with_feeds(text: str) -> str:
    """Return a text of the same length whose lines end at "\\n", for one of old Mac files, whose lines end at "\\r"."""
    pairs = text.count("\r\n")
    if text.count("\r") - pairs <= text.count("\n") - pairs:
        return text
    return text.replace("\r\n", " \n").replace("\r", "\n")


def join_cells(text: str) -> str | Rejection:
    """Return the code of a Python notebook without IPython's own commands, cells apart by a blank line."""
    try:
        notebook = json.loads(text)
    except (ValueError, RecursionError) as error:
        return Rejection("not a notebook", str(error)[:200] or type(error).__name__)
    language = _get(notebook, "metadata", "language_info", "name") or _get(
        notebook, "metadata", "kernelspec", "language"
    )
    if isinstance(language, str) and language.lower() not in ("python", "ipython", "python3"):
        return Rejection("notebook of another language", language[:80])
    holders = _get_list(notebook, "worksheets") or [notebook]  # sheets: before version 4 of the format
    cells = [cell for holder in holders for cell in _get_list(holder, "cells") if isinstance(cell, dict)]
    sources = [_read_source(cell) for cell in cells if cell.get("cell_type") == "code"]
    kept = [source for each in sources if (source := remove_magics(each)).strip()]
    return "\n\n\n".join(source.strip("\n") for source in kept) + "\n" if kept else ""


def _get(tree: Any, *keys: str) -> Any:
    """Return the value below nested keys; None if one is missing."""
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def _get_list(tree: Any, key: str) -> list[Any]:
    """Return the list below a key; an empty one if there is something else."""
    found = _get(tree, key)
    return found if isinstance(found, list) else []


def _read_source(cell: dict[str, Any]) -> str:
    """Return the text of a cell, which is stored whole or as a list of lines."""
    source = cell.get("source", cell.get("input"))
    if isinstance(source, list):
        return "".join(line for line in source if isinstance(line, str))
    return source if isinstance(source, str) else ""


def remove_magics(cell: str) -> str:
    """Return the lines of a cell that are Python; an indented command becomes `pass`, so that its block stays one.

    Of `%time f()` the statement stays. Lines within brackets or a string of several lines are no commands.
    """
    if OTHER_CELL.match(cell):
        return ""
    kept = []
    continues = False
    statements = _Statements()
    for written in cell.split("\n"):
        indent = written[: len(written) - len(written.lstrip())]
        timed = None if continues or statements.are_open else TIMED.match(written, len(indent))
        line = indent + written[timed.end() :] if timed else written
        is_magic = continues or (not statements.are_open and MAGIC.match(line, len(indent)) is not None)
        if not is_magic:
            kept.append(line)
            statements.read(line)
        elif line[:1] in (" ", "\t") and not continues:
            kept.append(indent + "pass")
        continues = is_magic and line.rstrip().endswith("\\")
    return "\n".join(kept)


class _Statements:
    """Tell whether a statement goes on in the next line: in a bracket, a string of several lines, after a backslash."""

    def __init__(self) -> None:
        self._depth = 0
        self._quote = ""
        self._continues = False

    @property
    def are_open(self) -> bool:
        """Return whether the next line belongs to the statement of the last one."""
        return self._depth > 0 or self._quote != "" or self._continues

    def read(self, line: str) -> None:
        """Take the next line of Python, whole or not."""
        self._continues = line.rstrip().endswith("\\")
        position = 0
        while (found := (LONG_END[self._quote] if self._quote else SPECIAL).search(line, position)) is not None:
            position = found.end()
            mark = found[0]
            if self._quote:
                self._quote = "" if mark == self._quote else self._quote
            elif mark in LONG_END:
                self._quote = mark
            elif mark[0] == "#":
                self._continues = False
            elif mark in "()[]{}":
                self._depth = max(self._depth + (1 if mark in "([{" else -1), 0)
