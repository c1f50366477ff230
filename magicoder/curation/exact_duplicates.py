"""Reject rows that repeat the seed, problem or solution of a kept row, by the documented exact rule."""

import random
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from magicoder.storage.rejected import Rejection

COLUMNS = ("seed", "problem", "solution")
REASONS = {column: f"duplicate {column}s" for column in COLUMNS}


def shuffle_rows(rows: Iterable[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """Return the rows shuffled by the standard library's Mersenne Twister, as in the original."""
    order = list(rows)
    random.Random(seed).shuffle(order)
    return order


def strip_whitespace(text: str) -> str:
    """Remove all whitespace from a text, the form in which texts are compared."""
    return "".join(text.split())


@dataclass
class ExactDuplicates:
    """A greedy pass: a row is kept unless a kept row has its seed, problem or solution. Rejected rows are forgotten.

    Example:
        duplicates = ExactDuplicates()
        kept = [row for row in rows if duplicates.verdict(row) is None]
    """

    _first_with: dict[str, dict[str, dict[str, Any]]] = field(
        default_factory=lambda: {column: {} for column in COLUMNS}
    )
    _kept: int = 0

    def verdict(self, row: dict[str, Any]) -> Rejection | None:
        """Return None to keep the row, else the rejection.

        Evidence: the kept row by its position among the kept ones, from 0, with its language and index if it has them.
        """
        stripped = {column: strip_whitespace(row[column]) for column in COLUMNS}
        if "sample" in row:  # several answers to one snippet were asked for: its seed alone makes them no duplicates
            stripped["seed"] += f" sample {row['sample']}"
        for column in COLUMNS:
            if (original := self._first_with[column].get(stripped[column])) is not None:
                return Rejection(REASONS[column], original)
        identified: dict[str, Any] = {key: row[key] for key in ("lang", "index") if key in row}
        for column in COLUMNS:
            self._first_with[column][stripped[column]] = {"kept_row": self._kept, **identified}
        self._kept += 1
        return None


def count_analysis(kept: Iterable[dict[str, Any]], rejected: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Count kept and rejected rows overall, by language and by reason, in the original's form."""
    by_language: dict[str, Counter[str]] = defaultdict(Counter)
    reasons: Counter[str] = Counter()
    for row in kept:
        by_language[row["lang"]]["chosen"] += 1
    for row in rejected:
        by_language[row["lang"]]["rejected"] += 1
        reasons[row["reason"]] += 1
    overall: Counter[str] = sum(by_language.values(), Counter())
    return {
        "overall": _compute_shares(overall),
        "lang": {language: _compute_shares(by_language[language]) for language in sorted(by_language)},
        "reason": dict(sorted(reasons.items())),
    }


def _compute_shares(counts: Counter[str]) -> dict[str, Any]:
    total = counts["chosen"] + counts["rejected"]
    ratio = counts["chosen"] / total if total else 0.0
    return {
        "total": total,
        "chosen": counts["chosen"],
        "rejected": counts["rejected"],
        "chosen_ratio": f"{ratio:.2f}",
    }
