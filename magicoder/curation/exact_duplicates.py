"""Rows whose seed, problem or solution an earlier row already had, by the documented exact rule."""

import random
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

COLUMNS = ("seed", "problem", "solution")
REASONS = {column: f"duplicate {column}s" for column in COLUMNS}


def shuffled(rows: Iterable[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """The rows in the order that the standard library's Mersenne Twister gives them."""
    order = list(rows)
    random.Random(seed).shuffle(order)
    return order


def strip_whitespace(text: str) -> str:
    """The text without any whitespace: what is compared."""
    return "".join(text.split())


@dataclass
class ExactDuplicates:
    """A greedy pass: a row stays unless a kept row had its seed, problem or solution. A dropped row is forgotten."""

    _first_with: dict[str, dict[str, dict[str, Any]]] = field(
        default_factory=lambda: {column: {} for column in COLUMNS}
    )
    _kept: int = 0

    def verdict(self, row: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
        """None to keep the row, else the reason and the kept row that it repeats.

        That row is given by its place among the kept ones, from 0, and by its language and index if it has them.
        """
        folded = {column: strip_whitespace(row[column]) for column in COLUMNS}
        for column in COLUMNS:
            if (original := self._first_with[column].get(folded[column])) is not None:
                return REASONS[column], original
        identified: dict[str, Any] = {key: row[key] for key in ("lang", "index") if key in row}
        for column in COLUMNS:
            self._first_with[column][folded[column]] = {"kept_row": self._kept, **identified}
        self._kept += 1
        return None


def analysis(kept: Iterable[dict[str, Any]], rejected: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The counts of a cleaning: overall, by language, by reason, in the original's form."""
    by_language: dict[str, Counter[str]] = defaultdict(Counter)
    reasons: Counter[str] = Counter()
    for row in kept:
        by_language[row["lang"]]["chosen"] += 1
    for row in rejected:
        by_language[row["lang"]]["rejected"] += 1
        reasons[row["reason"]] += 1
    overall: Counter[str] = sum(by_language.values(), Counter())
    return {
        "overall": _shares(overall),
        "lang": {language: _shares(by_language[language]) for language in sorted(by_language)},
        "reason": dict(sorted(reasons.items())),
    }


def _shares(counts: Counter[str]) -> dict[str, Any]:
    total = counts["chosen"] + counts["rejected"]
    ratio = counts["chosen"] / total if total else 0.0
    return {
        "total": total,
        "chosen": counts["chosen"],
        "rejected": counts["rejected"],
        "chosen_ratio": f"{ratio:.2f}",
    }
