"""Draw spans from a document, and reject those that shall not be sent."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from magicoder.seeds.credentials import find_credential
from magicoder.seeds.decoding import end_lines_with_feeds
from magicoder.storage.rejected import Rejection

ATTEMPTS = 10
"""Draws of a further span before a document counts as used up."""


class Finder(Protocol):
    """Finds functions in a document, as `FunctionFinder` does."""

    def find(self, document: str, grammar: str, min_lines: int, max_lines: int) -> list[slice] | None:
        """Return the span of each function; None for a document that cannot be parsed."""


@dataclass(frozen=True)
class SpanFilter:
    """Rejects spans of a document. The documented draw keeps all."""

    skip_blank: bool = False
    skip_secrets: bool = False

    def verdict(self, document: str, span: slice) -> Rejection | None:
        """Return None to keep the span, else the rejection. Evidence: lines of the document, never a secret."""
        if self.skip_blank and not document[span].strip():
            return Rejection("blank snippet", {"line": count_lines(document, span.start)})
        if self.skip_secrets and (found := find_credential(document, span)) is not None:
            return Rejection("holds a secret", {"kind": found.kind, "line": count_lines(document, found.position)})
        return None


KEEP_ALL = SpanFilter()
KEEP_SECRETS_HOME = SpanFilter(skip_secrets=True)


@dataclass(frozen=True)
class Sampler:
    """Draws spans of a document: some consecutive lines, or whole functions where there is a finder.

    per_document: most spans of a document; they do not overlap.
    """

    min_lines: int
    max_lines: int
    per_document: int = 1
    finder: Finder | None = None
    span_filter: SpanFilter = KEEP_ALL

    def draw(self, document: str, generator: random.Random, grammar: str) -> Iterator[slice | Rejection]:
        """Yield each drawn span, in characters, or its rejection; one rejection for a document without any.

        grammar: of the functions to find.
        """
        spans = self._draw_spans(document, generator, grammar)
        if isinstance(spans, Rejection):
            yield spans
            return
        for span in spans:
            yield self.span_filter.verdict(document, span) or span

    def _draw_spans(self, document: str, generator: random.Random, grammar: str) -> list[slice] | Rejection:
        if self.finder is None or not document:
            drawn = draw_lines(document, generator, self.min_lines, self.max_lines, self.per_document)
            return drawn or Rejection("empty document")
        functions = self.finder.find(document, grammar, self.min_lines, self.max_lines)
        if functions is None:
            return Rejection("cannot be parsed")
        if not functions:
            return Rejection(f"no function of {self.min_lines} to {self.max_lines} lines")
        return choose_functions(functions, generator, self.per_document)


def draw_lines(
    document: str, generator: random.Random, min_lines: int, max_lines: int, at_most: int = 1
) -> list[slice]:
    """Return spans of drawn lines in the document, in characters; none if it has no lines.

    Two random numbers for a span, in this order: the first line, the number of lines. A further span that overlaps an
    earlier one is drawn again.
    """
    lines = document.splitlines(keepends=True)
    if not lines:
        return []
    chosen: list[range] = []
    for _ in range(1 + (at_most - 1) * ATTEMPTS):
        first = generator.choice(range(len(lines)))
        number = generator.randint(min_lines, max_lines)
        drawn = range(first, min(first + number, len(lines)))
        if all(drawn.stop <= other.start or other.stop <= drawn.start for other in chosen):
            chosen.append(drawn)
        if len(chosen) == at_most:
            break
    return [slice(sum(map(len, lines[: drawn.start])), sum(map(len, lines[: drawn.stop]))) for drawn in chosen]


def choose_functions(functions: list[slice], generator: random.Random, at_most: int) -> list[slice]:
    """Choose functions that do not contain one another; one random number each."""
    chosen: list[slice] = []
    while functions and len(chosen) < at_most:
        span = generator.choice(functions)
        chosen.append(span)
        functions = [other for other in functions if other.stop <= span.start or span.stop <= other.start]
    return chosen


def count_lines(document: str, position: int) -> int:
    """Return the number of the line that holds a position, from 1. Lines end at "\\n", as git counts them, in old Mac
    files at "\\r"."""
    return end_lines_with_feeds(document).count("\n", 0, position) + 1
