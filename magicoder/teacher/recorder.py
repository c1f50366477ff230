"""Records of many tasks on their way to the disk together."""

import asyncio

from magicoder.teacher.journal import Journal, Record


class JournalWriter:
    """Journals records of many tasks: all that came while the last ones were on their way go with one sync."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._waiting: list[Record] = []
        self._next: asyncio.Task[None] | None = None
        self._disk = asyncio.Lock()

    async def write(self, *records: Record) -> None:
        """Return when the records are on disk. Errors: OSError where the disk is full."""
        self._waiting += records
        self._next = self._next or asyncio.create_task(self._write())
        await asyncio.shield(self._next)  # others wait for it too

    async def _write(self) -> None:
        async with self._disk:
            gathered, self._waiting, self._next = self._waiting, [], None
            await asyncio.to_thread(self._journal.append, *gathered)
