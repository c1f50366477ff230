"""Draw seed snippets as the original does: a few consecutive lines of each document."""

import random
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import count, repeat
from typing import Any

from magicoder.seeds.functions import FunctionFinder
from magicoder.seeds.sampling import KEEP_ALL, Sampler, SpanFilter
from magicoder.storage.rejected import Rejection


@dataclass(frozen=True)
class Snippet:
    """Some lines of the document at position `raw_index` of its corpus, with their origin if known."""

    raw_index: int
    text: str
    provenance: dict[str, Any] | None = None


@dataclass(frozen=True)
class SkippedDocument:
    """A document at position `raw_index` that gives no snippet, or one that shall not be sent."""

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
    documents: Iterable[str],
    *,
    chunk_size: int,
    seed: int,
    min_lines: int,
    max_lines: int,
    per_document: int = 1,
    grammar: str | None = None,
    span_filter: SpanFilter = KEEP_ALL,
) -> Iterator[Snippet | SkippedDocument]:
    """Yield the snippets of each document, in the order of the corpus. A document without lines uses no random number.

    chunk_size: documents that share a random generator. min_lines, max_lines: bounds of a snippet, inclusive.
    grammar: of whole functions; None for lines.

    Example:
        draw_snippets(["a = 1\\nb = 2\\n"], chunk_size=1000, seed=976, min_lines=1, max_lines=15)
    """
    with closing(FunctionFinder()) as finder:
        sampler = Sampler(min_lines, max_lines, per_document, finder if grammar else None, span_filter)
        with_generators = zip(documents, make_generators(chunk_size, seed), strict=False)
        for raw_index, (document, generator) in enumerate(with_generators):
            for drawn in sampler.draw(document, generator, grammar or ""):
                if isinstance(drawn, Rejection):
                    yield SkippedDocument(raw_index, drawn)
                else:
                    yield Snippet(raw_index, document[drawn])


def make_generators(chunk_size: int, seed: int) -> Iterator[random.Random]:
    """Yield the Mersenne Twister of each document of a corpus.

    Documents are counted in chunks of `chunk_size`; each chunk has its own generator, seeded with `seed` plus the
    position of its first document.
    """
    for position in count(step=chunk_size):
        yield from repeat(random.Random(seed + position), chunk_size)
