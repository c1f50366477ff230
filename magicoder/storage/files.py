"""Write files atomically; read and write JSON Lines; compute digests."""

import contextlib
import gzip
import hashlib
import json
import os
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from magicoder.runtime.errors import UserError

TEMPORARY_PREFIX = ".unfinished-"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""Of UTF-8; some editors and spreadsheets write one."""


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


def read_rows(
    path: Path,
    columns: Iterable[str] = (),
    *,
    optional: Iterable[str] = (),
    may_be_empty: bool = False,
    may_be_torn: bool = False,
) -> Iterator[dict[str, Any]]:
    """Yield the rows of JSON Lines or of one JSON list (`.gz`: compressed), each checked to have `columns` as text.

    optional: columns that may be missing or null, but are text otherwise.

    Errors: UserError with file and line if the file is missing or empty, or a line is not such a row.

    Example:
        for row in read_rows(Path("rows.jsonl"), ["problem", "solution"]): ...
    """
    numbered = read_numbered_rows(path, columns, optional=optional, may_be_empty=may_be_empty, may_be_torn=may_be_torn)
    return (row for _, row in numbered)


def read_numbered_rows(
    path: Path,
    columns: Iterable[str] = (),
    *,
    optional: Iterable[str] = (),
    may_be_empty: bool = False,
    may_be_torn: bool = False,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the same rows with their numbers, counted from 1: lines, empty ones included, or entries of a list.

    A list is read whole into memory, JSON Lines are not. A byte order mark is skipped. Lines end at "\\n" alone: a text
    may hold the other characters at which Python's `splitlines` cuts.
    """
    empty = True
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            is_list = _skip_to_content(file)
            if is_list:
                for number, entry in enumerate(_load_list(file.read(), path), start=1):
                    empty = False
                    yield number, _check_row(entry, columns, optional, f"{path}, entry {number}")
            for number, line in enumerate(() if is_list else file, start=1):
                if may_be_torn and _is_torn(line):
                    continue  # its writer was killed while writing it
                if line.strip():
                    empty = False
                    yield (
                        number,
                        _check_row(
                            _parse_line(line, f"{path}, line {number}"), columns, optional, f"{path}, line {number}"
                        ),
                    )
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}: is not a complete gzip file: {error}") from error
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    if empty and not may_be_empty:
        raise UserError(f"{path}: is empty")


def _skip_to_content(file: Any) -> bool:
    """Move past a byte order mark; return whether a JSON list begins there."""
    start = 3 if file.read(3) == BYTE_ORDER_MARK else 0
    file.seek(start)
    is_list = bool(file.read(4096).lstrip().startswith(b"["))
    file.seek(start)
    return is_list


def _load_list(content: bytes, path: Path) -> list[Any]:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not a JSON list: {error}") from error


def _is_torn(line: bytes) -> bool:
    """Return whether a line without a line end is not JSON either; a whole last line may lack its end too."""
    if line.endswith(b"\n"):
        return False
    try:
        json.loads(line)
    except ValueError:
        return True
    return False


def _parse_line(line: bytes, position: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{position}: is not JSON: {error}") from error


def _check_row(row: Any, columns: Iterable[str], optional: Iterable[str], position: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise UserError(f"{position}: is not a JSON object")
    for column in columns:
        if column not in row:
            raise UserError(f"{position}: has no column {column}; its columns are {', '.join(row) or 'none'}")
        if not isinstance(row[column], str):
            raise UserError(f"{position}: column {column} is not text")
    for column in optional:
        if not isinstance(row.get(column), str | None):
            raise UserError(f"{position}: column {column} is neither text nor null")
    return row


def digest(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
