"""Whole functions are found in each of the nine languages, and no text brings a run to a halt."""

import multiprocessing
import os
from contextlib import closing
from pathlib import Path

import pytest

from magicoder.seeds.functions import FunctionFinder, find_functions

SAMPLES = {
    "python": ("import os\n\n", "@cache\ndef add(a, b):\n    return a + b\n", "\nx = 1\n"),
    "typescript": ("import x from 'y';\n", "export const add = (a: number) => {\n  return a;\n};\n", "let z = 1;\n"),
    "tsx": ("let y = 1;\n", "function Page() {\n  return <p>hi</p>;\n}\n", "let z = 1;\n"),
    "csharp": ("class A {\n", "  public int Add(int a) {\n    return a;\n  }\n", "  int z;\n}\n"),
    "rust": ("use x;\n", "pub fn add(a: i32) -> i32 {\n    a + 1\n}\n", "struct Z;\n"),
    "swift": ("import X\n", "func add(a: Int) -> Int {\n  return a\n}\n", "let z = 1\n"),
    "php": ("<?php\n", "function add($a) {\n  return $a;\n}\n", "$z = 1;\n"),
    "java": ("class A {\n", "  int add(int a) {\n    return a;\n  }\n", "  int z;\n}\n"),
    "cpp": ("#include <x>\n", "int A::add(int a) {\n  return a;\n}\n", "int z;\n"),
    "shell": ("set -e\n", "add() {\n  echo $1\n}\n", "z=1\n"),
}
"""What stands before a function, the function, and what stands after it."""


@pytest.mark.parametrize("grammar", SAMPLES)
def test_function_is_taken_whole_and_nothing_else(grammar: str) -> None:
    before, function, after = SAMPLES[grammar]
    document = before + function + after
    assert [document[place] for place in find_functions(document, grammar, 3, 60)] == [function]


@pytest.mark.parametrize("grammar", SAMPLES)
def test_text_that_is_no_code_of_the_language_gives_no_function(grammar: str) -> None:
    for text in ("", "\0", "\ud800\udfff", "((((\n{{{{", "int f( {\n\n\n}}", "caf\ufffd \r\n" * 50):
        assert find_functions(text, grammar, 3, 60) == []


def test_lines_of_a_function_are_counted_within_the_bounds() -> None:
    body = "".join(f"    a{number} = {number}\n" for number in range(5))
    document = f"def short():\n    pass\n\ndef long():\n{body}"
    assert [document[place] for place in find_functions(document, "python", 2, 5)] == ["def short():\n    pass\n"]
    assert [document[place] for place in find_functions(document, "python", 3, 6)] == [f"def long():\n{body}"]


def test_function_with_syntax_error_is_skipped_neighbor_is_not() -> None:
    document = "int f(int a) {\n  return a +;\n}\n\nint g(int a) {\n  return a;\n}\n"
    assert [document[place] for place in find_functions(document, "cpp", 3, 60)] == ["int g(int a) {\n  return a;\n}\n"]


def test_characters_beyond_ascii_do_not_shift_what_is_cut_out() -> None:
    document = '# Überraschung 🎉\x0c\u2028x\ndef f():\n    """é"""\n    return "🎉"\n'
    [place] = find_functions(document, "python", 3, 60)
    assert document[place] == 'def f():\n    """é"""\n    return "🎉"\n'


def test_last_function_without_final_line_end_is_whole() -> None:
    document = "int g(int a) {\n  return a;\n}"
    assert [document[place] for place in find_functions(document, "cpp", 3, 60)] == [document]


def test_real_code_has_functions() -> None:
    document = Path(os.__file__).read_text()
    places = find_functions(document, "python", 3, 60)
    assert len(places) > 30
    for place in places:
        assert document[place].lstrip().startswith(("def ", "@"))


def test_endless_parse_is_given_up_and_the_next_text_is_read() -> None:
    with closing(FunctionFinder(seconds=3)) as finder:
        assert finder.find("/*\n" * 200_000, "java", 3, 60) is None
        document = "".join(SAMPLES["java"])
        assert finder.find(document, "java", 3, 60) == find_functions(document, "java", 3, 60)
    assert multiprocessing.active_children() == []


def test_grammar_that_crashes_costs_one_document() -> None:
    with closing(FunctionFinder()) as finder:
        document = "".join(SAMPLES["java"])
        assert finder.find(document, "java", 3, 60) is not None
        [process] = multiprocessing.active_children()
        process.kill()
        process.join()
        assert finder.find(document, "java", 3, 60) is None
        assert finder.find(document, "java", 3, 60) is not None
