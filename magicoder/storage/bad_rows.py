"""Keep the bad rows of a stage's inputs: name them in one error, or reject them with reason and evidence."""

from collections.abc import Iterator
from typing import Any

from magicoder.storage.files import BadRow, Columns, Problems, Source, scan_rows
from magicoder.storage.formats import Entry, Fault
from magicoder.storage.inputs import name_input
from magicoder.storage.rejected import Rejection

LONGEST_TEXT = 1000
"""Characters of an unreadable line that are kept as evidence."""


class BadRows:
    """Reads sources, and keeps what is no row.

    Example:
        bad = BadRows("data.clean", "reject")
        rows = [entry.value for entry in bad.read(path, Columns(("problem", "solution")))]
        bad.refuse_if_nothing_left()
        write_rows(rejected_path, bad.rejected)
    """

    def __init__(self, node: str, policy: str) -> None:
        """Begin without bad rows. node: the config node whose key `bad_rows` has the policy, `error` or `reject`."""
        self.rejected: list[dict[str, Any]] = []
        self._key, self._policy = f"{node}.bad_rows", policy
        self._good = 0
        self._problems = Problems()

    def read(self, source: Source, columns: Columns, *, may_be_empty: bool = False) -> Iterator[Entry]:
        """Yield the rows of a source. Errors: UserError at its end if it has bad rows and these are errors."""
        for entry in scan_rows(source, columns, may_be_empty=may_be_empty):
            if entry.fault is not None:
                self._keep(BadRow(source, entry, entry.fault))
            else:
                self._good += 1
                self._problems.has_good_rows = True
                yield entry
        if self._policy == "error":
            self._problems.raise_any(f"{self._key}=reject leaves bad rows out")

    def add(self, source: Source, entry: Entry, fault: Fault) -> None:
        """Keep a row, one that `read` has yielded just now, as a bad one."""
        self._good -= 1
        self._keep(BadRow(source, entry, fault))

    def refuse_if_nothing_left(self) -> None:
        """Errors: UserError if there were rows, and all of them were bad."""
        if self.rejected and not self._good:
            self._problems.raise_any("every row is bad, so nothing would be left")

    def _keep(self, bad: BadRow) -> None:
        self._problems.add(bad)
        if self._policy == "reject":
            place = {"file": name_input(bad.source), bad.entry.unit: bad.entry.number}
            row = bad.entry.value if isinstance(bad.entry.value, dict) else {"text": bad.entry.value[:LONGEST_TEXT]}
            rejection = Rejection(bad.fault.reason, {**place, "problem": bad.fault.detail})
            self.rejected.append(rejection.as_row(row))


def read_sources(
    bad: BadRows, sources: list[Source], columns: Columns, *, may_be_empty: bool = False
) -> list[dict[str, Any]]:
    """Return the rows of all sources. Errors: as `BadRows.read`, or if nothing is left."""
    rows = [entry.value for source in sources for entry in bad.read(source, columns, may_be_empty=may_be_empty)]
    bad.refuse_if_nothing_left()
    return rows
