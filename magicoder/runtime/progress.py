"""Progress of long work: a bar on a terminal, a plain line every few seconds where there is none."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

SECONDS_BETWEEN_LINES = 10.0


class Meter:
    """How far the work is."""

    def __init__(self, description: str, total: int, done: int, bar: Progress | None) -> None:
        self._description, self._total, self._done = description, total, done
        self._bar = bar
        self._task = bar.add_task(description, total=total, completed=done, facts="") if bar else None
        self._begun = self._last_line = time.monotonic()
        self._done_before = done

    def advance(self, facts: str = "") -> None:
        """One more is done; `facts` stand behind the count."""
        self._done += 1
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, advance=1, facts=facts)
        elif time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            parts = (f"{self._description}: {self._done}/{self._total}", facts, self._left())
            print("  ".join(part for part in parts if part), flush=True)

    def _left(self) -> str:
        """The time that is left at the pace since the work began; a bar shows it by itself."""
        pace = (time.monotonic() - self._begun) / (self._done - self._done_before)
        return f"{timedelta(seconds=round(pace * (self._total - self._done)))} left"


@contextmanager
def meter(description: str, total: int, done: int = 0) -> Iterator[Meter]:
    """Show the progress of `total` pieces of work, of which `done` are done already."""
    if not sys.stderr.isatty():
        yield Meter(description, total, done, bar=None)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        # On a narrow terminal the facts give way, not the count.
        MofNCompleteColumn(table_column=Column(no_wrap=True, min_width=2 * len(str(total)) + 1)),
        TextColumn("{task.fields[facts]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        yield Meter(description, total, done, bar)
