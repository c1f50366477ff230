"""Files of the original script are recognised and checked before they are taken over."""

from pathlib import Path

import pytest

from magicoder.generation.former_run import FormerRun, compute_fingerprint, find_fingerprint, read_former_run
from magicoder.runtime.errors import UserError
from magicoder.seeds.snippets import Snippet
from tests.support import write_jsonl

SNIPPETS = [(0, Snippet(41, "a = 1\n")), (1, Snippet(7, "b = 2\n")), (2, Snippet(12, "c = 3\n"))]


def row(index: object, raw_index: object, seed: str) -> dict:
    return {"raw_index": raw_index, "index": index, "seed": seed, "problem": "p", "solution": "s"}


def test_fingerprint_is_that_of_the_concatenated_settings() -> None:
    # printf '9760.0modelNone10' | sha256sum
    assert compute_fingerprint((976, 0.0, "model", None, 10)) == "3ffd8"


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("data-2f455-0_1000-20231101_120000.jsonl", "2f455"),
        ("data-python-2f455-0_1000-20231101_120000.jsonl", "2f455"),
        ("data-abcde-2f455-0_1000-20231101_120000.jsonl", "2f455"),
        ("rows.jsonl", None),
    ],
)
def test_fingerprint_is_found_in_the_name_with_and_without_a_tag(name: str, found: str | None) -> None:
    assert find_fingerprint(name) == found


def test_rows_of_the_same_snippets_are_taken_over(tmp_path: Path) -> None:
    rows = [row(0, 41, "a = 1\n"), row(2, 12, "c = 3\n")]
    former = read_former_run(write_jsonl(tmp_path / "data.jsonl", rows), SNIPPETS)
    assert former == FormerRun({0: rows[0], 2: rows[1]}, last_index=2, file="data.jsonl")


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        (row(3, 9, "d"), "index 3 is not in this run's range"),
        (row(None, 9, "d"), "index None is not in this run's range"),
        (row(1, 7, "b = 3\n"), "index 1 has another snippet than this run"),
        (row(1, 8, "b = 2\n"), "index 1 has another snippet than this run"),
    ],
)
def test_row_that_does_not_belong_to_this_run_is_refused(tmp_path: Path, bad: dict, complaint: str) -> None:
    path = write_jsonl(tmp_path / "data.jsonl", [row(0, 41, "a = 1\n"), bad])
    with pytest.raises(UserError) as caught:
        read_former_run(path, SNIPPETS)
    (problem,) = caught.value.problems
    assert problem.startswith(f"data.generate.continue_from={path}: {complaint}")


def test_row_in_which_the_original_was_killed_is_passed_over(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "data.jsonl", [row(0, 41, "a = 1\n")])
    path.write_bytes(path.read_bytes() + b'{"raw_index": 7, "index": 1, "se')
    assert read_former_run(path, SNIPPETS).last_index == 0


def test_former_file_without_rows_is_a_line_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b"\n")
    with pytest.raises(UserError, match="is empty"):
        read_former_run(path, SNIPPETS)
