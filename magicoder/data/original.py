"""What the original script left on disk: files of generated rows, named by the settings that made them."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from magicoder.data.snippets import Snippet
from magicoder.errors import UserError
from magicoder.files import read_rows


def fingerprint(settings: tuple[Any, ...]) -> str:
    """The five hexadecimal digits by which the original tells its settings apart in a file's name.

    settings: seed, temperature, model, model_max_tokens, min_lines, max_lines, chunk_size, dataset_name, data_dir,
    max_considered_data, user prompt, system message, error margin; in this order.
    """
    return hashlib.sha256("".join(map(str, settings)).encode()).hexdigest()[:5]


def fingerprint_in(name: str) -> str | None:
    """The fingerprint in a file name `data[-TAG]-FINGERPRINT-START_END-TIME.jsonl`."""
    found = re.search(r"-([0-9a-f]{5})-\d+_\d+-", name)
    return found.group(1) if found else None


@dataclass(frozen=True)
class FormerRun:
    """Rows that the original wrote before it was interrupted.

    It went through the snippets in order and wrote no word of those whose answers it dropped: every index of the run up
    to `last_index` was asked for and paid.
    """

    rows: dict[int, dict[str, Any]]
    last_index: int
    file: str


def read_former_run(path: Path, snippets: dict[int, Snippet]) -> FormerRun:
    """The rows of the original's file, each checked to be about the same snippet as ours at its index.

    snippets: index -> snippet of this run. Errors: UserError naming the row that does not fit.
    """
    rows: dict[int, dict[str, Any]] = {}
    for row in read_rows(path, ("seed", "problem", "solution"), may_be_torn=True):
        index = row.get("index")
        snippet = snippets.get(index) if isinstance(index, int) else None
        if snippet is None:
            raise UserError(f"data.generate.continue_from={path}: index {index} is not in this run's range")
        if (snippet.raw_index, snippet.text) != (row.get("raw_index"), row["seed"]):
            raise UserError(
                f"data.generate.continue_from={path}: index {index} is about another snippet than here; "
                "the corpus and the settings of the draw must be those it was made with"
            )
        rows[row["index"]] = row
    return FormerRun(rows, max(rows), path.name)
