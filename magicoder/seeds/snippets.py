"""Draw seed snippets as the original does: a few consecutive lines of each document."""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count, repeat
from typing import Any

from magicoder.storage.rejected import Rejection


@dataclass(frozen=True)
class Snippet:
    """Some lines of the document at position `raw_index` of its corpus, with their origin if known."""

    raw_index: int
    text: str
    provenance: dict[str, Any] | None = None


@dataclass(frozen=True)
class SkippedDocument:
    """A document at position `raw_index` that gives no snippet."""

    raw_index: int
    rejection: Rejection

    def as_row(self) -> dict[str, Any]:
        """Return its line of `rejected.jsonl`; a reason that speaks for itself has no evidence."""
        row = self.rejection.as_row({"raw_index": self.raw_index})
        if self.rejection.evidence is None:
            del row["evidence"]
        return row


@dataclass(frozen=True)
class SkippedFile:
    """A file or folder that is not part of the corpus. path: valid text, whatever its bytes are."""

    path: str
    rejection: Rejection

    def as_row(self) -> dict[str, Any]:
        """Return its line of `rejected.jsonl`."""
        return self.rejection.as_row({"path": self.path})


def draw_snippets(
    documents: Iterable[str], *, chunk_size: int, seed: int, min_lines: int, max_lines: int
) -> Iterator[Snippet | SkippedDocument]:
    """Yield one snippet a document, in the order of the corpus. A document without lines uses no random number.

    chunk_size: documents that share a random generator. min_lines, max_lines: bounds of a snippet, inclusive.

    Example:
        draw_snippets(["a = 1\\nb = 2\\n"], chunk_size=1000, seed=976, min_lines=1, max_lines=15)
    """
    with_generators = zip(documents, make_generators(chunk_size, seed), strict=False)
    for raw_index, (document, generator) in enumerate(with_generators):
        span = draw_lines(document, generator, min_lines, max_lines)
        if span is None:
            yield SkippedDocument(raw_index, Rejection("empty document"))
        else:
            yield Snippet(raw_index, document[span])


def make_generators(chunk_size: int, seed: int) -> Iterator[random.Random]:
    """Yield the Mersenne Twister of each document of a corpus.

    Documents are counted in chunks of `chunk_size`; each chunk has its own generator, seeded with `seed` plus the
    position of its first document.
    """
    for position in count(step=chunk_size):
        yield from repeat(random.Random(seed + position), chunk_size)


def draw_lines(document: str, generator: random.Random, min_lines: int, max_lines: int) -> slice | None:
    """Return the span of the drawn lines in the document, in characters; None if it has no lines.

    Two random numbers, in this order: the first line, the number of lines.
    """
    lines = document.splitlines(keepends=True)
    if not lines:
        return None
    first = generator.choice(range(len(lines)))
    number = generator.randint(min_lines, max_lines)
    start = sum(map(len, lines[:first]))
    return slice(start, start + sum(map(len, lines[first : first + number])))
