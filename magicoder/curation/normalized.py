"""A leak detector that ignores the layout of texts: line ends, indentation, and runs of whitespace."""

import re
from collections.abc import Sequence

from magicoder.curation.benchmarks import Strings
from magicoder.curation.substrings import SubstringDetector

MIN_DISTINCT_WORDS = 5
"""Texts with fewer are idioms that honest code contains too, such as `return ''.join(strings)` or Euclid's loop."""
WORD = re.compile(r"\w+")


class NormalizedDetector(SubstringDetector):
    """Finds benchmark strings whose whitespace differs: CRLF, another indentation, hard-wrapped lines.

    Generic strings are left to the documented search, which finds them where they occur to the letter.

    Example:
        >>> strings = {"mbpp_solutions": ["def f(a, b):\\r\\n    return max(a, b)"]}
        >>> detector = NormalizedDetector(strings, ["solution"])
        >>> detector.verdict({"solution": "def f(a, b):\\n  return max(a, b)"}).reason
        'mbpp_solutions_normalized_match'
    """

    tier = "normalized_match"

    def __init__(self, strings: Strings, columns: Sequence[str]) -> None:
        kept = {name: [text for text in texts if not is_generic(text)] for name, texts in strings.items()}
        super().__init__(kept, columns)

    @staticmethod
    def fold(text: str) -> str:
        """Return the form in which texts are compared: lower case, single blanks for whitespace."""
        return " ".join(text.lower().split())


def is_generic(text: str) -> bool:
    """Return whether a text has too few distinct words to be recognized without its layout."""
    return len(set(WORD.findall(text.lower()))) < MIN_DISTINCT_WORDS
