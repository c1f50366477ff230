"""Problem and solution out of an answer, by the rule of the original."""

import time

import pytest

from magicoder.generation.oss_instruct import insert_snippet
from magicoder.generation.parsing import Exercise, parse_exercise, split_strictly, split_tolerantly
from magicoder.generation.thoughts import split_thoughts
from magicoder.storage.rejected import Rejection
from tests.support import GOLDEN, read_jsonl

GOOD = "[Problem Description]\nAdd.\n\n[Solution]\na + b\n"


@pytest.mark.parametrize("case", read_jsonl(GOLDEN / "parse" / "parse.jsonl"), ids=lambda case: repr(case["response"]))
def test_answer_is_parsed_as_the_original_parses_it(case: dict) -> None:
    parsed = split_strictly(case["response"])
    assert parsed == (None if case["parsed"] is None else tuple(case["parsed"]))


def test_whole_answer_is_an_exercise() -> None:
    assert parse_exercise(GOOD, "stop") == Exercise("Add.", "a + b")


@pytest.mark.parametrize(
    ("answer", "finish_reason", "reason"),
    [
        (GOOD, "length", "finish_reason length"),
        (GOOD, "content_filter", "finish_reason content_filter"),
        (GOOD, "None", "finish_reason None"),
        (None, "stop", "no text"),
        (None, "length", "finish_reason length"),
        ("", "stop", "headings missing or out of order"),
        ("[Solution]\na\n[Problem Description]\nb", "stop", "headings missing or out of order"),
        ("[Problem Description]\n \n[Solution]\nb", "stop", "empty problem"),
        ("[Problem Description]\na\n[Solution]\n\t\n", "stop", "empty solution"),
    ],
)
def test_answer_that_goes_no_further_has_its_reason(answer: str | None, finish_reason: str, reason: str) -> None:
    assert parse_exercise(answer, finish_reason) == Rejection(reason)


# --- the tolerant rule -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", read_jsonl(GOLDEN / "parse" / "parse.jsonl"), ids=lambda case: repr(case["response"]))
def test_tolerant_parser_accepts_what_the_strict_one_does(case: dict) -> None:
    if split_strictly(case["response"]) and all(split_strictly(case["response"])):
        assert split_tolerantly(case["response"]) is not None


@pytest.mark.parametrize(
    "answer",
    [
        GOOD,
        "## Problem Description\nAdd.\n## Solution\na + b",
        "### [Problem Description]\nAdd.\n### [Solution]\na + b",
        "**Problem Description**\nAdd.\n\n**Solution**\na + b",
        "**[Problem Description]**\nAdd.\n**[Solution]:**\na + b",
        "**Problem Description:**\nAdd.\n**Solution:**\na + b",
        "**Problem Description**: Add.\n**Solution**:\na + b",
        "Problem description:\nAdd.\nSolution:\na + b",
        "Here you are.\n\n# PROBLEM\nAdd.\n# SOLUTION\na + b",
        "[Problem Description] Add.\n[Solution] a + b",
        "Problem\r\nAdd.\r\nSolution\r\na + b\r\n",
    ],
)
def test_headings_may_be_written_in_many_ways(answer: str) -> None:
    assert split_tolerantly(answer) == ("Add.", "a + b")


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "Solution\na\nProblem\nb",
        "The problem is hard.\nSolution of it there is none.",
        "Problem solving is fun\nSolution is easy",
        "[Problem Description\nAdd.\n[Solution\na + b",
        "Problema:\nAdd.\nLösung:\na + b",
        "    Problem\n    Solution",
    ],
)
def test_prose_and_code_are_no_headings(answer: str) -> None:
    assert split_tolerantly(answer) is None


def test_a_solution_may_speak_of_solutions() -> None:
    answer = "## Problem\nFind it.\n## Solution\nOne way.\n\nSolution:\nAnother.\n"
    assert split_tolerantly(answer) == ("Find it.", "One way.\n\nSolution:\nAnother.")


def test_an_endless_line_takes_no_endless_time() -> None:
    assert split_tolerantly("#" * 100_000 + " " * 100_000 + "*" * 100_000) is None


@pytest.mark.parametrize(
    ("text", "thoughts", "rest"),
    [
        ("<think>\nA?\n</think>\n\nB", "A?", "B"),
        ("A? [Solution]\n</think>\nB", "A? [Solution]", "B"),
        ("<think>A</think>B\n<think>C</think>\nD", "A\n\nC", "B\n\nD"),
        ("<think>cut off", "cut off", ""),
        ("B without thoughts", "", "B without thoughts"),
        ("print('</think>')", "", "print('</think>')"),
        ("Use it:\n```python\n</think>\n```\nB", "", "Use it:\n```python\n</think>\n```\nB"),
        ("Write a parser of <think> tags.", "", "Write a parser of <think> tags."),
        ("[THINK]A[/THINK]B", "A", "B"),
        (
            "Remove everything up to the </think> tag of it.\n[Solution]\nx",
            "",
            "Remove everything up to the </think> tag of it.\n[Solution]\nx",
        ),
        ("Split `a</think>b` at the tag.", "", "Split `a</think>b` at the tag."),
        ("An example:\n<think>x</think>\nis XML.", "", "An example:\n<think>x</think>\nis XML."),
        ("<think>It ends with `</think>` I guess.\n</think>B", "It ends with `</think>` I guess.", "B"),
    ],
)
def test_thoughts_are_kept_apart_from_the_answer(text: str, thoughts: str, rest: str) -> None:
    assert split_thoughts(text, {"<think>": "</think>", "[THINK]": "[/THINK]"}) == (thoughts, rest)


@pytest.mark.parametrize(
    "hostile",
    ["x'<think>'</think>' " * 50_000, "# " + " " * 10**6 + "x\n[Solution]\ny", "```\nx\n```" + " " * 10**6 + "y"],
    ids=["tags", "blanks", "fences"],
)
def test_hostile_answers_take_linear_time(hostile: str) -> None:
    began = time.monotonic()
    split_tolerantly(split_thoughts(hostile, {"<think>": "</think>"})[1])
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "answer",
    [
        "```markdown\n## Problem\nAdd.\n## Solution\nx\n```",
        "**1. Problem Description**\nAdd.\n\n**2. Solution**\nx",
        "1) [Problem Description]:\nAdd.\n2) [Solution]:\nx",
        "### Part 1: Problem\nAdd.\n### Part 2: Solution\nx",
        "Step 1. Problem description: Add.\nStep 2. Solution: x",
    ],
)
def test_tolerant_parser_takes_wrapped_and_numbered_headings(answer: str) -> None:
    assert split_tolerantly(answer) == ("Add.", "x")


@pytest.mark.parametrize("case", read_jsonl(GOLDEN / "parse" / "parse.jsonl"), ids=lambda case: repr(case["response"]))
def test_tolerant_parser_splits_as_the_strict_one_what_that_can_use(case: dict) -> None:
    if case["parsed"] is not None and all(case["parsed"]):
        assert split_tolerantly(case["response"]) == tuple(case["parsed"])


@pytest.mark.parametrize(
    ("snippet", "fence"), [("a = 1", "```"), ("use ``` here", "````"), ("`````\nx\n`````", "``````"), ("``", "```")]
)
def test_a_snippet_with_fences_gets_a_longer_one(snippet: str, fence: str) -> None:
    template = "Look:\n```python\n{code}\n```\nAnswer in a block:\n```\nhere\n```"
    expected = f"Look:\n{fence}python\n{snippet}\n{fence}\nAnswer in a block:\n```\nhere\n```"
    assert insert_snippet(template, snippet) == expected
