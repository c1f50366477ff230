"""The snapshot of drawn snippets: written and read as a stream, however large the corpus is."""

import json
import shutil
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy

from magicoder.runtime.errors import UserError
from magicoder.seeds.snippets import LeftOut, Snippet, Undrawable
from magicoder.storage.files import TEMPORARY_PREFIX, json_line, read_rows, written_whole


def write_snippets(
    path: Path, drawn: Iterable[Snippet | Undrawable | LeftOut], seed: int, first: int, count: int
) -> int:
    """Write, whole, the snippets at `first` to `first + count` of the shuffled corpus, then all that gave none.

    In memory there is no more of the corpus than the place of each snippet in a temporary file. Returns how many
    snippets the corpus gave. Errors: UserError, and no file, if it gave none at `first`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _scratch(path) as in_corpus_order, _scratch(path) as without_snippet:
        offsets = _spool(drawn, in_corpus_order, without_snippet)
        if not len(offsets):
            raise UserError(f"the corpus gives no snippet: {_reasons(without_snippet)}")
        if first >= len(offsets):
            raise UserError(
                f"data.generate.seed_code_start_index={first}: the corpus gives only {len(offsets)} snippets"
            )
        # The order of `datasets.Dataset.shuffle(seed=seed)`.
        order = numpy.random.default_rng(seed).permutation(len(offsets))[first : first + count]
        with written_whole(path) as file:
            for index, offset in enumerate(offsets[order].tolist(), start=first):
                in_corpus_order.seek(offset)
                file.write(json_line(_with_index(json.loads(in_corpus_order.readline()), index)))
            without_snippet.seek(0)
            shutil.copyfileobj(without_snippet, file)
    return len(offsets)


def _reasons(without_snippet: IO[bytes]) -> str:
    """How many documents were left out for which reasons, in words."""
    without_snippet.seek(0)
    reasons = Counter(str(json.loads(line)["reason"]) for line in without_snippet)
    told = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common(3))
    return f"{reasons.total()} documents left out ({told})" if reasons else "there is no document"


def snippets(path: Path) -> Iterator[tuple[int, Snippet]]:
    """The snippets of a snapshot by their index, in its order."""
    for row in read_rows(path):
        if "index" in row:
            yield row["index"], Snippet(row["raw_index"], row["seed"], row.get("provenance"))


def indices(path: Path) -> range:
    """The indices of the snippets of a snapshot, told from the beginnings of its lines."""
    with open(path, "rb") as file:
        first = json.loads(file.readline()).get("index", 0)
        file.seek(0)
        return range(first, first + sum(line.startswith(b'{"raw_index"') for line in file))


def left_out(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a snapshot that tell which documents gave no snippet, and why."""
    return (row for row in read_rows(path) if "reason" in row)


def _scratch(path: Path) -> IO[bytes]:
    """A file on the disk of `path` that is gone with this process, even if it is killed."""
    return tempfile.TemporaryFile(prefix=TEMPORARY_PREFIX, dir=path.parent)


def _spool(
    drawn: Iterable[Snippet | Undrawable | LeftOut], in_corpus_order: IO[bytes], without_snippet: IO[bytes]
) -> numpy.ndarray:
    """Write what is drawn to the two files; return where in the first one each snippet starts."""
    offsets, end = array("q"), 0
    for item in drawn:
        if isinstance(item, Snippet):
            offsets.append(end)
            end += in_corpus_order.write(json_line(_as_row(item)))
        else:
            without_snippet.write(json_line(item.as_row()))
    return numpy.array(offsets, dtype=numpy.int64)


def _as_row(snippet: Snippet) -> dict[str, Any]:
    row = {"raw_index": snippet.raw_index, "seed": snippet.text}
    return row if snippet.provenance is None else {**row, "provenance": snippet.provenance}


def _with_index(row: dict[str, Any], index: int) -> dict[str, Any]:
    return {"raw_index": row.pop("raw_index"), "index": index, **row}
