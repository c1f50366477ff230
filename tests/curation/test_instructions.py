"""Rows of each form as instruction and response."""

import pytest

from magicoder.curation.instructions import FORMATS, recognize_formats
from magicoder.storage.rejected import Rejection
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


def test_pair_appends_an_input_that_is_there() -> None:
    pair = FORMATS["pair"].convert
    assert pair({"instruction": "a", "response": "b"}, "") == {"instruction": "a", "response": "b"}
    made = pair({"instruction": "a", "input": "1", "response": "b"}, "")
    assert made == {"instruction": "a\nInput: 1", "response": "b"}


def talk(*turns: tuple[str, object]) -> list[dict]:
    return [{"role": role, "content": content} for role, content in turns]


PARTS = [{"type": "text", "text": "Add "}, {"type": "text", "text": "1."}]


@pytest.mark.parametrize(
    ("turns", "instruction"),
    [
        (talk(("user", "Add 1."), ("assistant", "2")), "Add 1."),
        (talk(("system", None), ("system", " "), ("user", "Add 1."), ("assistant", "2")), "Add 1."),
        (talk(("system", "Be brief."), ("user", "Add 1."), ("assistant", "2")), "Be brief.\n\nAdd 1."),
        (talk(("user", "Add 1."), ("assistant", "2"), ("user", "Why?"), ("assistant", "So.")), "Add 1."),
        (talk(("assistant", "Hello."), ("user", "Add 1."), ("assistant", "2")), "Add 1."),
        (talk(("user", "Add 1."), ("user", "Now."), ("assistant", "2")), "Add 1.\n\nNow."),
        (talk(("user", PARTS), ("assistant", [{"type": "text", "text": "2"}])), "Add 1."),
        ([{"from": "human", "value": "Add 1."}, {"from": "gpt", "value": "2"}], "Add 1."),
        (
            [{"role": "user", "content": "Add 1.", "from": None}, {"role": "assistant", "content": "2", "value": None}],
            "Add 1.",
        ),
        ('[{"from": "human", "value": "Add 1."}, {"from": "gpt", "value": "2"}]', "Add 1."),
    ],
    ids=[
        "one",
        "no system",
        "system",
        "several",
        "greeting",
        "asked twice",
        "parts",
        "from and value",
        "both forms",
        "JSON text",
    ],
)
@pytest.mark.parametrize(("key", "column"), [("messages", "messages"), ("sharegpt", "conversations")])
def test_first_exchange_of_a_conversation_is_the_pair(key: str, column: str, turns: object, instruction: str) -> None:
    made = FORMATS[key].convert({column: turns, "id": 1}, "")
    assert made == {"instruction": instruction, "response": "2"}


@pytest.mark.parametrize(
    "turns",
    [
        None,
        5,
        [],
        ["Add 1.", "2"],
        "Add 1.",
        talk(("user", "Add 1.")),
        talk(("user", " "), ("assistant", "2")),
        talk(("user", "Add 1."), ("assistant", "")),
        talk(("user", "Add 1."), ("tool", "2"), ("assistant", "2")),
        talk(("user", "Add 1."), ("assistant", None)),
        talk(("user", [{"type": "image_url", "image_url": "x"}]), ("assistant", "2")),
        [{"content": "Add 1."}, {"content": "2"}],
    ],
    ids=str,
)
def test_conversation_without_an_exchange_is_rejected(turns: object) -> None:
    made = FORMATS["messages"].convert({"messages": turns}, "")
    assert isinstance(made, Rejection) and made.reason == "no exchange"


@pytest.mark.parametrize(
    ("columns", "names"),
    [
        ("lang raw_index index seed openai_fingerprint problem solution", ["src-instruct"]),
        ("instruction response", ["pair"]),
        ("instruction input response", ["pair"]),
        ("instruction output", ["codealpaca"]),
        ("instruction input output", ["codealpaca"]),
        ("prompt_id messages prompt", ["messages"]),
        ("id conversations", ["sharegpt"]),
        ("instruction output response", ["codealpaca", "pair"]),
        ("prompt completion", []),
    ],
)
def test_format_is_recognized_by_its_columns(columns: str, names: list[str]) -> None:
    assert recognize_formats(set(columns.split())) == names
