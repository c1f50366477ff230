"""Progress of long work: a bar on a terminal, a plain line every few seconds where there is none."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 10.0


class Meter:
    """How far the work is."""

    def __init__(self, description: str, total: int, done: int, bar: Progress | None) -> None:
        self._description, self._total, self._done = description, total, done
        self._bar = bar
        self._task = bar.add_task(description, total=total, completed=done, facts="") if bar else None
        self._last_line = time.monotonic()

    def advance(self, facts: str = "") -> None:
        """One more is done; `facts` stand behind the count."""
        self._done += 1
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, advance=1, facts=facts)
        elif time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            print(f"{self._description}: {self._done}/{self._total} {facts}".rstrip(), flush=True)


@contextmanager
def meter(description: str, total: int, done: int = 0) -> Iterator[Meter]:
    """Show the progress of `total` pieces of work, of which `done` are done already."""
    if not sys.stderr.isatty():
        yield Meter(description, total, done, bar=None)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[facts]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        yield Meter(description, total, done, bar)
