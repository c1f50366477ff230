"""Seed snippets: a few consecutive lines of each document, drawn and shuffled as the original does."""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy


@dataclass(frozen=True)
class Snippet:
    """Some lines of the document at position `raw_index` of its corpus."""

    raw_index: int
    text: str


@dataclass(frozen=True)
class Undrawable:
    """A document that gives no snippet, and why."""

    raw_index: int
    reason: str

    def as_row(self) -> dict[str, Any]:
        """The form in which it stands in `rejected.jsonl`."""
        return {"reason": self.reason, "raw_index": self.raw_index}


def draw(
    documents: Iterable[str], *, chunk_size: int, seed: int, min_lines: int, max_lines: int
) -> Iterator[Snippet | Undrawable]:
    """One snippet a document, in the order of the corpus.

    Documents are taken in chunks of `chunk_size`; each chunk has a Mersenne Twister of its own, seeded with `seed` plus
    the position of its first document. A snippet takes two draws, first where it starts, then how many lines it has. A
    document without lines takes none.
    """
    position = 0
    stream = iter(documents)
    while chunk := list(islice(stream, chunk_size)):
        generator = random.Random(seed + position)
        for raw_index, document in enumerate(chunk, start=position):
            lines = document.splitlines(keepends=True)
            if not lines:
                yield Undrawable(raw_index, "empty document")
                continue
            start = generator.choice(range(len(lines)))
            count = generator.randint(min_lines, max_lines)
            yield Snippet(raw_index, "".join(lines[start : start + count]))
        position += len(chunk)


def shuffled(snippets: list[Snippet], seed: int) -> list[Snippet]:
    """The order in which the teacher is asked: that of `datasets.Dataset.shuffle(seed=seed)`."""
    return [snippets[place] for place in numpy.random.default_rng(seed).permutation(len(snippets))]
