"""Files that are whole or not there, and JSON Lines that hold any text."""

import gzip
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from magicoder.runtime.errors import UserError
from magicoder.storage.files import Columns, digest, read_json, read_rows, scan_rows, write_json, write_rows

# Everything at which str.splitlines cuts.
LINE_ENDS = ["\n", "\r", "\r\n", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]


def problems_of_reading(path: Path, *columns: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        list(read_rows(path, columns))
    return caught.value.problems


def test_text_with_any_line_end_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    rows = [{"text": f"before{end}after"} for end in LINE_ENDS]
    assert write_rows(tmp_path / "rows.jsonl", rows) == len(LINE_ENDS)
    assert list(read_rows(tmp_path / "rows.jsonl")) == rows


def test_unescaped_line_separators_do_not_split_a_row(tmp_path: Path) -> None:
    rows = [{"text": f"before{end}after"} for end in ("\x85", "\u2028", "\u2029", "\x7f")]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\r\n" for row in rows))
    assert list(read_rows(path)) == rows


def test_lone_surrogates_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    rows = [{"text": "half of a pair \ud83d, the other half \ude00, both \U0001f600"}]
    write_rows(tmp_path / "rows.jsonl", rows)
    assert list(read_rows(tmp_path / "rows.jsonl")) == rows


def test_rows_are_written_as_ascii_with_their_keys_in_order(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", [{"b": "\u00e9", "a": 1}])
    assert (tmp_path / "rows.jsonl").read_bytes() == b'{"b": "\\u00e9", "a": 1}\n'


def test_rows_are_read_from_gzip(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"a": "1"}\n{"a": "2"}'))
    assert list(read_rows(path, ["a"])) == [{"a": "1"}, {"a": "2"}]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b'{"text": "torn', "is not JSON"),
        (b'{"text": "not \xff UTF-8"}', "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b'["a list"]', "is not a JSON object"),
        (b'{"other": "a"}', "has no column text; its columns are other"),
        (b"{}", "has no column text; its columns are none"),
        (b'{"text": null}', "column text is not text"),
    ],
    ids=["torn", "not UTF-8", "nested too deep", "a list", "column missing", "no columns", "not a text"],
)
def test_bad_line_is_named_by_file_and_line(tmp_path: Path, line: bytes, complaint: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "good"}\n\n' + line + b'\n{"text": "good"}\n')
    (problem,) = problems_of_reading(path, "text")
    assert problem.startswith(f"{path}, line 3: {complaint}")
    assert "\n" not in problem


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["", "byte order mark"])
@pytest.mark.parametrize(
    "content",
    [
        b'{"text": "a"}\n{"text": "b"}\n',
        b'{"text": "a"}\r\n\r\n{"text": "b"}',
        b'\n [\n  {"text": "a"},\n  {"text": "b"}\n]\n',
    ],
    ids=["lines", "CRLF and blank lines", "an indented list"],
)
def test_rows_are_read_from_lines_and_lists(tmp_path: Path, content: bytes, mark: bytes) -> None:
    (tmp_path / "rows.json").write_bytes(mark + content)
    with gzip.open(tmp_path / "rows.json.gz", "wb") as file:
        file.write(mark + content)
    for name in ("rows.json", "rows.json.gz"):
        assert list(read_rows(tmp_path / name, ["text"])) == [{"text": "a"}, {"text": "b"}]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b'[{"text": "a"}, ["b"]]', ", entry 2: is not a JSON object"),
        (b'[{"text": "a"}, {"txt": "b"}]', ", entry 2: has no column text; its columns are txt"),
        (b'[{"text": "a"}, ', ": is not a JSON list"),
        (b"[]", ": is empty"),
    ],
    ids=["not an object", "column missing", "torn", "empty"],
)
def test_bad_entry_of_a_list_is_named(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "rows.json"
    path.write_bytes(content)
    (problem,) = problems_of_reading(path, "text")
    assert problem.startswith(f"{path}{complaint}")


def test_bad_rows_of_a_file_are_named_at_once(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "good"}\n{"text": 1}\n{"text"\n[1]\n{}\n{"text": "good"}\n')
    numbers_and_reasons = [
        (2, "column text is"),
        (3, "is not JSON: "),
        (4, "is not a JSON object"),
        (5, "has no column"),
    ]
    problems = problems_of_reading(path, "text")
    for problem, (number, reason) in zip(problems, numbers_and_reasons, strict=True):
        assert problem.startswith(f"{path}, line {number}: {reason}")


def test_columns_of_a_bad_row_are_named_in_one_short_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('"a\nb",' + "c" * 5000 + "\n1,2\n")
    (problem,) = problems_of_reading(path, "text")
    assert "its columns are a b, ccc" in problem and len(problem) < 600 and "\n" not in problem


def test_only_the_first_ten_bad_rows_are_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "good"}\n' + b"{}\n" * 25)
    problems = problems_of_reading(path, "text")
    assert [problem.split(":")[0].rpartition(" ")[2] for problem in problems[:10]] == [str(n) for n in range(2, 12)]
    assert problems[10:] == ["and 15 more bad rows"]


@pytest.mark.parametrize("content", [b"", b"\n \n"], ids=["no bytes", "blank lines"])
def test_file_without_rows_is_said_to_be_empty(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    assert problems_of_reading(path) == [f"{path}: is empty"]


@pytest.mark.parametrize("content", [b"", b"\n \n"], ids=["no bytes", "blank lines"])
def test_file_without_rows_is_no_mistake_where_there_may_be_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    assert list(read_rows(path, ["text"], may_be_empty=True)) == []


def test_missing_file_is_a_mistake_even_where_it_may_be_empty(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        list(read_rows(tmp_path / "missing.jsonl", may_be_empty=True))


def test_torn_last_line_is_skipped_only_if_it_is_not_whole(tmp_path: Path) -> None:
    """Of a file to continue every whole row is paid for, also the last one of an editor that ends files without \\n."""
    path = tmp_path / "data.jsonl"
    for ending, rows in [(b'{"a": 2}', [{"a": 1}, {"a": 2}]), (b'{"a": "x}', [{"a": 1}]), (b"{", [{"a": 1}])]:
        path.write_bytes(b'{"a": 1}\n' + ending)
        assert list(read_rows(path, may_be_torn=True)) == rows


def test_torn_line_in_the_middle_is_a_mistake_even_there(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "b\n{"text": "a"}\n')
    with pytest.raises(UserError, match="line 1: is not JSON"):
        list(read_rows(path, may_be_torn=True))


def test_missing_file_and_folder_are_named(tmp_path: Path) -> None:
    assert problems_of_reading(tmp_path / "missing.jsonl") == [f"{tmp_path}/missing.jsonl: No such file or directory"]
    assert problems_of_reading(tmp_path) == [f"{tmp_path}: Is a directory"]


def spoilt(whole: bytes) -> dict[str, bytes]:
    """Ways in which a gzip file arrives broken."""
    middle = len(whole) // 2
    return {
        "torn": whole[:middle],
        "garbled": whole[:middle] + bytes(byte ^ 0xFF for byte in whole[middle : middle + 20]) + whole[middle + 20 :],
        "wrong checksum": whole[:-8] + b"\0\0\0\0" + whole[-4:],
        "not gzip": b'{"a": "1"}\n',
    }


@pytest.mark.parametrize("how", ["torn", "garbled", "wrong checksum", "not gzip"])
def test_broken_gzip_is_named(tmp_path: Path, how: str) -> None:
    whole = gzip.compress(b"".join(b'{"number": "%d"}\n' % (number**3) for number in range(1000)))
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(spoilt(whole)[how])
    (problem,) = problems_of_reading(path)
    assert problem.startswith(str(path))
    assert "gzip" in problem


def test_json_file_that_is_no_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_bytes(b'{"stage": "cle')
    with pytest.raises(UserError, match=r"manifest\.json: is not JSON"):
        read_json(path)


def test_json_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    value = {"learning_rate": 5e-5, "of": None, "text": "\ud83d\u2028"}
    write_json(tmp_path / "value.json", value)
    assert read_json(tmp_path / "value.json") == value


def test_digest_is_the_sha256_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert digest(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_failure_in_the_middle_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_rows(path, [{"old": 1}])

    def broken_off() -> Iterator[dict]:
        yield {"new": 1}
        raise RuntimeError("no second row")

    with pytest.raises(RuntimeError, match="no second row"):
        write_rows(path, broken_off())
    assert path.read_bytes() == b'{"old": 1}\n'
    assert list(tmp_path.iterdir()) == [path]


KILLED_WHILE_WRITING = """
import os, signal, sys
from pathlib import Path
from magicoder.storage.files import write_rows

def rows():
    for number in range(100_000):
        yield {"number": number}
    os.kill(os.getpid(), signal.SIGKILL)
    yield {"number": "never"}

write_rows(Path(sys.argv[1]), rows())
"""


def test_kill_in_the_middle_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_rows(path, [{"old": 1}])
    killed = subprocess.run([sys.executable, "-c", KILLED_WHILE_WRITING, str(path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert path.read_bytes() == b'{"old": 1}\n'
    # The kill struck in the middle: the bytes so far are under a temporary name.
    (unfinished,) = set(tmp_path.iterdir()) - {path}
    assert unfinished.name.startswith(".")
    assert unfinished.stat().st_size > 1_000_000


def test_disk_without_room_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_rows(path, [{"old": 1}])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            write_rows(path, ({"number": number} for number in range(100_000)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b'{"old": 1}\n'
    assert list(tmp_path.iterdir()) == [path]


def test_new_files_have_the_permissions_that_the_user_wants(tmp_path: Path) -> None:
    former = os.umask(0o027)
    try:
        write_rows(tmp_path / "rows.jsonl", [{"a": 1}])
    finally:
        os.umask(former)
    assert (tmp_path / "rows.jsonl").stat().st_mode & 0o777 == 0o640


def test_a_fault_of_every_row_is_said_once(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"other": "column"}\n' * 25)
    problem, more = problems_of_reading(path, "text")
    assert problem == f"{path}, line 1: has no column text; its columns are other"
    assert more == "and 24 more bad rows"


def test_a_parquet_column_that_is_named_twice_is_an_error(tmp_path: Path) -> None:
    table = pyarrow.Table.from_arrays([pyarrow.array(["a"]), pyarrow.array(["b"])], names=["text", "text"])
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    (problem,) = problems_of_reading(tmp_path / "rows.parquet", "text")
    assert "names a column twice: text" in problem


def test_empty_columns_of_a_spreadsheet_are_none(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,,\na,,\n")
    assert list(read_rows(path, ["text"])) == [{"text": "a"}]


def test_a_malformed_row_of_a_csv_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('text,b\ngood,1\n"he said "hi"",2\nalso good,3\n')
    found = [(entry.number, entry.fault) for entry in scan_rows(path, Columns(("text",)))]
    assert [number for number, fault in found if fault is None] == [2, 4]
    assert [number for number, fault in found if fault is not None] == [3]
