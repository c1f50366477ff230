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
    """An append-only JSON Lines file with a record for each key. Use it in a `with` block."""

    def __init__(self, path: Path) -> None:
        """Open or make the journal at `path` and repair a torn tail."""
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        self._length = whole_length(path)
        self._failed: OSError | None = None
        os.ftruncate(self._file, self._length)

    def __enter__(self) -> "Journal":
        """The journal itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        os.close(self._file)

    def append(self, record: dict[str, Any]) -> None:
        """Write one record; when this returns it survives a crash.

        Errors: OSError on a full disk, and again at every further call: what lies behind a failure is not to be relied
        on in this process.
        """
        if self._failed is not None:
            raise self._failed
        line = json_line(record)
        try:
            written = 0
            while written < len(line):
                written += os.write(self._file, line[written:])
            os.fsync(self._file)
        except OSError as error:
            os.ftruncate(self._file, self._length)
            self._failed = OSError(error.errno, error.strerror, str(self._path))
            raise self._failed from error
        self._length += len(line)

    def records(self) -> Iterator[dict[str, Any]]:
        """Every record, in the order in which it came."""
        yield from read_rows(self._path, may_be_empty=True)


def whole_length(path: Path) -> int:
    """Bytes up to the end of the last whole line."""
    with open(path, "rb") as file:
        return sum(len(line) for line in file if line.endswith(b"\n"))
