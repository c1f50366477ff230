"""The rows of a training: file and line of each, and the report of rows without a supervised token."""

import json
from pathlib import Path

import numpy
import pytest
from transformers import AutoTokenizer

from magicoder.runtime.errors import UserError
from magicoder.storage.artifact import REJECTED
from magicoder.training import SEQUENCES
from magicoder.training.rows import name_rows, read_pairs, write_sequences
from magicoder.training.tokenization import Sequences
from tests.support import read_jsonl, write_jsonl

TEMPLATE = "Q: {instruction} A: {response}"
SHORT = {"instruction": "wrap", "response": "return text", "id": "short"}
CUT = {"instruction": "wrap", "response": "return text\n" * 20, "id": "cut"}
HOPELESS = {"instruction": "wrap " * 40, "response": "return text", "id": "hopeless"}


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Two files; the hopeless rows are number 1, 3 and 4 over both."""
    rows = [[SHORT, HOPELESS], [CUT, HOPELESS, HOPELESS, SHORT]]
    return [write_jsonl(tmp_path / f"{name}.jsonl", part) for name, part in zip("ab", rows, strict=True)]


@pytest.fixture
def tokenizer(tiny_model: Path) -> AutoTokenizer:
    return AutoTokenizer.from_pretrained(tiny_model)


def test_rows_are_numbered_over_all_files_and_found_again(files: list[Path]) -> None:
    assert [(path.name, line, row["id"]) for path, line, row in read_pairs(files)] == [
        ("a.jsonl", 1, "short"),
        ("a.jsonl", 2, "hopeless"),
        ("b.jsonl", 1, "cut"),
        ("b.jsonl", 2, "hopeless"),
        ("b.jsonl", 3, "hopeless"),
        ("b.jsonl", 4, "short"),
    ]
    assert name_rows(files, (5, 0, 2)) == ["a.jsonl:1", "b.jsonl:1", "b.jsonl:4"]
    assert name_rows(files, ()) == []


def test_empty_lines_are_counted_in_the_place_of_a_row(tmp_path: Path) -> None:
    file = tmp_path / "gaps.jsonl"
    file.write_text(f"{json.dumps(SHORT)}\n\n{json.dumps(CUT)}\n")
    assert name_rows([file], (1,)) == ["gaps.jsonl:3"]


def test_a_row_without_either_side_is_refused_with_its_place(files: list[Path], tmp_path: Path) -> None:
    broken = write_jsonl(tmp_path / "c.jsonl", [SHORT, {"instruction": "wrap"}])
    with pytest.raises(UserError, match=r"c\.jsonl, line 2: has no column response"):
        list(read_pairs([*files, broken]))


def test_unsupervised_rows_are_rejected_whole_with_positions(
    files: list[Path], tokenizer: AutoTokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sequences(files, tokenizer, TEMPLATE, 40, tmp_path / "out")
    rejected = read_jsonl(tmp_path / "out" / REJECTED)
    name_rows = [("a.jsonl", 2), ("b.jsonl", 2), ("b.jsonl", 3)]
    assert rejected == [
        {**HOPELESS, "reason": "nothing to learn", "evidence": {"file": file, "line": line, "limit": 40}}
        for file, line in name_rows
    ]
    assert capsys.readouterr().out.splitlines() == [
        "train: 4 of 6 rows were truncated to max_training_seq_length=40",
        "train: 3 rows have no supervised token after truncation and are rejected",
    ]


def test_fully_supervised_rows_reject_nothing_and_say_nothing(
    files: list[Path], tokenizer: AutoTokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sequences(files, tokenizer, TEMPLATE, 1000, tmp_path / "out")
    assert (tmp_path / "out" / REJECTED).read_bytes() == b""
    assert capsys.readouterr().out == ""


def test_no_supervised_row_is_an_error_that_names_the_limit(tokenizer: AutoTokenizer, tmp_path: Path) -> None:
    files = [write_jsonl(tmp_path / "a.jsonl", [HOPELESS, HOPELESS])]
    with pytest.raises(UserError, match="max_training_seq_length=10: leaves no supervised token in any row"):
        write_sequences(files, tokenizer, TEMPLATE, 10, tmp_path / "out")


def test_what_a_killed_run_has_encoded_is_not_encoded_again(
    files: list[Path], tokenizer: AutoTokenizer, tmp_path: Path
) -> None:
    write_sequences(files, tokenizer, TEMPLATE, 40, tmp_path / "out")
    (tmp_path / "out" / REJECTED).unlink()
    write_sequences(files, None, TEMPLATE, 40, tmp_path / "out")  # a tokenizer that can encode nothing
    assert Sequences(tmp_path / "out" / SEQUENCES).count_supervised(numpy.arange(6)).tolist().count(0) == 3
    assert len(read_jsonl(tmp_path / "out" / REJECTED)) == 3
