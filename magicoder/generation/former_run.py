"""What the original script left on disk: files of generated rows, named by the settings that made them."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from magicoder.runtime.errors import UserError
from magicoder.seeds.snippets import Snippet
from magicoder.storage.files import read_rows


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


NO_FORMER_RUN = FormerRun({}, last_index=-1, file="")


def read_former_run(path: Path, snippets: Iterable[tuple[int, Snippet]]) -> FormerRun:
    """The rows of the original's file, each checked to be about the same snippet as ours at its index.

    snippets: index and snippet of all of this run. Errors: UserError naming the row that does not fit.
    """
    columns = ("seed", "problem", "solution")
    rows: dict[int, dict[str, Any]] = {}
    for row in read_rows(path, columns, may_be_torn=True):
        if type(row.get("index")) is not int:
            raise _foreign(path, row.get("index"))
        rows[row["index"]] = row
    unknown = dict.fromkeys(rows)
    for index, snippet in snippets:
        if index not in rows:
            continue
        del unknown[index]
        if (snippet.raw_index, snippet.text) != (rows[index].get("raw_index"), rows[index]["seed"]):
            raise UserError(
                f"data.generate.continue_from={path}: index {index} is about another snippet than here; "
                "the corpus and the settings of the draw must be those it was made with"
            )
    if unknown:
        raise _foreign(path, next(iter(unknown)))
    return FormerRun(rows, max(rows), path.name)


def _foreign(path: Path, index: Any) -> UserError:
    return UserError(f"data.generate.continue_from={path}: index {index} is not in this run's range")
