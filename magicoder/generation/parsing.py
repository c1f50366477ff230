"""Split a teacher's answer into problem and solution, by the documented strict rule or by a tolerant one."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from magicoder.storage.rejected import Rejection

PROBLEM_MARKER = "[problem description]"
SOLUTION_MARKER = "[solution]"
HEADING = re.compile(
    r"[ ]{0,3}+(?:\#{1,6}+[ \t]*+)?+(?:(?:\*\*|__)[ \t]*+)?+"
    r"(?:(?:part|step)?[ \t]*+\d{1,2}+[ \t]*+[.):-][ \t]*+(?:(?:\*\*|__)[ \t]*+)?+)?"
    r"(?P<open>\[[ \t]*)?(?P<name>problem[ ]description|problem|solution)[ \t]*(?P<close>\])?[ \t]*"
    r"(?P<colon>:?[ \t]*(?:\*\*|__)?[ \t]*:?)[ \t]*(?P<rest>.*)",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
"""A heading line: of any level or none, numbered or not, with or without brackets, bold or not, with or without a
colon. Possessive quantifiers keep it linear on lines of blanks."""
OPENING = re.compile(r"(`{3,}|~{3,})[ \t]*+(?:markdown|md|text)?[ \t]*+\n", re.IGNORECASE)
"""The first line of an answer inside an outer fence."""


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
    """Return the same for other spellings of the headings: `## Problem`, `**1. Solution:**`, `Problem: ...`.

    What the strict rule can use is split as by it. Otherwise an outer fence is removed; the first problem heading
    counts, and the first solution heading after it. Text on the line of a heading with brackets or a colon belongs to
    the part that follows.
    """
    strict = split_strictly(answer)
    if strict is not None and all(strict):
        return strict
    lines = remove_outer_fence(answer).splitlines(keepends=True)
    problem = _find_heading(lines, "problem", 0)
    solution = _find_heading(lines, "solution", problem[0] + 1) if problem is not None else None
    if problem is None or solution is None:
        return strict
    description = problem[1] + "".join(lines[problem[0] + 1 : solution[0]])
    return description.strip(), (solution[1] + "".join(lines[solution[0] + 1 :])).strip()


def remove_outer_fence(answer: str) -> str:
    """Return an answer without the fence around the whole of it, if there is one."""
    stripped = answer.strip()
    opening = OPENING.match(stripped)
    if opening is None or not stripped[opening.end() - 1 :].endswith(f"\n{opening[1]}"):
        return answer
    return stripped[opening.end() : -len(opening[1])]


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


def reject_unfinished(end: str) -> Rejection:
    """Return the rejection for an answer that the model did not end itself. end: as `classify_end` returns it."""
    return Rejection(f"finish_reason {end}")


def parse_exercise(text: str | None, end: str, split: Splitter = split_strictly) -> Exercise | Rejection:
    """Parse the text of an answer, or return the rejection, without evidence. end: as `classify_end` returns it."""
    if end != "stop":
        return reject_unfinished(end)
    if text is None:
        return Rejection("no text")
    parts = split(text)
    if parts is None:
        return Rejection("headings missing or out of order")
    problem, solution = parts
    if not problem or not solution:
        return Rejection("empty problem" if not problem else "empty solution")
    return Exercise(problem, solution)
