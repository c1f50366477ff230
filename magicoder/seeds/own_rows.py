"""Take snippets as they are from the rows of a file."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from magicoder.seeds.sampling import SpanFilter
from magicoder.seeds.snippets import SkippedDocument, Snippet
from magicoder.storage.files import read_rows
from magicoder.storage.rejected import Rejection

MAX_CHARACTERS = 200
"""Longer values of other columns are content, not provenance."""


def read_snippets(
    path: Path, column: str, at_most: int | None, span_filter: SpanFilter
) -> Iterator[Snippet | SkippedDocument]:
    """Yield the text of each row whole, with the row's other small values as its origin.

    Errors: UserError naming file and line if a row has no text in the column.
    """
    for raw_index, row in enumerate(islice(read_rows(path, [column]), at_most)):
        text = row[column]
        rejection = span_filter.verdict(text, slice(0, len(text))) if text else Rejection("empty document")
        if rejection is None:
            yield Snippet(raw_index, text, describe_origin(row, column, path))
        else:
            yield SkippedDocument(raw_index, rejection)


def describe_origin(row: dict[str, Any], column: str, path: Path) -> dict[str, Any]:
    """Return the row's values that are small, after the name of the file."""
    small = {key: value for key, value in row.items() if key != column and _is_small(value)}
    return {"file": path.name, **small}


def _is_small(value: Any) -> bool:
    return len(value) <= MAX_CHARACTERS if isinstance(value, str) else isinstance(value, int | float | None)
