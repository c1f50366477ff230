"""A page that shows people what a stage made of its rows: figures of all of them, and a sample to read.

The page stands in `rows_page.html`; here is what fills it. It asks no server for anything and opens from a file.
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

from magicoder.storage.files import written_whole

Row = dict[str, Any]
Source = Callable[[], Iterable[Row]]

ROWS_SHOWN = 2000
CHARACTERS_SHOWN = 20_000  # of one text
CHARACTERS_OF_A_NAME = 120  # a reason, a language: what is counted is kept in memory
BARS_SHOWN = 15
MEASURED = ("seed", "problem", "solution", "instruction", "response", "output")
KEPT = ""  # stands where a rejected row has its reason


@dataclass
class Lengths:
    """How long the texts of one column are, in bins that begin at powers of the root of two; the first at 2."""

    bins: Counter[int] = field(default_factory=Counter)
    total: int = 0
    longest: int = 0

    def add(self, length: int) -> None:
        """Count one text of so many characters."""
        self.bins[math.floor(2 * math.log2(max(2, length)))] += 1
        self.total += length
        self.longest = max(self.longest, length)

    def summary(self) -> dict[str, Any]:
        """Every bin between the shortest and the longest text, by the length at which it begins."""
        numbers = range(min(self.bins), max(self.bins) + 1)
        return {
            "mean": round(self.total / self.bins.total()),
            "longest": self.longest,
            "bins": [[math.ceil(2 ** (number / 2)), self.bins[number]] for number in numbers],
        }


@dataclass
class Survey:
    """What is told of all rows, however many there are."""

    groups: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    lengths: dict[str, Lengths] = field(default_factory=dict)

    def add(self, group: str, row: Row) -> None:
        """Count one row. Languages and lengths are those of kept rows."""
        self.groups[group] += 1
        if group != KEPT:
            return
        if "lang" in row:
            self.languages[name_of(row["lang"])] += 1
        for column in MEASURED:
            if isinstance(row.get(column), str):
                self.lengths.setdefault(column, Lengths()).add(len(row[column]))

    def reasons(self) -> Counter[str]:
        """The rejected rows by their reason."""
        return Counter({group: count for group, count in self.groups.items() if group != KEPT})

    def summary(self, tallies: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
        """What the page draws of all rows, and of counts made elsewhere."""
        counted = {"Reasons of rejection": self.reasons(), "Languages": self.languages, **tallies}
        return {
            "total": self.groups.total(),
            "reasons": self.reasons().most_common(),
            "tallies": [[name, bars(counts)] for name, counts in counted.items() if counts],
            "lengths": [[column, lengths.summary()] for column, lengths in self.lengths.items()],
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
    """Write the page, whole. kept, rejected: give the rows anew at each call, and are called twice.

    facts: what stands on top, each with its name. funnel: how many were left after each step. tallies: counts that the
    rows do not tell, such as finish reasons, each drawn as bars under its name.
    """
    survey = Survey()
    for group, _, row in grouped(kept, rejected):
        survey.add(group, row)
    told = {"title": title, "facts": list(facts.items()), "funnel": funnel, **survey.summary(tallies or {})}
    page = resources.files("magicoder.reports").joinpath("rows_page.html").read_text(encoding="utf-8")
    beginning, rest = page.replace("{{policy}}", policy(page)).split("{{summary}}")
    middle, end = rest.split("{{rows}}")
    with written_whole(path) as file:
        file.write(beginning.encode() + harmless_json(told) + middle.encode())
        for shown in sample(survey.groups, grouped(kept, rejected)):
            file.write(harmless_json(shown) + b"\n")
        file.write(end.encode())


def grouped(kept: Source, rejected: Source) -> Iterator[tuple[str, str, Row]]:
    """Each row with its group, which is its reason or `KEPT`, and with its anchor, which tells its line in its file."""
    for number, row in enumerate(kept(), start=1):
        yield KEPT, f"row-{number}", row
    for number, row in enumerate(rejected(), start=1):
        rest = {column: value for column, value in row.items() if column != "reason"}
        yield name_of(row.get("reason") or "no reason"), f"rejected-{number}", rest


def name_of(value: Any) -> str:
    """What a row is counted under: short, whatever the row holds."""
    return str(value)[:CHARACTERS_OF_A_NAME]


def sample(groups: Counter[str], rows: Iterable[tuple[str, str, Row]]) -> Iterator[dict[str, Any]]:
    """As many rows as the page shows, at even distances from each group: half of them rejected ones, if there are."""
    rejected = {group: count for group, count in groups.items() if group != KEPT}
    share = shares(rejected, max(ROWS_SHOWN // 2, ROWS_SHOWN - groups[KEPT]))
    share[KEPT] = min(groups[KEPT], ROWS_SHOWN - sum(share.values()))
    seen: Counter[str] = Counter()
    for group, anchor, row in rows:
        seen[group] += 1
        if seen[group] * share[group] // groups[group] > (seen[group] - 1) * share[group] // groups[group]:
            yield {"anchor": anchor, "reason": group, "columns": columns(row)}


def shares(groups: Mapping[str, int], places: int) -> dict[str, int]:
    """How many of the places each group gets: all it needs if it is small, else as many as the other large ones."""
    share = {}
    by_size = sorted(groups.items(), key=lambda group: group[1])
    for waiting, (name, count) in zip(range(len(by_size), 0, -1), by_size, strict=True):
        share[name] = min(count, places // waiting)
        places -= share[name]
    return share


def columns(row: Row) -> list[tuple[str, str, int]]:
    """The columns of a row as texts, cut where they are long, each with the length that it had."""
    texts = ((name, value if isinstance(value, str) else json.dumps(value)) for name, value in row.items())
    return [(name_of(name), text[:CHARACTERS_SHOWN], len(text)) for name, text in texts]


def bars(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """The most frequent first, and one bar for all that there is no room for."""
    in_order = Counter(counts).most_common()
    others = in_order[BARS_SHOWN:]
    return in_order[:BARS_SHOWN] + ([(f"{len(others)} others", sum(count for _, count in others))] if others else [])


def harmless_json(value: Any) -> bytes:
    """JSON in ASCII that no HTML parser takes for the end of a script, or for anything else but text."""
    return json.dumps(value).replace("<", "\\u003c").encode("ascii")


def policy(page: str) -> str:
    """The Content-Security-Policy of the page: its own style and its own script, and no request to anywhere."""
    sources = [f"{tag}-src 'sha256-{digest_of_element(tag, page)}'" for tag in ("style", "script")]
    forbidden = ["default-src 'none'", "base-uri 'none'", "form-action 'none'", "require-trusted-types-for 'script'"]
    return "; ".join([*forbidden, *sources])


def digest_of_element(tag: str, page: str) -> str:
    """The SHA-256, in base 64, of what stands in the first element of that name without attributes."""
    content = page.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]
    return b64encode(hashlib.sha256(content.encode()).digest()).decode()
