"""Evolution: which operation, what the teacher reads, and what is eliminated with which evidence."""

import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from magicoder.generation.evolution import (
    EvolutionFilter,
    KnownInstructions,
    choose_operation,
    compute_similarity,
    fill_template,
    read_answer,
)
from magicoder.storage.rejected import Rejection
from magicoder.teacher.records import Answered, PromptTooLong, Record, Refused, Usage
from tests.support import PROJECT

OPERATIONS = ("broaden", "concretize", "constrain", "deepen", "reason")
STARTING = "Write a function that returns the median of a list of numbers."
HARDER = (
    "Write a class that takes numbers one at a time and can tell the median of all it has seen, "
    "each insertion in logarithmic time. An empty stream has no median: raise a ValueError."
)


def record(content: Any, finish_reason: Any = "stop") -> Answered:
    answer = {"choices": [{"message": {"content": content}, "finish_reason": finish_reason}]}
    return Answered(0, 9, 1, 0.0, None, Usage(1, 1), answer)


@pytest.fixture(scope="module")
def elimination() -> EvolutionFilter:
    """By the prompt that the project ships."""
    prompt = yaml.safe_load(Path(PROJECT, "conf/prompt/evol_instruct.yaml").read_text())
    return EvolutionFilter([prompt["system"], prompt["user"], *prompt["operations"].values()], similarity=0.9, tags={})


def test_every_operation_is_used_before_one_repeats() -> None:
    for index in range(50):
        first, second = (
            [choose_operation(OPERATIONS, 976, index, turn + 5 * again) for turn in range(1, 6)] for again in (0, 1)
        )
        assert sorted(first) == sorted(OPERATIONS)
        assert first == second


@pytest.mark.parametrize(
    ("seed", "index", "expected"),
    [
        (976, 0, ["reason", "broaden", "concretize", "constrain", "deepen", "reason"]),
        (976, 1, ["reason", "broaden", "deepen", "concretize", "constrain", "reason"]),
        (976, 41, ["constrain", "broaden", "concretize", "deepen", "reason", "constrain"]),
        (7, 0, ["constrain", "broaden", "reason", "concretize", "deepen", "constrain"]),
    ],
)
def test_operations_of_known_instructions_stay_the_same(seed: int, index: int, expected: list[str]) -> None:
    """A continued run asks with the same words, so another order would contradict its journal."""
    assert [choose_operation(OPERATIONS, seed, index, number) for number in range(1, 7)] == expected


def test_operations_are_even_and_ignore_the_config_order() -> None:
    drawn = [choose_operation(OPERATIONS, 976, index, 1) for index in range(1000)]
    assert all(150 < count < 250 for count in Counter(drawn).values())
    assert drawn == [choose_operation(OPERATIONS[::-1], 976, index, 1) for index in range(1000)]
    assert drawn != [choose_operation(OPERATIONS, 977, index, 1) for index in range(1000)]


def test_texts_that_look_like_placeholders_stay_as_they_are() -> None:
    made = fill_template("{operation}: {instruction} {other} {0}", "use {instruction}", "print('{operation}')")
    assert made == "use {instruction}: print('{operation}') {other} {0}"


def test_instruction_that_became_harder_is_kept(elimination: EvolutionFilter) -> None:
    assert elimination.read_instruction(record(f"\n {HARDER}\n"), STARTING) == HARDER


@pytest.mark.parametrize(
    ("answer", "reason", "evidence"),
    [
        (record(HARDER, "length"), "finish_reason length", HARDER),
        (record(HARDER, None), "finish_reason None", HARDER),
        (record(None), "no text", None),
        (record([1]), "no text", [1]),
        (record(""), "says nothing", ""),
        (record(" ...\n--- ?"), "says nothing", " ...\n--- ?"),
        (record("I\u2019m sorry, but I can\u2019t do that."), "unwilling", "I\u2019m sorry, but I can\u2019t do that."),
        (record("As an AI I have no tasks."), "unwilling", "As an AI I have no tasks."),
        (PromptTooLong(0, 9000), "prompt leaves no room for an answer", "9000 tokens"),
        (Refused(0, "no!", "invalid_prompt"), "refused by the server", "no!"),
    ],
)
def test_answers_without_text_are_rejected_in_both_passes(
    elimination: EvolutionFilter, answer: Record, reason: str, evidence: Any
) -> None:
    assert elimination.read_instruction(answer, STARTING) == Rejection(reason, evidence)
    assert read_answer(answer, {}) == Rejection(f"answer: {reason}", evidence)


