"""Rows of each form as instruction and response."""

import pytest

from magicoder.curation.instructions import FORMATS
from tests.support import GOLDEN, read_jsonl


@pytest.mark.parametrize(
    ("key", "name"), [("src-instruct", "src"), ("evol-instruct", "evol"), ("codealpaca", "codealpaca")]
)
def test_pairs_are_those_of_the_original(key: str, name: str) -> None:
    pair = FORMATS[key].convert
    pairs = [pair(row, "Task:\n{problem}") for row in read_jsonl(GOLDEN / "preprocess" / f"{name}_in.jsonl")]
    expected = read_jsonl(GOLDEN / "preprocess" / f"{name}_out.jsonl")
    assert pairs == expected
    assert [list(pair) for pair in pairs] == [list(row) for row in expected]  # the order of the keys


def test_template_is_filled_literally() -> None:
    """Neither the template nor a problem is a format string: code is full of braces and percent signs."""
    problem = "Print {x}, {problem}, {0}, %s and \\1."
    pair = FORMATS["src-instruct"].convert
    made = pair({"problem": problem, "solution": "{y}"}, "{a} %d {{ {problem} }}")
    assert made == {"instruction": "{a} %d {{ " + problem + " }}", "response": "{y}"}


def test_combined_rows_keep_nothing_but_the_pair() -> None:
    pair = FORMATS["combine"].convert
    row = {"lang": "python", "response": "b", "instruction": "a", "seed": "c"}
    assert list(pair(row, "").items()) == [("instruction", "a"), ("response", "b")]


@pytest.mark.parametrize("row", [{}, {"input": None}, {"input": ""}, {"input": " \n"}], ids=str)
def test_codealpaca_input_may_be_missing_or_null(row: dict) -> None:
    made = FORMATS["codealpaca"].convert({"instruction": "a", "output": "b", **row}, "")
    assert made == {"instruction": "a", "response": "b"}
