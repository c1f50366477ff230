"""The documented leak detector: a row that contains a benchmark's string, whatever its case."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import ahocorasick

from magicoder.curation.benchmarks import Strings


@dataclass(frozen=True)
class Leak:
    """The first benchmark string that a row contains: in the order of the lists, then of the strings in a list."""

    benchmark: str
    matched_substring: str

    @property
    def reason(self) -> str:
        """The name that the original gives this reason."""
        return f"{self.benchmark}_match"


class SubstringDetector:
    """Finds benchmark strings in rows, all in one pass over a row (Aho and Corasick, 1975)."""

    def __init__(self, strings: Strings) -> None:
        """strings: list name -> strings to search, in order of precedence."""
        self._ranked = [Leak(benchmark, text) for benchmark, texts in strings.items() for text in texts]
        self._automaton = ahocorasick.Automaton()
        for rank, leak in enumerate(self._ranked):
            lowered = leak.matched_substring.lower()
            if lowered and lowered not in self._automaton:
                self._automaton.add_word(lowered, rank)
        if self._automaton:
            self._automaton.make_automaton()

    def verdict(self, row: dict[str, Any], columns: Sequence[str]) -> Leak | None:
        """None to keep the row, else the leak that decides."""
        if not self._automaton:
            return None
        text = "\n\n".join(row[column].lower() for column in columns)
        rank = min((rank for _, rank in self._automaton.iter(text)), default=None)
        return None if rank is None else self._ranked[rank]


def excluded_by_language(excluded: Iterable[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Language -> reason -> count, the form of the original's `meta.json`."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for entry in excluded:
        counts[entry["data"].get("lang", "unknown")][entry["filter_reason"]] += 1
    return {language: dict(counts[language]) for language in counts}