@pytest.mark.parametrize(
    "solution",
    [
        "The function cannot be faster than the sort, so it takes n log n.",
        "```python\nprint('Sorry, I cannot help you')\n```",
        "I am sorry for the length. " + "Here is one more step of the proof. " * 30,
    ],
)
def test_solutions_that_only_sound_like_an_excuse_are_kept(solution: str) -> None:
    assert read_answer(record(solution), {}) == solution.strip()


@pytest.mark.parametrize(
    ("evolved", "phrase"),
    [
        (f"Here is the harder task: {HARDER}", "harder task"),
        (f"[Harder\nTask]\n{HARDER}", "harder task"),
        (f"Unlike the Starting Task, {HARDER}", "starting task"),
        (
            f"{HARDER} Ask for one or two things more that a solution must respect.",
            "ask for one or two things more that",
        ),
    ],
)
def test_instruction_that_quotes_its_prompt_is_eliminated(
    elimination: EvolutionFilter, evolved: str, phrase: str
) -> None:
    assert elimination.read_instruction(record(evolved), STARTING) == Rejection("quotes its prompt", phrase)


def test_words_of_the_instruction_are_not_prompt_quotes(elimination: EvolutionFilter) -> None:
    starting = "Sort tasks so that no harder task comes before an easier one."
    evolved = f"{HARDER} Then sort the streams so that no harder task comes first."
    assert elimination.read_instruction(record(evolved), starting) == evolved


def test_brackets_of_code_in_a_prompt_of_ones_own_are_no_names() -> None:
    own = EvolutionFilter(["Make [0, 1] of it. ### Given Prompt\n{instruction}"], similarity=0.9, tags={})
    assert own.read_instruction(record("Map the range 0, 1 to colours."), STARTING) == "Map the range 0, 1 to colours."
    assert own.read_instruction(record("#Given Prompt# Map it."), STARTING) == Rejection(
        "quotes its prompt", "given prompt"
    )


def test_one_word_in_brackets_is_no_name() -> None:
    own = EvolutionFilter(["Ask for [Python]. {instruction}"], similarity=0.9, tags={})
    assert own.read_instruction(record("Map the range in Python."), STARTING) == "Map the range in Python."


def test_unchanged_instruction_is_rejected_with_similarity(elimination: EvolutionFilter) -> None:
    longer = f"{STARTING} " + "The list may hold a great many of them, all of different size. " * 5
    reworded = longer.replace("median", "MEDIAN").replace(" of ", "\n of  ", 1) + "Be quick."
    outcome = elimination.read_instruction(record(reworded), longer)
    assert isinstance(outcome, Rejection)
    assert (outcome.reason, outcome.evidence) == ("hardly changed", {"similarity": 0.975})
    assert isinstance(elimination.read_instruction(record(longer), STARTING), str)


def test_solution_in_place_of_an_instruction_is_eliminated(elimination: EvolutionFilter) -> None:
    solution = "```python\ndef median(numbers): ...\n```\nIt sorts them first."
    assert elimination.read_instruction(record(solution), STARTING) == Rejection(
        "begins with code, as solutions do", solution
    )
    with_code = f"{STARTING}\n```\ndef median(numbers): ...\n```"
    assert elimination.read_instruction(record(f"{solution} {HARDER}"), with_code) == f"{solution} {HARDER}"


def test_texts_without_a_word_are_the_same() -> None:
    assert compute_similarity("", "?") == 1.0
    assert compute_similarity("a b", "c d") == 0.0


def test_known_instruction_is_rejected_with_its_position() -> None:
    known = KnownInstructions({7: "Sort it.", 8: "Find  it.", 9: "Sort\nit."})
    assert known.verdict("Find\tit.", 7, 1) == Rejection("duplicate instruction", {"index": 8, "round": 0})
    assert known.verdict("Sort it. ", 8, 1) == Rejection("duplicate instruction", {"index": 7, "round": 0})
    assert known.verdict("Merge them. \ud800", 7, 1) is None
    assert known.verdict("Merge them.\ud800", 9, 2) == Rejection("duplicate instruction", {"index": 7, "round": 1})


def test_a_full_data_set_is_judged_in_a_minute(elimination: EvolutionFilter) -> None:
    starting, evolved = f"{STARTING} " * 20, record(f"{HARDER} " * 15)
    begun = time.process_time()
    for _ in range(500):
        assert isinstance(elimination.read_instruction(evolved, starting), str)
    assert (time.process_time() - begun) / 500 * 75_000 < 60
