"""The journal: one line on disk for each answer as it came, before anything is made of it.

Rows are derived from it, so a rerun asks only for what is not in it. A line is appended whole and synced; if the
machine stops in the middle of one, that line is cut off when the journal is opened again.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from magicoder.files import json_line, read_rows


class Journal:
    """An append-only JSON Lines file with a record for each key."""

    def __init__(self, path: Path) -> None:
        """Open or make the journal at `path` and repair a torn tail."""
        self._path = path
        self._file = open(path, "ab")  # noqa: SIM115 - open for as long as the journal is
        self._repair()

    def _repair(self) -> None:
        content_end = 0
        with open(self._path, "rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    content_end += len(line)
        self._file.truncate(content_end)
        self._file.seek(0, os.SEEK_END)

    def append(self, record: dict[str, Any]) -> None:
        """Write one record; when this returns it survives a crash. Errors: OSError on a full disk."""
        line = json_line(record)
        size = self._file.tell()
        try:
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            self._file.truncate(size)
            raise OSError(error.errno, error.strerror, str(self._path)) from error

    def records(self) -> Iterator[dict[str, Any]]:
        """Every record, in the order in which it came."""
        if self._path.stat().st_size:
            yield from read_rows(self._path)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
