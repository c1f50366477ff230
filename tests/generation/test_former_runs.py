"""Runs of the original script, taken over."""

import json
from pathlib import Path
from typing import Any

import pytest

from magicoder.generation.former_run import compute_fingerprint, find_fingerprint, read_former_run
from magicoder.runtime.errors import UserError
from magicoder.seeds.snippets import Snippet
from tests.generation.runs import COUNT, SEED, Program
from tests.support import read_jsonl, write_jsonl


def test_fingerprint_is_sha_256_of_settings_in_order() -> None:
    settings = (976, 0.0, "teacher", 8192, 1, 15, 1000, None, "python", 150000, "Use {code}.", "Be good.", 10)
    # printf %s '9760.0teacher81921151000Nonepython150000Use {code}.Be good.10' | sha256sum
    assert compute_fingerprint(settings) == "aab04"


def test_fingerprint_in_file_name_with_and_without_tag() -> None:
    assert find_fingerprint("data-python-2f455-0_40-20240101_000000.jsonl") == "2f455"
    assert find_fingerprint("data-2f455-0_40-20240101_000000.jsonl") == "2f455"
    assert find_fingerprint("data-00000-11111-0_40-20240101_000000.jsonl") == "11111"
    assert find_fingerprint("rows.jsonl") is None


def former_file(place: Path, undisturbed: Program, name_fingerprint: str, **changes: Any) -> tuple[Path, list[dict]]:
    """A file as the original would have left it after index 10, of whose answers it dropped the one to index 4."""
    rows = [row for row in read_jsonl(undisturbed.out / "rows.jsonl") if row["index"] <= 10 and row["index"] != 4]
    rows = [{**row, "solution": f"theirs {row['index']} é", **changes} for row in rows]
    return write_jsonl(place / f"data-python-{name_fingerprint}-0_40-20240101_000000.jsonl", rows), rows


def test_former_rows_are_reused_and_not_paid_again(program: Program, undisturbed: Program) -> None:
    own = json.loads((undisturbed.out / "manifest.json").read_bytes())["original_fingerprint"]
    path, theirs = former_file(program.place, undisturbed, own)
    ended = program.run(f"data.generate.continue_from={path}")
    assert (ended.status, ended.stderr) == (0, "")
    ours = [row for row in read_jsonl(undisturbed.out / "rows.jsonl") if row["index"] > 10]
    assert (program.out / "rows.jsonl").read_bytes() == path.read_bytes() + b"".join(
        json.dumps(row).encode() + b"\n" for row in ours
    )
    assert set(program.server.counts()) == {SEED + row["index"] for row in ours}
    rejected = {row.get("index"): row["reason"] for row in read_jsonl(program.out / "rejected.jsonl")}
    assert "continued" in rejected[4]
    without_snippet = {None}  # one key for all of them
    assert len(rejected) + len(theirs) + len(ours) == COUNT + len(without_snippet)


def test_foreign_file_to_continue_is_refused_unasked(program: Program, undisturbed: Program) -> None:
    path, _ = former_file(program.place, undisturbed, "00000", seed="another snippet")
    ended = program.run(f"data.generate.continue_from={path}")
    assert ended.status == 1
    warning, error = ended.stderr.splitlines()
    assert warning.startswith("warning: ")
    assert "fingerprint 00000" in warning
    assert error.startswith("error: ")
    assert f"{path}: index 0" in error
    assert program.server.requests == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"\n\n", "empty"),
        (b'{"raw_index": 5, "index": 0, "seed": "s", "problem": "p", "sol', "is empty"),
        (b'{"raw_index": 5, "index": 0, "seed": "s", "problem": "p", "sol\n', "line 1"),
        (b'{"raw_index": 5, "index": 0, "seed": "s", "problem": "p"}\n', "solution"),
        (b'{"raw_index": 5, "index": 7, "seed": "s", "problem": "p", "solution": "x"}\n', "index 7"),
        (b'{"raw_index": 5, "index": [0], "seed": "s", "problem": "p", "solution": "x"}\n', r"index \[0\]"),
        (b'{"raw_index": 5, "index": true, "seed": "s", "problem": "p", "solution": "x"}\n', "index True"),
        (b'{"raw_index": 4, "index": 0, "seed": "s", "problem": "p", "solution": "x"}\n', "another snippet"),
    ],
)
def test_unfit_file_to_continue_is_refused_with_reason(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "data-2f455-0_40-20240101_000000.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=words) as raised:
        read_former_run(path, [(0, Snippet(5, "s")), (1, Snippet(6, "t"))])
    assert path.name in str(raised.value)


def test_torn_last_line_is_ignored_and_asked_again(program: Program, undisturbed: Program) -> None:
    own = json.loads((undisturbed.out / "manifest.json").read_bytes())["original_fingerprint"]
    path, theirs = former_file(program.place, undisturbed, own)
    path.write_bytes(path.read_bytes()[:-20])
    assert theirs[-1]["index"] == 10
    ended = program.run(f"data.generate.continue_from={path}")
    assert (ended.status, ended.stderr) == (0, "")
    assert SEED + 9 not in program.server.counts()
    made = {row["index"]: row for row in read_jsonl(program.out / "rows.jsonl")}
    assert made[9] == theirs[-2]
    assert made[10] == next(row for row in read_jsonl(undisturbed.out / "rows.jsonl") if row["index"] == 10)
