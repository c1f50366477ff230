"""Split a teacher's answer into problem and solution, by the documented strict rule or by a tolerant one."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from magicoder.storage.rejected import Rejection

PROBLEM_MARKER = "[problem description]"
SOLUTION_MARKER = "[solution]"
HEADING = re.compile(
    r"[ ]{0,3}(?:\#{1,6}[ \t]*)?(?:(?:\*\*|__)[ \t]*)?"
    r"(?P<open>\[[ \t]*)?(?P<name>problem[ ]description|problem|solution)[ \t]*(?P<close>\])?[ \t]*"
    r"(?P<colon>:?[ \t]*(?:\*\*|__)?[ \t]*:?)[ \t]*(?P<rest>.*)",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
"""A heading line: of any level or none, with or without brackets, bold or not, with or without a colon."""

FINISH_REASONS = ("length", "content_filter", "tool_calls", "function_call", None)
"""Those of OpenAI's protocol other than `stop`, and a missing one."""


@dataclass(frozen=True)
class Exercise:
    """The content of a usable answer."""

    problem: str
    solution: str


def split_strictly(answer: str) -> tuple[str, str] | None:
    """Return problem and solution, stripped and possibly empty; None unless both headings occur in their order.

    A heading is the first line that contains its marker, in any case; the whole line is dropped.

    Example:
        >>> split_strictly("[Problem Description]\\nAdd.\\n[Solution]\\na + b")
        ('Add.', 'a + b')
    """
    lines = answer.splitlines(keepends=True)
    lowered = [line.lower() for line in lines]
    problem_line = next((number for number, line in enumerate(lowered) if PROBLEM_MARKER in line), None)
    solution_line = next((number for number, line in enumerate(lowered) if SOLUTION_MARKER in line), None)
    if problem_line is None or solution_line is None or problem_line >= solution_line:
        return None
    return "".join(lines[problem_line + 1 : solution_line]).strip(), "".join(lines[solution_line + 1 :]).strip()


def split_tolerantly(answer: str) -> tuple[str, str] | None:
    """Return the same for other spellings of the headings: `## Problem`, `**Solution:**`, `Problem description: ...`.

    The first problem heading counts, and the first solution heading after it. Text on the line of a heading with
    brackets or a colon belongs to the part that follows.
    """
    lines = answer.splitlines(keepends=True)
    problem = _find_heading(lines, "problem", 0)
    solution = _find_heading(lines, "solution", problem[0] + 1) if problem is not None else None
    if problem is None or solution is None:
        return None
    description = problem[1] + "".join(lines[problem[0] + 1 : solution[0]])
    return description.strip(), (solution[1] + "".join(lines[solution[0] + 1 :])).strip()


def _find_heading(lines: list[str], name: str, start: int) -> tuple[int, str] | None:
    """Return the line number of the first such heading from line `start` on, and the text after it."""
    for number, line in enumerate(lines[start:], start):
        found = HEADING.fullmatch(line)
        if found is None or not found["name"].lower().startswith(name) or bool(found["open"]) != bool(found["close"]):
            continue
        rest = found["rest"]
        if not rest.strip() or found["close"] or ":" in found["colon"]:
            return number, rest
    return None


Splitter = Callable[[str], tuple[str, str] | None]
PARSERS: dict[str, Splitter] = {"strict": split_strictly, "tolerant": split_tolerantly}
"""The values of `data.generate.parser`."""


def reject_unfinished(finish_reason: Any) -> Rejection:
    """Return the rejection for an answer whose finish_reason is not `stop`. Unknown reasons share one name."""
    return Rejection(f"finish_reason {finish_reason if finish_reason in FINISH_REASONS else 'unknown'}")


def parse_exercise(content: Any, finish_reason: Any, split: Splitter = split_strictly) -> Exercise | Rejection:
    """Parse the content of an answer, or return the rejection, without evidence.

    content, finish_reason: text if the server follows the protocol, anything else if it does not.
    """
    if finish_reason != "stop":
        return reject_unfinished(finish_reason)
    if not isinstance(content, str):
        return Rejection("no text")
    parts = split(content)
    if parts is None:
        return Rejection("headings missing or out of order")
    problem, solution = parts
    if not problem or not solution:
        return Rejection("empty problem" if not problem else "empty solution")
    return Exercise(problem, solution)
