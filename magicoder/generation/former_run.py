"""Continue a file of the original script, named by the settings that made it."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from magicoder.runtime.errors import UserError
from magicoder.seeds.snippets import Snippet
from magicoder.storage.files import read_rows


def compute_fingerprint(settings: tuple[Any, ...]) -> str:
    """Return the five hexadecimal digits that identify the settings in the original's file names.

    settings: seed, temperature, model, model_max_tokens, min_lines, max_lines, chunk_size, dataset_name, data_dir,
    max_considered_data, user prompt, system message, error margin; in this order.
    """
    return hashlib.sha256("".join(map(str, settings)).encode()).hexdigest()[:5]


def find_fingerprint(name: str) -> str | None:
    """Return the fingerprint in a file name `data[-TAG]-FINGERPRINT-START_END-TIME.jsonl`."""
    found = re.search(r"-([0-9a-f]{5})-\d+_\d+-", name)
    return found.group(1) if found else None


@dataclass(frozen=True)
class FormerRun:
    """Rows that the original wrote before it was interrupted.

    It asked about the snippets in order and recorded nothing about dropped answers: every index up to `last_index` was
    asked and paid for.
    """

    rows: dict[int, dict[str, Any]]
    last_index: int
    file: str


NO_FORMER_RUN = FormerRun({}, last_index=-1, file="")


def read_former_run(path: Path, snippets: Iterable[tuple[int, Snippet]]) -> FormerRun:
    """Read the rows of the original's file, and check that each has the same snippet as ours at its index.

    snippets: index and snippet of this whole run. Errors: UserError naming the row that does not fit.
    """
    columns = ("seed", "problem", "solution")
    rows: dict[int, dict[str, Any]] = {}
    for row in read_rows(path, columns, may_be_torn=True):
        if type(row.get("index")) is not int:
            raise _describe_foreign(path, row.get("index"))
        rows[row["index"]] = row
    unknown = dict.fromkeys(rows)
    for index, snippet in snippets:
        if index not in rows:
            continue
        del unknown[index]
        if (snippet.raw_index, snippet.text) != (rows[index].get("raw_index"), rows[index]["seed"]):
            raise UserError(
                f"data.generate.continue_from={path}: index {index} has another snippet than this run; "
                "use the corpus and the snippet settings that the file was made with"
            )
    if unknown:
        raise _describe_foreign(path, next(iter(unknown)))
    return FormerRun(rows, max(rows), path.name)


def _describe_foreign(path: Path, index: Any) -> UserError:
    return UserError(f"data.generate.continue_from={path}: index {index} is not in this run's range")
