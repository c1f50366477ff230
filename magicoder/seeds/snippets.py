"""Seed snippets: a few consecutive lines of each document, drawn and shuffled as the original does."""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count, repeat
from typing import Any


@dataclass(frozen=True)
class Snippet:
    """Some lines of the document at position `raw_index` of its corpus, and where they come from if that is known."""

    raw_index: int
    text: str
    provenance: dict[str, Any] | None = None


@dataclass(frozen=True)
class Undrawable:
    """A document that gives no snippet, and why."""

    raw_index: int
    reason: str
    evidence: Any = None

    def as_row(self) -> dict[str, Any]:
        """The form in which it stands in `rejected.jsonl`."""
        row = {"reason": self.reason, "raw_index": self.raw_index}
        return row if self.evidence is None else {**row, "evidence": self.evidence}


@dataclass(frozen=True)
class LeftOut:
    """A file or folder that is no document of the corpus, and why; `path` is readable, whatever its bytes are."""

    path: str
    reason: str
    evidence: Any

    def as_row(self) -> dict[str, Any]:
        """The form in which it stands in `rejected.jsonl`."""
        return {"reason": self.reason, "path": self.path, "evidence": self.evidence}


def draw(
    documents: Iterable[str], *, chunk_size: int, seed: int, min_lines: int, max_lines: int
) -> Iterator[Snippet | Undrawable]:
    """One snippet a document, in the order of the corpus. A document without lines takes no draw."""
    with_generators = zip(documents, generators(chunk_size, seed), strict=False)
    for raw_index, (document, generator) in enumerate(with_generators):
        place = drawn_lines(document, generator, min_lines, max_lines)
        if place is None:
            yield Undrawable(raw_index, "empty document")
        else:
            yield Snippet(raw_index, document[place])


def generators(chunk_size: int, seed: int) -> Iterator[random.Random]:
    """For each document of a corpus the Mersenne Twister that it is drawn with.

    Documents count in chunks of `chunk_size`; each chunk has a generator of its own, seeded with `seed` plus the
    position of its first document.
    """
    for position in count(step=chunk_size):
        yield from repeat(random.Random(seed + position), chunk_size)


def drawn_lines(document: str, generator: random.Random, min_lines: int, max_lines: int) -> slice | None:
    """Where in the document the drawn lines stand; None if it has no lines.

    It takes two draws, first where the lines start, then how many they are.
    """
    lines = document.splitlines(keepends=True)
    if not lines:
        return None
    first = generator.choice(range(len(lines)))
    number = generator.randint(min_lines, max_lines)
    start = sum(map(len, lines[:first]))
    return slice(start, start + sum(map(len, lines[first : first + number])))
