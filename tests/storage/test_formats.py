"""Files of rows in each format, with each compression, read as they were published."""

import csv
import gzip
import json
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from magicoder.runtime.errors import UserError
from magicoder.storage.files import read_numbered_rows, read_rows

ROWS = [{"instruction": 'a, "b"\r\nc \u2028 \u00e9', "output": "[1]"}, {"instruction": " d", "output": ""}]
MARK = b"\xef\xbb\xbf"


def compress_zstd(content: bytes) -> bytes:
    stream = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(stream, "zstd") as file:
        file.write(content)
    return stream.getvalue().to_pybytes()


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".zst": compress_zstd}


def write_csv(rows: list[dict], end: str = "\r\n") -> bytes:
    def quote(cell: str) -> str:
        return '"' + cell.replace('"', '""') + '"'

    return "".join(",".join(map(quote, line)) + end for line in (rows[0], *(row.values() for row in rows))).encode()


def write_parquet(rows: list[dict]) -> bytes:
    stream = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.Table.from_pylist(rows), stream)
    return stream.getvalue().to_pybytes()


CONTENTS = {
    "lines.jsonl": b"\n".join(json.dumps(row).encode() for row in ROWS),
    "crlf.jsonl": b"\r\n\r\n".join(json.dumps(row, ensure_ascii=False).encode() for row in ROWS) + b"\r\n",
    "marked.jsonl": MARK + b"\n" + b"\n".join(json.dumps(row).encode() for row in ROWS),
    "list.json": json.dumps(ROWS).encode(),
    "indented.json": b"\n\n  " + json.dumps(ROWS, indent=4).replace("\n", "\r\n").encode() + b"\n",
    "marked_list.json": MARK + json.dumps(ROWS, indent=1).encode(),
    "objects.json": "\n".join(json.dumps(row, indent=2) for row in ROWS).encode(),
    "table.csv": write_csv(ROWS),
    "table.CSV": MARK + b"\n" + write_csv(ROWS, "\n\n"),
    "table.parquet": write_parquet(ROWS),
    "cache_without_ending": write_parquet(ROWS),
}


@pytest.mark.parametrize("ending", COMPRESSIONS, ids=["plain", "gzip", "zstd"])
@pytest.mark.parametrize("name", CONTENTS)
def test_rows_are_the_same_in_every_format(tmp_path: Path, name: str, ending: str) -> None:
    path = tmp_path / (name + ending)
    path.write_bytes(COMPRESSIONS[ending](CONTENTS[name]))
    assert list(read_rows(path, ["instruction", "output"])) == ROWS


def test_compression_is_recognized_without_its_ending(tmp_path: Path) -> None:
    for compress in COMPRESSIONS.values():
        (tmp_path / "rows.jsonl").write_bytes(compress(CONTENTS["lines.jsonl"]))
        assert list(read_rows(tmp_path / "rows.jsonl")) == ROWS


def test_cells_of_csv_are_text_of_any_length(tmp_path: Path) -> None:
    rows = [{"index": "007", "empty": "", "null": "null", "text": "x" * 3_000_000}]
    (tmp_path / "rows.csv").write_bytes(write_csv(rows))
    assert list(read_rows(tmp_path / "rows.csv", ["index"])) == rows


def test_csv_of_the_standard_library_is_read_back(tmp_path: Path) -> None:
    with open(tmp_path / "rows.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["output", "instruction"])
        writer.writeheader()
        writer.writerows(ROWS)
    assert list(read_rows(tmp_path / "rows.csv")) == ROWS


def test_rows_of_csv_are_numbered_by_their_first_line(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes(b'a,b\n\n"1\n2",3\n4,5\n')
    assert [number for number, _ in read_numbered_rows(tmp_path / "rows.csv")] == [3, 5]


def test_typed_columns_of_parquet_become_json(tmp_path: Path) -> None:
    row = {
        "at": datetime(2024, 5, 6, tzinfo=UTC),
        "price": Decimal("1.50"),
        "raw": b"caf\xc3\xa9 \xff",
        "turns": [{"role": "user", "content": None}],
        "count": 3,
        "missing": None,
    }
    (tmp_path / "rows.parquet").write_bytes(write_parquet([row]))
    (read,) = read_rows(tmp_path / "rows.parquet")
    expected = {**row, "at": "2024-05-06T00:00:00+00:00", "price": "1.50", "raw": "caf\u00e9 \\xff"}
    assert json.loads(json.dumps(read)) == expected


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.csv", b'a,b\n1,2\n3,"4\n', "line 3: is not CSV: unexpected end of data"),
        ("a.csv", b"a,b,a\n1,2,3\n", "line 1: names a column twice: a"),
        ("a.csv", b"a,b\n1,2\n1,2,3\n", "line 3: has 3 cells, but the header has 2"),
        ("a.csv", b"a,b\n1,\xff\n", ": is not UTF-8: "),
        ("a.csv", b"a,b\n", ": is empty"),
        ("a.parquet", CONTENTS["table.parquet"][:-9], ": is not a complete Parquet file: "),
        ("a.parquet", b"<html>", ": is not a complete Parquet file: "),
        ("a.json.zst", compress_zstd(CONTENTS["list.json"] * 99)[:-9], ": Truncated compressed stream"),
        ("a.json.zst", b"[]", ": ZSTD decompress failed"),
        ("a.json", b'{\n "a": 1\n}\n{\n "a": \n}', ", entry 2: is not JSON: "),
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "fetch it with `git lfs pull`"),
    ],
    ids=[
        *("torn cell", "repeated column", "cells", "not UTF-8", "header alone", "torn Parquet", "no Parquet"),
        *("torn zstd", "no zstd", "torn object", "pointer"),
    ],
)
def test_broken_file_is_named(tmp_path: Path, name: str, content: bytes, complaint: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        list(read_rows(tmp_path / name))
    (problem,) = caught.value.problems
    assert problem.startswith(str(tmp_path / name)) and complaint in problem
