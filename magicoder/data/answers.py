"""A problem and a solution out of a teacher's answer, by the documented strict rule."""

from dataclasses import dataclass
from typing import Any

PROBLEM_MARKER = "[problem description]"
SOLUTION_MARKER = "[solution]"


@dataclass(frozen=True)
class Exercise:
    """What an answer held."""

    problem: str
    solution: str


def parse(answer: str) -> tuple[str, str] | None:
    """Problem and solution, stripped and perhaps empty; None unless both headings are there in their order.

    A heading is the first line that holds its marker, in any case; the whole line is dropped.
    """
    lines = answer.splitlines(keepends=True)
    lowered = [line.lower() for line in lines]
    problem_line = next((place for place, line in enumerate(lowered) if PROBLEM_MARKER in line), None)
    solution_line = next((place for place, line in enumerate(lowered) if SOLUTION_MARKER in line), None)
    if problem_line is None or solution_line is None or problem_line >= solution_line:
        return None
    return "".join(lines[problem_line + 1 : solution_line]).strip(), "".join(lines[solution_line + 1 :]).strip()


def judge(answer: Any, finish_reason: Any) -> Exercise | str:
    """The exercise that an answer holds, or the reason for which it goes no further.

    answer and finish_reason: text if the server keeps to the protocol, and anything else if it does not.
    """
    if finish_reason != "stop":
        return f"finish_reason {finish_reason}"
    if not isinstance(answer, str):
        return "no text"
    parsed = parse(answer)
    if parsed is None:
        return "headings missing or out of order"
    problem, solution = parsed
    if not problem or not solution:
        return "empty problem" if not problem else "empty solution"
    return Exercise(problem, solution)
