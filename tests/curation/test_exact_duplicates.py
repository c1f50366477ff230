"""Exact duplicates, by the rule of the original."""

import pytest

from magicoder.curation.exact_duplicates import ExactDuplicates, count_analysis, strip_whitespace
from magicoder.storage.rejected import Rejection


def row(seed: str, problem: str, solution: str, **more: object) -> dict:
    return {"seed": seed, "problem": problem, "solution": solution, **more}


def reasons(rows: list[dict]) -> list[str | None]:
    duplicates = ExactDuplicates()
    verdicts = [duplicates.verdict(each) for each in rows]
    return [None if verdict is None else verdict.reason for verdict in verdicts]


def test_seed_goes_before_problem_before_solution() -> None:
    kept = [row("s1", "p1", "c1"), row("s2", "p2", "c2"), row("s3", "p3", "c3")]
    assert reasons([*kept, row("s1", "p2", "c3")])[-1] == "duplicate seeds"
    assert reasons([*kept, row("new", "p2", "c3")])[-1] == "duplicate problems"
    assert reasons([*kept, row("new", "new", "c3")])[-1] == "duplicate solutions"
    assert reasons([*kept, row("new", "new", "new")])[-1] is None


def test_columns_are_not_compared_across() -> None:
    assert reasons([row("a", "b", "c"), row("b", "c", "a")]) == [None, None]


def test_rejected_row_is_forgotten() -> None:
    rows = [row("s1", "p1", "c1"), row("s1", "p2", "c2"), row("s2", "p2", "c2")]
    assert reasons(rows) == [None, "duplicate seeds", None]


@pytest.mark.parametrize("space", [" ", "\t", "\r\n", "\x0b", "\x0c", "\x1c", "\x85", "\xa0", "\u2003", "\u2028"])
def test_any_whitespace_is_ignored_but_no_letter_case(space: str) -> None:
    assert strip_whitespace(f"{space}a{space * 2}b{space}") == "ab"
    assert strip_whitespace("Ab") == "Ab"


def test_evidence_is_the_kept_row_that_is_repeated() -> None:
    duplicates = ExactDuplicates()
    duplicates.verdict(row("s1", "p1", "c1", lang="python", index=7))
    duplicates.verdict(row("s2", "p2", "c2", lang="cpp", index=8))
    verdict = duplicates.verdict(row("s3", "p 2", "c1", lang="php", index=9))
    assert verdict == Rejection("duplicate problems", {"kept_row": 1, "lang": "cpp", "index": 8})


def test_evidence_without_language_and_index_is_kept_position() -> None:
    duplicates = ExactDuplicates()
    verdicts = [
        duplicates.verdict(each)
        for each in (row("s1", "p1", "c1"), row("s1", "p2", "c2"), row("s3", "p3", "c3"), row("s4", "p4", "c3"))
    ]
    assert verdicts == [
        None,
        Rejection("duplicate seeds", {"kept_row": 0}),
        None,
        Rejection("duplicate solutions", {"kept_row": 1}),
    ]


def test_nothing_at_all_can_be_analysed() -> None:
    overall = {"total": 0, "chosen": 0, "rejected": 0, "chosen_ratio": "0.00"}
    assert count_analysis([], []) == {"overall": overall, "lang": {}, "reason": {}}


def test_several_answers_to_one_snippet_are_no_duplicates_for_its_sake() -> None:
    duplicates = ExactDuplicates()
    rows = [{"seed": "a = 1", "problem": f"p{n}", "solution": f"s{n}", "sample": n} for n in (1, 2)]
    assert [duplicates.verdict(row) for row in rows] == [None, None]
    again = duplicates.verdict({**rows[0], "problem": "p3", "solution": "s3"})
    assert again is not None
    assert again.reason == "duplicate seeds"
