"""Bytes become text as their file declares, or are left out with the byte that does not fit."""

import codecs
import json
import time
from pathlib import Path
from typing import Any

import pytest

from magicoder.seeds.decoding import decode_document, end_lines_with_feeds, remove_magics
from magicoder.storage.rejected import Rejection

TEXT = "name = 'café €'\n"


def decode(content: bytes, name: str = "a.py") -> str | Rejection:
    return decode_document(Path(name), content)


def reason(content: bytes, name: str = "a.py") -> str:
    found = decode(content, name)
    assert isinstance(found, Rejection)
    return found.reason


@pytest.mark.parametrize(
    "content",
    [
        TEXT.encode(),
        codecs.BOM_UTF8 + TEXT.encode(),
        codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le"),
        codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
        codecs.BOM_UTF32_LE + TEXT.encode("utf-32-le"),
    ],
    ids=["plain", "mark", "utf-16-le", "utf-16-be", "utf-32-le"],
)
@pytest.mark.parametrize("name", ["a.py", "a.cs"])
def test_unicode_loses_its_mark_and_nothing_else(content: bytes, name: str) -> None:
    assert decode(content, name) == TEXT


@pytest.mark.parametrize(
    ("declared", "encoding"),
    [("latin-1", "latin-1"), ("windows-1251", "cp1251"), ("euc_jp", "euc-jp"), ("shift_jis", "shift-jis")],
)
@pytest.mark.parametrize("head", ["# -*- coding: {} -*-\n", "#!/usr/bin/python\r\n# vim: set fileencoding={} :\n"])
def test_python_files_are_read_as_they_declare(declared: str, encoding: str, head: str) -> None:
    name = {"latin-1": "é", "cp1251": "ж"}.get(encoding, "語")
    text = head.format(declared).replace(":\n", f": {name}\n") + f"x = '{name}'\n"
    assert decode(text.encode(encoding)) == text
    assert reason(text.encode(encoding), "a.rs") == "not UTF-8", "other languages declare nothing"


def test_declaration_below_the_second_line_counts_for_nothing() -> None:
    assert reason("import os\nimport re\n# coding: latin-1\nx = 'é'\n".encode("latin-1")) == "not UTF-8"


@pytest.mark.parametrize("declared", ["no-such-codec", "rot13", "punycode", "idna", "utf-7", "utf8", "zlib"])
def test_declaration_that_python_would_not_read_is_ignored(declared: str) -> None:
    text = f"# coding: {declared}\n" + "a-b" * 10 + "\n"
    assert decode(text.encode()) == text


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"x = '\xe9'\n", Rejection("not UTF-8", {"encoding": "UTF-8", "byte": "0xe9", "at": 5})),
        (
            b"# coding: cp1252\nx = '\x81'\n",
            Rejection("not in its declared encoding", {"encoding": "cp1252", "byte": "0x81", "at": 22}),
        ),
        (b"\xff\xfea", Rejection("not UTF-16", {"encoding": "UTF-16", "byte": "0x61", "at": 2})),
        (b"x = 1\0", Rejection("binary file", {"nul_byte_at": 5})),
        (b"\xff\xfea\0\0\0", Rejection("binary file", {"nul_at": 1})),
    ],
    ids=["undeclared", "declared", "half a character", "nul", "nul in UTF-16"],
)
def test_other_bytes_are_left_out_with_evidence(content: bytes, expected: Rejection) -> None:
    assert decode(content) == expected


def notebook(*cells: str | list[str], language: str = "python", **more: Any) -> bytes:
    code = [{"cell_type": "code", "source": cell, "outputs": [{"text": "x" * 99}]} for cell in cells]
    text = {"cell_type": "markdown", "source": "# Title"}
    kernel = {"kernelspec": {"language": language}}
    return json.dumps({"cells": [text, *code], "metadata": kernel, **more}).encode()


def test_notebook_is_its_code() -> None:
    content = notebook("import os\n", ["a = 1\n", "b = 2"], "", "%%bash\nls", "%%time\nc = 3", "!pip install x\nd = 4")
    assert decode(content, "a.ipynb") == "import os\n\n\na = 1\nb = 2\n\n\nc = 3\n\n\nd = 4\n"


def test_notebook_of_an_old_format_is_read() -> None:
    cells = [{"cell_type": "code", "input": ["a = 1"]}, {"cell_type": "heading", "source": "b"}]
    assert decode(json.dumps({"worksheets": [{"cells": cells}]}).encode(), "a.ipynb") == "a = 1\n"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (notebook("f <- 1", language="R"), "notebook of another language"),
        (b"{", "not a notebook"),
        (b"[" * 100_000, "not a notebook"),
    ],
    ids=["language", "torn", "nested"],
)
def test_notebook_without_python_has_its_reason(content: bytes, expected: str) -> None:
    assert reason(content, "a.ipynb") == expected


@pytest.mark.parametrize("content", [b"5", b'{"cells": 5}', b'{"cells": [5, {"cell_type": "code", "source": 5}]}'])
def test_notebook_of_a_strange_form_is_empty(content: bytes) -> None:
    assert decode(content, "a.ipynb") == ""


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("%matplotlib inline\nx = 1", "x = 1"),
        ("files = !ls *.py\nx = 1", "x = 1"),
        ("t = %timeit -o f()\nx = 1", "x = 1"),
        ("print?\nx = 1", "x = 1"),
        ("!pip install \\\n  a b\nx = 1", "x = 1"),
        ("if a:\n    !ls\nx = 1", "if a:\n    pass\nx = 1"),
        ("x = (a\n     % b)\ny = a != b", "x = (a\n     % b)\ny = a != b"),
        ('q = """\nwhere id = %s\n%s"""', 'q = """\nwhere id = %s\n%s"""'),
        ("%%html\n<b>", ""),
        ("%time x = f(\n    a)\ny = 1", "x = f(\n    a)\ny = 1"),
        ("if a:\n    %timeit -n 10 -r3 f()", "if a:\n    f()"),
        ("%time\nx = 1", "x = 1"),
        ('q = """\n!important\n%matplotlib\nok?\n"""\n!ls', 'q = """\n!important\n%matplotlib\nok?\n"""'),
        ("x = (total\n     %modulus)\n%pwd", "x = (total\n     %modulus)"),
        ("x = total \\\n    %modulus\n%pwd", "x = total \\\n    %modulus"),
        ("s = '(' # it's [\n!ls", "s = '(' # it's ["),
        ("q = '''\\'''\n!ls\n'''\n!ls", "q = '''\\'''\n!ls\n'''"),
    ],
)
def test_commands_of_ipython_are_not_taught(cell: str, expected: str) -> None:
    assert remove_magics(cell) == expected


def test_hostile_line_of_a_notebook_takes_no_time() -> None:
    began = time.perf_counter()
    for line in (" " * 10**6, "a " * 10**6, "a." * 10**6 + "!", "%" * 10**6, "(\\'" * 10**5, "%time -a " * 10**5):
        remove_magics(line)
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\rb\r", "a\nb\n"),
        ("a\rb\rc\n", "a\nb\nc\n"),
        ("a\r\nb\r\n", "a\r\nb\r\n"),
        ("a\nb\rc\nd\n", "a\nb\rc\nd\n"),
        ("a\r\nb\rc\rd\r", "a \nb\nc\nd\n"),
    ],
)
def test_line_ends_of_old_mac_files_become_feeds(text: str, expected: str) -> None:
    assert end_lines_with_feeds(text) == expected
