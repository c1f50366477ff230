"""The documented leak detector: reject a row that contains a benchmark's string, ignoring case."""

from collections.abc import Sequence
from typing import Any

import ahocorasick

from magicoder.curation.benchmarks import Strings
from magicoder.storage.rejected import Rejection


class SubstringDetector:
    """Finds all benchmark strings in one pass over a row (Aho and Corasick, 1975).

    The first string in the order of the lists decides, then in the order of the strings in a list.

    Example:
        >>> detector = SubstringDetector({"mbpp_docstrings": ["Add two numbers."]}, ["problem"])
        >>> detector.verdict({"problem": "add TWO numbers. Then print."})
        Rejection(reason='mbpp_docstrings_match', evidence='Add two numbers.')
    """

    tier = "match"
    """The end of a reason, which distinguishes this search from others."""

    def __init__(self, strings: Strings, columns: Sequence[str]) -> None:
        """strings: list name -> strings, in order of precedence. columns: the columns of a row to search."""
        self.counts = {name: len(texts) for name, texts in strings.items()}
        """Number of strings of each list that are searched."""
        self._columns = columns
        self._ranked = [(name, text) for name, texts in strings.items() for text in texts]
        self._automaton = ahocorasick.Automaton()
        for rank, (_, text) in enumerate(self._ranked):
            folded = self.fold(text)
            if folded and folded not in self._automaton:
                self._automaton.add_word(folded, rank)
        if self._automaton:
            self._automaton.make_automaton()

    def verdict(self, row: dict[str, Any]) -> Rejection | None:
        """Return None to keep the row, else the rejection. Evidence: the string in its original case."""
        if not self._automaton:
            return None
        text = "\n\n".join(self.fold(row[column]) for column in self._columns)
        rank = min((rank for _, rank in self._automaton.iter(text)), default=None)
        if rank is None:
            return None
        name, matched = self._ranked[rank]
        return Rejection(f"{name}_{self.tier}", matched)

    @staticmethod
    def fold(text: str) -> str:
        """Return the form in which texts are compared: lower case."""
        return text.lower()
