"""Show the progress of long work: a bar on a terminal, else a plain line every few seconds."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from magicoder.runtime.console import say

SECONDS_BETWEEN_LINES = 10.0


class Meter:
    """A progress line with a count."""

    def __init__(self, description: str, total: int, done: int, bar: Progress | None) -> None:
        self._description, self._total, self._done = description, total, done
        self._bar = bar
        self._task = bar.add_task(description, total=total, completed=done, facts="") if bar else None
        self._began = self._last_line = time.monotonic()
        self._done_before = done

    def advance(self, facts: str = "") -> None:
        """Count one more piece of work. facts: text after the count."""
        self._done += 1
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, advance=1, facts=facts)
        elif time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            parts = (f"{self._description}: {self._done}/{self._total}", facts, self._format_time_left())
            say("  ".join(part for part in parts if part))

    def _format_time_left(self) -> str:
        """Estimate the time left from the pace so far; a bar computes it itself."""
        pace = (time.monotonic() - self._began) / (self._done - self._done_before)
        return f"{timedelta(seconds=round(pace * (self._total - self._done)))} left"


@contextmanager
def show_meter(description: str, total: int, done: int = 0) -> Iterator[Meter]:
    """Show the progress of `total` pieces of work, with `done` of them finished."""
    if not sys.stderr.isatty():
        yield Meter(description, total, done, bar=None)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        # On a narrow terminal the facts shrink, not the count.
        MofNCompleteColumn(table_column=Column(no_wrap=True, min_width=2 * len(str(total)) + 1)),
        TextColumn("{task.fields[facts]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        yield Meter(description, total, done, bar)
