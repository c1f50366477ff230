"""Write records to the journal: one fsync for many of them."""

import asyncio
from collections.abc import Callable, Iterable

from magicoder.teacher.circuit_breaker import CircuitBreaker
from magicoder.teacher.journal import Journal
from magicoder.teacher.records import Note, Record

GROUP_SIZE = 256
"""Records of batches and files that are journaled together."""


class JournalWriter:
    """Journals records of many asyncio tasks: all that arrive during one fsync share the next."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._waiting: list[Record | Note] = []
        self._next: asyncio.Task[None] | None = None
        self._disk = asyncio.Lock()

    async def write(self, *records: Record | Note) -> None:
        """Return when the records are on disk. Errors: OSError on a full disk."""
        self._waiting += records
        self._next = self._next or asyncio.create_task(self._write())
        await asyncio.shield(self._next)  # a cancelled task must not take the records of others with it

    async def _write(self) -> None:
        async with self._disk:
            gathered, self._waiting, self._next = self._waiting, [], None
            await asyncio.to_thread(self._journal.append, *gathered)


class Recorder:
    """Journals records of batches and files in groups, once the circuit breaker releases them."""

    def __init__(self, journal: Journal, breaker: CircuitBreaker, on_record: Callable[[Record], None]) -> None:
        """on_record: called with each record after it is in the journal."""
        self.breaker = breaker
        self._journal, self._on_record = journal, on_record
        self._ready: dict[int, Record] = {}

    def __contains__(self, index: int) -> bool:
        """Return whether the outcome of a row is known."""
        return index in self._ready or index in self._journal or index in self.breaker

    def add(self, record: Record) -> None:
        """Journal a record, at once or with others."""
        self._collect(self.breaker.settle(record, self.breaker.seen))

    def flush(self) -> None:
        """Journal every released record."""
        ready, self._ready = list(self._ready.values()), {}
        self._journal.append(*ready)
        for record in ready:
            self._on_record(record)

    def finish(self) -> None:
        """Journal the rest. Errors: UserError if not one request was answered, or rows are left without an answer."""
        self._collect(self.breaker.finish())
        self.flush()
        self.breaker.raise_if_left()

    def _collect(self, records: Iterable[Record]) -> None:
        self._ready |= {record.index: record for record in records}
        if len(self._ready) >= GROUP_SIZE:
            self.flush()
