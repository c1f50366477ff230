"""Read what a file of rows holds: JSON Lines, a JSON list, indented JSON objects, CSV or Parquet; plain, gzip or zstd.

Compression and Parquet are recognized by name or by their first bytes, because a download may have lost its ending.
CSV is recognized by its name, JSON by its first line.
"""

import csv
import datetime
import gzip
import io
import json
import sys
import zlib
from collections.abc import Iterator
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import IO, Any, NamedTuple

from magicoder.runtime.errors import UserError

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""Of UTF-8; some editors and spreadsheets write one."""
GZIP, ZSTD, PARQUET = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1"
POINTER = b"version https://git-lfs"
"""The first bytes of a file that was cloned without Git LFS."""
COMPRESSED = (".gz", ".zst")
ENDINGS = (".jsonl", ".json", ".csv", ".parquet", *COMPRESSED)
"""Names of files that hold rows usually end with one of these."""
ROWS_AT_ONCE = 256
"""Rows of a Parquet file in memory: few, because a cell may hold a whole file."""


class Fault(NamedTuple):
    """Why an entry is no row. reason: the same for all faults of a kind. detail: what is wrong with this one."""

    reason: str
    detail: str


class Entry(NamedTuple):
    """One entry of a file.

    unit, number: its place, as `line 3`. value: the row, or the text in its place. fault: None for a row.
    """

    unit: str
    number: int
    value: Any
    fault: Fault | None = None


def read_entries(path: Path, *, may_be_torn: bool = False) -> Iterator[Entry]:
    """Yield the entries of a file one by one; JSON lists and indented objects are read whole into memory, others not.

    may_be_torn: skip a last line of JSON Lines that its writer was killed in.
    Errors: UserError if the file as a whole is unreadable.
    """
    try:
        with open(path, "rb") as raw:
            head = raw.peek(len(POINTER))
            if head.startswith(POINTER):
                raise UserError(f"{path}: is a pointer to the data, not the data; fetch it with `git lfs pull`")
            with closing(_decompress(path, raw, head)) as file:
                yield from _choose_reader(path, file, may_be_torn)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}: is not a complete gzip file: {error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8: {error}") from error
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error


def _decompress(path: Path, raw: IO[bytes], head: bytes) -> Any:
    """Return the content of an open file as a stream of bytes. head: its first bytes."""
    if head.startswith(GZIP) or path.suffix == ".gz":
        return gzip.GzipFile(fileobj=raw)
    if head.startswith(ZSTD) or path.suffix == ".zst":
        import pyarrow

        return io.BufferedReader(pyarrow.CompressedInputStream(pyarrow.PythonFile(raw, "r"), "zstd"))
    return raw


def _choose_reader(path: Path, file: Any, may_be_torn: bool) -> Iterator[Entry]:
    name = path.name.lower()
    for ending in COMPRESSED:
        name = name.removesuffix(ending)
    if name.endswith(".csv"):
        return _read_csv(path, file)
    if name.endswith(".parquet") or file.peek(len(PARQUET)).startswith(PARQUET):
        return _read_parquet(path, file)
    return _read_json(path, file, may_be_torn)


def _read_json(path: Path, file: IO[bytes], may_be_torn: bool) -> Iterator[Entry]:
    """Lines end at "\\n" alone: a text may hold the other characters at which Python's `splitlines` cuts."""
    before, first = 0, file.readline().removeprefix(BYTE_ORDER_MARK)
    while first and not first.strip():
        before, first = before + 1, file.readline()
    if first.lstrip().startswith(b"["):
        entries = _load_list(first + file.read(), path)
        yield from (_make_entry("entry", number, value) for number, value in enumerate(entries, start=1))
    elif first.strip() == b"{" and not may_be_torn:
        yield from _read_objects(first + file.read(), path)
    else:
        yield from _read_lines(chain([first], file), before, may_be_torn)


