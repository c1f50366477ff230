"""Rows of each known form as an instruction and its response."""

from collections.abc import Callable
from typing import Any

from magicoder.config import PREPROCESS_KEYS

Row = dict[str, Any]


def src_instruct(row: Row, template: str) -> Row:
    """A problem inside the template becomes the instruction, the solution the response; other keys stay."""
    kept = {key: value for key, value in row.items() if key not in ("problem", "solution")}
    return {**kept, "instruction": template.replace("{problem}", row["problem"]), "response": row["solution"]}


def evol_instruct(row: Row, _template: str) -> Row:
    """The output becomes the response."""
    return {"instruction": row["instruction"], "response": row["output"]}


def codealpaca(row: Row, _template: str) -> Row:
    """An input that is not blank goes behind the instruction; the output becomes the response."""
    appendix = f"\nInput: {row['input']}" if row["input"].strip() else ""
    return {"instruction": row["instruction"] + appendix, "response": row["output"]}


def combine(row: Row, _template: str) -> Row:
    """Instruction and response alone."""
    return {"instruction": row["instruction"], "response": row["response"]}


# Form -> the columns that it needs, and what makes a pair of a row.
FORMS: dict[str, tuple[tuple[str, ...], Callable[[Row, str], Row]]] = dict(
    zip(
        PREPROCESS_KEYS,
        (
            (("problem", "solution"), src_instruct),
            (("instruction", "output"), evol_instruct),
            (("instruction", "input", "output"), codealpaca),
            (("instruction", "response"), combine),
        ),
        strict=True,
    )
)
