"""Turn rows of each known format into instruction and response.

`FORMATS` is the registry. Adding a format is one function and its line in the dictionary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class RowFormat:
    """One format of rows.

    columns: those that must be text. convert: from a row and the template to the pair. optional: columns that may be
    missing or null.
    """

    columns: tuple[str, ...]
    convert: Callable[[Row, str], Row]
    optional: tuple[str, ...] = ()


def convert_src_instruct(row: Row, template: str) -> Row:
    """Insert the problem into the template as instruction; the solution is the response. Other keys stay."""
    kept = {key: value for key, value in row.items() if key not in ("problem", "solution")}
    return {**kept, "instruction": template.replace("{problem}", row["problem"]), "response": row["solution"]}


def convert_evol_instruct(row: Row, _template: str) -> Row:
    """Take the output as response."""
    return {"instruction": row["instruction"], "response": row["output"]}


def convert_codealpaca(row: Row, _template: str) -> Row:
    """Append an input that is not blank to the instruction; take the output as response. An input may be missing."""
    text = row.get("input") or ""
    appendix = f"\nInput: {text}" if text.strip() else ""
    return {"instruction": row["instruction"] + appendix, "response": row["output"]}


def convert_pair(row: Row, _template: str) -> Row:
    """Keep instruction and response alone."""
    return {"instruction": row["instruction"], "response": row["response"]}


FORMATS: dict[str, RowFormat] = {
    "src-instruct": RowFormat(("problem", "solution"), convert_src_instruct),
    "evol-instruct": RowFormat(("instruction", "output"), convert_evol_instruct),
    "codealpaca": RowFormat(("instruction", "output"), convert_codealpaca, optional=("input",)),
    "combine": RowFormat(("instruction", "response"), convert_pair),
}
"""The values of `data.preprocess.key`."""
