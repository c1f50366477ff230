"""A problem and a solution out of a teacher's answer: by the documented strict rule, or by a tolerant one."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

PROBLEM_MARKER = "[problem description]"
SOLUTION_MARKER = "[solution]"
HEADING = re.compile(
    r"[ ]{0,3}(?:\#{1,6}[ \t]*)?(?:(?:\*\*|__)[ \t]*)?"
    r"(?P<open>\[[ \t]*)?(?P<name>problem[ ]description|problem|solution)[ \t]*(?P<close>\])?[ \t]*"
    r"(?P<colon>:?[ \t]*(?:\*\*|__)?[ \t]*:?)[ \t]*(?P<rest>.*)",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
"""A line that is a heading: of any level or none, with or without brackets, bold or not, with or without a colon."""


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


def parse_tolerant(answer: str) -> tuple[str, str] | None:
    """The same where the headings are written otherwise: `## Problem`, `**Solution:**`, `Problem description: ...`.

    The first heading of a problem counts, and the first of a solution behind it. Text on the line of a heading that has
    brackets or a colon belongs to what follows.
    """
    lines = answer.splitlines(keepends=True)
    problem = _heading(lines, "problem", 0)
    solution = _heading(lines, "solution", problem[0] + 1) if problem is not None else None
    if problem is None or solution is None:
        return None
    described = problem[1] + "".join(lines[problem[0] + 1 : solution[0]])
    return described.strip(), (solution[1] + "".join(lines[solution[0] + 1 :])).strip()


def _heading(lines: list[str], name: str, start: int) -> tuple[int, str] | None:
    """The place of the first heading of that name from line `start` on, and the text behind it."""
    for place, line in enumerate(lines[start:], start):
        found = HEADING.fullmatch(line)
        if found is None or not found["name"].lower().startswith(name) or bool(found["open"]) != bool(found["close"]):
            continue
        rest = found["rest"]
        if not rest.strip() or found["close"] or ":" in found["colon"]:
            return place, rest
    return None


FINISH_REASONS = ("length", "content_filter", "tool_calls", "function_call", None)
"""Those of OpenAI's protocol that are not `stop`, and none at all."""

Parser = Callable[[str], tuple[str, str] | None]
PARSERS: dict[str, Parser] = {"strict": parse, "tolerant": parse_tolerant}


def unfinished(finish_reason: Any) -> str:
    """The reason to reject an answer that did not end by itself. What no protocol knows is told as that alone."""
    return f"finish_reason {finish_reason if finish_reason in FINISH_REASONS else 'unknown'}"


def judge(answer: Any, finish_reason: Any, parser: Parser = parse) -> Exercise | str:
    """The exercise that an answer holds, or the reason for which it goes no further.

    answer and finish_reason: text if the server keeps to the protocol, and anything else if it does not.
    """
    if finish_reason != "stop":
        return unfinished(finish_reason)
    if not isinstance(answer, str):
        return "no text"
    parsed = parser(answer)
    if parsed is None:
        return "headings missing or out of order"
    problem, solution = parsed
    if not problem or not solution:
        return "empty problem" if not problem else "empty solution"
    return Exercise(problem, solution)