def _read_lines(lines: Iterator[bytes], before: int, may_be_torn: bool) -> Iterator[Entry]:
    load = json.loads
    for number, line in enumerate(lines, start=before + 1):
        try:
            value = load(line.decode(errors="surrogatepass"))  # faster than to let json guess the encoding
        except (ValueError, RecursionError) as error:
            is_torn = may_be_torn and not line.endswith(b"\n")
            if line.strip() and not is_torn:
                text = line.decode(errors="backslashreplace").strip()
                yield Entry("line", number, text, Fault("not JSON", f"is not JSON: {error}"))
        else:
            yield Entry("line", number, value) if isinstance(value, dict) else _make_entry("line", number, value)


def _make_entry(unit: str, number: int, value: Any) -> Entry:
    if isinstance(value, dict):
        return Entry(unit, number, value)
    return Entry(unit, number, json.dumps(value), Fault("not a JSON object", "is not a JSON object"))


def _load_list(content: bytes, path: Path) -> list[Any]:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not a JSON list: {error}") from error


def _read_objects(content: bytes, path: Path) -> Iterator[Entry]:
    """Yield indented JSON objects that follow one another, as `jq` prints them."""
    text, decoder, number = content.decode().rstrip(), json.JSONDecoder(), 0
    position = len(text) - len(text.lstrip())
    while position < len(text):
        number += 1
        try:
            value, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, entry {number}: is not JSON: {error}") from error
        yield _make_entry("entry", number, value)
        while position < len(text) and text[position].isspace():
            position += 1


def _read_csv(path: Path, file: Any) -> Iterator[Entry]:
    """Yield the rows below the header, each cell as text, numbered by the line on which they begin."""
    csv.field_size_limit(sys.maxsize)  # a cell may hold a whole file
    cells = csv.reader(io.TextIOWrapper(file, encoding="utf-8-sig", newline=""), strict=True)
    header: list[str] = []
    for line, row in _read_records(cells):
        if isinstance(row, Fault):
            yield Entry("line", line, "", row)
        elif not header:
            header = row
            refuse_repeated(header, f"{path}, line {line}")
        elif len(row) != len(header):
            detail = f"has {len(row)} cells, but the header has {len(header)}"
            yield Entry("line", line, ",".join(row), Fault("another number of cells", detail))
        else:
            # A spreadsheet may have empty columns without a name.
            yield Entry("line", line, {name: cell for name, cell in zip(header, row, strict=True) if name})


def _read_records(cells: Any) -> Iterator[tuple[int, list[str] | Fault]]:
    """Yield each record of a CSV reader that is not blank, or its fault, with the line on which it begins."""
    while True:
        line = cells.line_num + 1
        try:
            row = next(cells)
        except StopIteration:
            return
        except csv.Error as error:  # the reader goes on with the next line
            yield line, Fault("not CSV", f"is not CSV: {error}")
        else:
            if row:
                yield line, row


def _read_parquet(path: Path, file: Any) -> Iterator[Entry]:
    import pyarrow
    from pyarrow import parquet

    # Parquet is read from its end, so a compressed file is unpacked into memory first.
    seekable = file if isinstance(file, io.BufferedReader) and file.seekable() else io.BytesIO(file.read())
    try:
        number, table = 0, parquet.ParquetFile(seekable)
        refuse_repeated(table.schema_arrow.names, str(path))
        for batch in table.iter_batches(ROWS_AT_ONCE):
            for row in batch.to_pylist():
                number += 1
                yield Entry("row", number, {name: make_plain(value) for name, value in row.items()})
    except pyarrow.ArrowException as error:
        raise UserError(f"{path}: is not a complete Parquet file: {error}") from error
    except (OverflowError, ValueError) as error:  # such as a date beyond the year 9999
        raise UserError(f"{path}: holds a value that Python cannot: {error}") from error


def refuse_repeated(names: list[str], place: str) -> None:
    """Errors: UserError if two columns have the same name; one without a name is none."""
    if repeated := {name for name in names if name and names.count(name) > 1}:
        raise UserError(f"{place}: names a column twice: {', '.join(sorted(repeated))}")


def make_plain(value: Any) -> Any:
    """Return a value of a typed column as JSON has it: dates and other types as text, bytes as the text they hold."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, dict):
        return {str(key): make_plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [make_plain(each) for each in value]
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    return value.isoformat() if isinstance(value, datetime.date | datetime.time) else str(value)
