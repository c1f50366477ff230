"""Write and read the snapshot of drawn snippets as a stream, whatever the size of the corpus."""

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
from magicoder.seeds.snippets import SkippedDocument, SkippedFile, Snippet
from magicoder.storage.files import TEMPORARY_PREFIX, encode_row, read_rows, write_whole

LONGEST_EXAMPLE = 300
"""Characters of a skipped document in a message."""


def write_snippets(
    path: Path, drawn: Iterable[Snippet | SkippedDocument | SkippedFile], seed: int, first: int, count: int
) -> int:
    """Write, whole, the snippets `first` to `first + count` of the shuffled corpus, then everything that was skipped.

    Memory holds only the offset of each snippet in a temporary file. Returns the number of snippets in the corpus.
    Errors: UserError, and no file, if the corpus has none at `first`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _open_scratch(path) as in_corpus_order, _open_scratch(path) as skipped:
        offsets = _spool(drawn, in_corpus_order, skipped)
        if not len(offsets):
            raise UserError(f"the corpus has no snippet: {_count_reasons(skipped)}")
        if first >= len(offsets):
            raise UserError(f"data.generate.seed_code_start_index={first}: the corpus has only {len(offsets)} snippets")
        # The order of `datasets.Dataset.shuffle(seed=seed)`.
        order = numpy.random.default_rng(seed).permutation(len(offsets))[first : first + count]
        with write_whole(path) as file:
            for index, offset in enumerate(offsets[order].tolist(), start=first):
                in_corpus_order.seek(offset)
                file.write(encode_row(_with_index(json.loads(in_corpus_order.readline()), index)))
            skipped.seek(0)
            shutil.copyfileobj(skipped, file)
    return len(offsets)


def _count_reasons(skipped: IO[bytes]) -> str:
    """Return the number of skipped documents with the most frequent reasons, as text."""
    skipped.seek(0)
    rows = [json.loads(line) for line in skipped]
    if not rows:
        return "it has no document"
    reasons = Counter(str(row["reason"]) for row in rows)
    counts = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common(3))
    first = json.dumps({name: value for name, value in rows[0].items() if name != "reason"})[:LONGEST_EXAMPLE]
    documents = "1 document" if len(rows) == 1 else f"{len(rows)} documents"
    return f"{documents} skipped ({counts}), the first: {first}"


def read_snippets(path: Path) -> Iterator[tuple[int, Snippet]]:
    """Yield index and snippet in the order of the snapshot."""
    for row in read_rows(path):
        if "index" in row:
            yield row["index"], Snippet(row["raw_index"], row["seed"], row.get("provenance"))


def read_indices(path: Path) -> range:
    """Return the indices of the snippets, reading only the beginnings of the lines."""
    with open(path, "rb") as file:
        first = json.loads(file.readline()).get("index", 0)
        file.seek(0)
        return range(first, first + sum(line.startswith(b'{"raw_index"') for line in file))


def read_skipped(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of documents and files that gave no snippet, with their reasons."""
    return (row for row in read_rows(path) if "reason" in row)


def _open_scratch(path: Path) -> IO[bytes]:
    """Open a file on the disk of `path` that disappears with this process, even if it is killed."""
    return tempfile.TemporaryFile(prefix=TEMPORARY_PREFIX, dir=path.parent)


def _spool(
    drawn: Iterable[Snippet | SkippedDocument | SkippedFile], in_corpus_order: IO[bytes], skipped: IO[bytes]
) -> numpy.ndarray:
    """Write snippets and skipped documents to the two files; return the offset of each snippet. Shape: (snippets,)."""
    offsets, end = array("q"), 0
    for item in drawn:
        if isinstance(item, Snippet):
            offsets.append(end)
            end += in_corpus_order.write(encode_row(_as_row(item)))
        else:
            skipped.write(encode_row(item.as_row()))
    return numpy.array(offsets, dtype=numpy.int64)


def _as_row(snippet: Snippet) -> dict[str, Any]:
    row = {"raw_index": snippet.raw_index, "seed": snippet.text}
    return row if snippet.provenance is None else {**row, "provenance": snippet.provenance}


def _with_index(row: dict[str, Any], index: int) -> dict[str, Any]:
    return {"raw_index": row.pop("raw_index"), "index": index, **row}
