"""Write a page about the rows of a stage: statistics of all of them, and a sample to read.

`rows_page.html` is the page; this module fills it. The page needs no server and opens from a file.
"""

import hashlib
import json
import math
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from magicoder.storage.files import write_whole

Row = dict[str, Any]
Source = Callable[[], Iterable[Row]]

ROWS_SHOWN = 2000
CHARACTERS_SHOWN = 20_000  # of one text
CHARACTERS_OF_A_NAME = 120  # of a reason or a language: every counted name is kept in memory
BARS_SHOWN = 15
MEASURED = ("seed", "problem", "solution", "instruction", "response", "output")
KEPT = ""  # the group of kept rows; the group of a rejected row is its reason


@dataclass
class Lengths:
    """The lengths of one column's texts in characters, in bins that begin at powers of the root of 2."""

    bins: Counter[int] = field(default_factory=Counter)
    total: int = 0
    longest: int = 0

    def add(self, length: int) -> None:
        """Count one text of so many characters."""
        self.bins[math.floor(2 * math.log2(max(2, length)))] += 1
        self.total += length
        self.longest = max(self.longest, length)

    def summarize(self) -> dict[str, Any]:
        """Return mean, maximum, and every bin between the shortest and the longest text, by its first length."""
        numbers = range(min(self.bins), max(self.bins) + 1)
        return {
            "mean": round(self.total / self.bins.total()),
            "longest": self.longest,
            "bins": [[math.ceil(2 ** (number / 2)), self.bins[number]] for number in numbers],
        }


@dataclass
class Survey:
    """Statistics of all rows, in memory that does not grow with their number."""

    groups: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    lengths: dict[str, Lengths] = field(default_factory=dict)

    def add(self, group: str, row: Row) -> None:
        """Count one row. Languages and lengths are those of kept rows."""
        self.groups[group] += 1
        if group != KEPT:
            return
        if "lang" in row:
            self.languages[shorten_name(row["lang"])] += 1
        for column in MEASURED:
            if isinstance(row.get(column), str):
                self.lengths.setdefault(column, Lengths()).add(len(row[column]))

    def count_reasons(self) -> Counter[str]:
        """Count the rejected rows by reason."""
        return Counter({group: count for group, count in self.groups.items() if group != KEPT})

    def summarize(self, tallies: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
        """Return the data of the page's charts. tallies: counts that the rows do not contain."""
        counted = {"Reasons of rejection": self.count_reasons(), "Languages": self.languages, **tallies}
        return {
            "total": self.groups.total(),
            "reasons": self.count_reasons().most_common(),
            "tallies": [[name, select_bars(counts)] for name, counts in counted.items() if counts],
            "lengths": [[column, lengths.summarize()] for column, lengths in self.lengths.items()],
        }


def write_report(
    path: Path,
    *,
    title: str,
    facts: Mapping[str, str],
    funnel: list[tuple[str, int]],
    kept: Source,
    rejected: Source,
    tallies: Mapping[str, Mapping[str, int]] | None = None,
) -> None:
    """Write the page, atomically. kept, rejected: return a fresh iterator at each call, and are called twice.

    facts: shown at the top, by name. funnel: rows after each step. tallies: counts that the rows do not contain, such
    as finish reasons, each drawn as bars under its name.
    """
    survey = Survey()
    for group, _, row in group_rows(kept, rejected):
        survey.add(group, row)
    summary = {"title": title, "facts": list(facts.items()), "funnel": funnel, **survey.summarize(tallies or {})}
    page = resources.files("magicoder.reports").joinpath("rows_page.html").read_text(encoding="utf-8")
    beginning, rest = page.replace("{{policy}}", build_policy(page)).split("{{summary}}")
    middle, end = rest.split("{{rows}}")
    with write_whole(path) as file:
        file.write(beginning.encode() + encode_for_html(summary) + middle.encode())
        for sampled in sample_rows(survey.groups, group_rows(kept, rejected)):
            file.write(encode_for_html(sampled) + b"\n")
        file.write(end.encode())


def group_rows(kept: Source, rejected: Source) -> Iterator[tuple[str, str, Row]]:
    """Yield each row with its group (its reason or `KEPT`) and its anchor (its line in its file)."""
    for number, row in enumerate(kept(), start=1):
        yield KEPT, f"row-{number}", row
    for number, row in enumerate(rejected(), start=1):
        rest = {column: value for column, value in row.items() if column != "reason"}
        yield shorten_name(row.get("reason") or "no reason"), f"rejected-{number}", rest


def shorten_name(value: Any) -> str:
    """Return a short name to count a row under, whatever the row contains."""
    return str(value)[:CHARACTERS_OF_A_NAME]


def sample_rows(groups: Counter[str], rows: Iterable[tuple[str, str, Row]]) -> Iterator[dict[str, Any]]:
    """Yield the rows that the page shows, evenly spaced in each group: up to half of them rejected ones."""
    rejected = {group: count for group, count in groups.items() if group != KEPT}
    share = divide_places(rejected, max(ROWS_SHOWN // 2, ROWS_SHOWN - groups[KEPT]))
    share[KEPT] = min(groups[KEPT], ROWS_SHOWN - sum(share.values()))
    seen: Counter[str] = Counter()
    for group, anchor, row in rows:
        seen[group] += 1
        if seen[group] * share[group] // groups[group] > (seen[group] - 1) * share[group] // groups[group]:
            yield {"anchor": anchor, "reason": group, "columns": cut_columns(row)}


def divide_places(groups: Mapping[str, int], places: int) -> dict[str, int]:
    """Divide places among groups: a small group gets all that it needs, large ones get equal shares."""
    share = {}
    by_size = sorted(groups.items(), key=lambda group: group[1])
    for waiting, (name, count) in zip(range(len(by_size), 0, -1), by_size, strict=True):
        share[name] = min(count, places // waiting)
        places -= share[name]
    return share


def cut_columns(row: Row) -> list[tuple[str, str, int]]:
    """Return the columns of a row as texts, truncated, each with its original length."""
    texts = ((name, value if isinstance(value, str) else json.dumps(value)) for name, value in row.items())
    return [(shorten_name(name), text[:CHARACTERS_SHOWN], len(text)) for name, text in texts]


def select_bars(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """Return the most frequent counts, and one bar for all others."""
    in_order = Counter(counts).most_common()
    others = in_order[BARS_SHOWN:]
    return in_order[:BARS_SHOWN] + ([(f"{len(others)} others", sum(count for _, count in others))] if others else [])


def encode_for_html(value: Any) -> bytes:
    """Return ASCII JSON that an HTML parser reads as text: it cannot end a script element."""
    return json.dumps(value).replace("<", "\\u003c").encode("ascii")


def build_policy(page: str) -> str:
    """Return the Content-Security-Policy of the page: its own style and script, and no request to any server."""
    sources = [f"{tag}-src 'sha256-{digest_element(tag, page)}'" for tag in ("style", "script")]
    forbidden = ["default-src 'none'", "base-uri 'none'", "form-action 'none'", "require-trusted-types-for 'script'"]
    return "; ".join([*forbidden, *sources])


def digest_element(tag: str, page: str) -> str:
    """Return the SHA-256, in base 64, of the content of the first element with this name and no attributes."""
    content = page.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]
    return b64encode(hashlib.sha256(content.encode()).digest()).decode()
