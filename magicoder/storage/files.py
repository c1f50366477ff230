"""Write files atomically; read rows of any format, and write JSON Lines; compute digests."""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from magicoder.runtime.errors import UserError
from magicoder.storage.formats import Entry, Fault, make_plain, read_entries
from magicoder.storage.hub import HubRows, fetch_file, stream_rows

TEMPORARY_PREFIX = ".unfinished-"


@contextlib.contextmanager
def write_whole(path: Path) -> Iterator[IO[bytes]]:
    """Yield a file that replaces `path` when the block ends, and leaves no trace when the block fails.

    Errors: OSError with the name of the final file, if the disk is full or not writable.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        apply_umask(Path(name))
        os.replace(name, path)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    sync_directory(path.parent)


def apply_umask(path: Path) -> None:
    """Give a file the permissions of a new one: temporary files are readable by their owner alone."""
    path.chmod(compute_new_file_mode())


def compute_new_file_mode() -> int:
    """Return the permissions that `open` gives to a new file under the umask of this process."""
    mask = os.umask(0)  # it can only be read by setting it
    os.umask(mask)
    return 0o666 & ~mask


def sync_file(path: Path) -> None:
    """Wait until the content of a file is on disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def sync_directory(directory: Path) -> None:
    """Make a rename in `directory` survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole."""
    with write_whole(path) as file:
        file.write(json.dumps(value, indent=2).encode() + b"\n")


def read_json(path: Path) -> Any:
    """Read the value of a JSON file. Errors: UserError if it is not JSON."""
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path}: is not JSON: {error}") from error


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write JSON Lines, whole, as the original does (ASCII, keys in their order); return the number of rows."""
    count = 0
    with write_whole(path) as file:
        for row in rows:
            file.write(encode_row(row))
            count += 1
    return count


def encode_row(row: dict[str, Any]) -> bytes:
    """Return one line of a JSON Lines file."""
    return json.dumps(row).encode("ascii") + b"\n"


Source = Path | HubRows
"""Where rows come from: a file, or the hub."""


class BadRow(NamedTuple):
    """An entry of a source that is not the row which its reader needs."""

    source: Source
    entry: Entry
    fault: Fault

    def describe(self) -> str:
        """Return source, place and fault in one line."""
        return f"{self.source}, {self.entry.unit} {self.entry.number}: {self.fault.detail}"


class Columns(NamedTuple):
    """The columns that a reader needs.

    texts: must be text. optional: text, null or missing. others: must be there, with any value.
    """

    texts: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


def read_rows(
    source: Source,
    columns: Iterable[str] = (),
    *,
    optional: Iterable[str] = (),
    may_be_empty: bool = False,
    may_be_torn: bool = False,
) -> Iterator[dict[str, Any]]:
    """Yield the rows of a source in any format that `formats` reads, each checked to have `columns` as text.

    optional: columns that may be missing or null, but are text otherwise.

    Errors: UserError if the source is missing or empty, or after its good rows before the first bad one, naming bad
    rows by file and line.

    Example:
        for row in read_rows(Path("rows.jsonl"), ["problem", "solution"]): ...
    """
    numbered = read_numbered_rows(
        source, columns, optional=optional, may_be_empty=may_be_empty, may_be_torn=may_be_torn
    )
    return (row for _, row in numbered)


def read_numbered_rows(
    source: Source,
    columns: Iterable[str] = (),
    *,
    optional: Iterable[str] = (),
    may_be_empty: bool = False,
    may_be_torn: bool = False,
    advice: str = "",
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the same rows with their numbers, counted from 1: lines, blank ones included, or entries of a list.

    advice: as in `Problems.raise_any`.
    """
    needed = Columns(tuple(columns), tuple(optional))
    problems = Problems()
    for entry in scan_rows(source, needed, may_be_empty=may_be_empty, may_be_torn=may_be_torn):
        if entry.fault is not None:
            problems.add(BadRow(source, entry, entry.fault))
        else:
            problems.has_good_rows = True
            if not problems.count:
                yield entry.number, entry.value
    problems.raise_any(advice)


def scan_rows(
    source: Source, columns: Columns, *, may_be_empty: bool = False, may_be_torn: bool = False
) -> Iterator[Entry]:
    """Yield every entry of a source, with a fault if it is not a row with these columns.

    Errors: UserError if the source as a whole is unreadable, or empty.
    """
    empty = True
    for entry in _open_source(source, may_be_torn):
        empty = False
        fault = entry.fault or find_fault(entry.value, columns)
        yield entry if fault is None else entry._replace(fault=fault)
    if empty and not may_be_empty:
        raise UserError(f"{source}: is empty")


def _open_source(source: Source, may_be_torn: bool) -> Iterator[Entry]:
    if isinstance(source, Path):
        return read_entries(source, may_be_torn=may_be_torn)
    if source.file is not None:
        return read_entries(fetch_file(source))
    rows = stream_rows(source.dataset, place=str(source), revision=source.revision)
    return (Entry("row", number, make_plain(row)) for number, row in enumerate(rows, start=1))


def find_fault(row: dict[str, Any], columns: Columns) -> Fault | None:
    """Return why a row does not have these columns; None if it has."""
    for column in columns.texts:
        if not isinstance(row.get(column), str):
            return Fault("column is not text", f"column {column} is not text") if column in row else _miss(column, row)
    for column in columns.optional:
        if not isinstance(row.get(column), str | None):
            return Fault("column is not text", f"column {column} is neither text nor null")
    return next((_miss(column, row) for column in columns.others if column not in row), None)


def _miss(column: str, row: dict[str, Any]) -> Fault:
    return Fault("missing column", f"has no column {column}; its columns are {list_names(row)}")


def list_names(row: dict[str, Any]) -> str:
    """Return the names of a row's columns in one short line: of a CSV without a header they are the first row."""
    names = " ".join(", ".join(row).split())
    return f"{names[:300]}..." if len(names) > 300 else names or "none"


class Problems:
    """Bad rows of which the first ten are named and the others counted."""

    NAMED = 10

    def __init__(self) -> None:
        self.count = 0
        self.has_good_rows = False
        """Whether the source has other rows as well."""
        self._named: list[str] = []
        self._faults: set[Fault | None] = set()

    def add(self, bad: BadRow) -> None:
        """Note a bad row."""
        self.count += 1
        self._faults.add(bad.fault if len(self._faults) < 2 else None)
        if len(self._named) < self.NAMED:
            self._named.append(bad.describe())

    def raise_any(self, advice: str = "") -> None:
        """Errors: UserError naming what was noted, if anything was. advice: what to do, at the end of the last line."""
        if not self.count:
            return
        # If every row has the same fault, their places say nothing, and ten lines would hide what is wrong.
        named = self._named if self.has_good_rows or len(self._faults) > 1 else self._named[:1]
        more = self.count - len(named)
        *lines, last = [*named, *([f"and {more} more bad {'row' if more == 1 else 'rows'}"] if more else [])]
        raise UserError([*lines, f"{last}; {advice}" if advice else last])


def digest(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
