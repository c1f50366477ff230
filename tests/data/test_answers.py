"""Problem and solution out of an answer, by the rule of the original."""

import pytest

from magicoder.data.answers import Exercise, judge, parse
from tests.conftest import GOLDEN, read_jsonl

GOOD = "[Problem Description]\nAdd.\n\n[Solution]\na + b\n"


@pytest.mark.parametrize("case", read_jsonl(GOLDEN / "parse" / "parse.jsonl"), ids=lambda case: repr(case["response"]))
def test_answer_is_parsed_as_the_original_parses_it(case: dict) -> None:
    parsed = parse(case["response"])
    assert parsed == (None if case["parsed"] is None else tuple(case["parsed"]))


def test_whole_answer_is_an_exercise() -> None:
    assert judge(GOOD, "stop") == Exercise("Add.", "a + b")


@pytest.mark.parametrize(
    ("answer", "finish_reason", "reason"),
    [
        (GOOD, "length", "finish_reason length"),
        (GOOD, "content_filter", "finish_reason content_filter"),
        (GOOD, None, "finish_reason None"),
        (None, "stop", "no text"),
        ([GOOD], "stop", "no text"),
        (None, "length", "finish_reason length"),
        ("", "stop", "headings missing or out of order"),
        ("[Solution]\na\n[Problem Description]\nb", "stop", "headings missing or out of order"),
        ("[Problem Description]\n \n[Solution]\nb", "stop", "empty problem"),
        ("[Problem Description]\na\n[Solution]\n\t\n", "stop", "empty solution"),
    ],
)
def test_answer_that_goes_no_further_has_its_reason(answer: object, finish_reason: str | None, reason: str) -> None:
    assert judge(answer, finish_reason) == reason
