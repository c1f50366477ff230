"""The preprocess stage: rows of each known form become instruction and response."""

from collections.abc import Callable
from pathlib import Path

import pytest

from magicoder.config import StageConfig
from magicoder.config.bounds import validate
from magicoder.runtime.errors import UserError
from magicoder.stages import preprocess
from tests.support import GOLDEN, read_jsonl, write_jsonl

Settings = Callable[..., StageConfig]


def finished_stage(directory: Path, rows: list[dict]) -> None:
    """A directory as a finished stage leaves it."""
    write_jsonl(directory / "rows.jsonl", rows)
    (directory / "manifest.json").write_text("{}")


@pytest.mark.parametrize(
    ("key", "name"), [("src-instruct", "src"), ("evol-instruct", "evol"), ("codealpaca", "codealpaca")]
)
def test_rows_are_those_of_the_original_byte_for_byte(settings: Settings, key: str, name: str) -> None:
    source = GOLDEN / "preprocess" / f"{name}_in.jsonl"
    chosen = settings("stage=preprocess", f"data.preprocess.key={key}", f"data.preprocess.data_files=[{source}]")
    chosen.prompt.instruction = "Task:\n{problem}"
    preprocess.run(chosen)
    assert chosen.out.endswith(f"/preprocess/{key}")
    assert Path(chosen.out, "rows.jsonl").read_bytes() == (GOLDEN / "preprocess" / f"{name}_out.jsonl").read_bytes()


def test_combine_joins_files_in_the_order_of_the_config(settings: Settings, tmp_path: Path) -> None:
    later = write_jsonl(tmp_path / "a.jsonl", [{"lang": "python", "instruction": "2", "response": "b"}])
    first = write_jsonl(tmp_path / "b.jsonl", [{"response": "a", "instruction": "1"}])
    chosen = settings(
        "stage=preprocess", "data.preprocess.key=combine", f"data.preprocess.data_files=[{first},{later}]"
    )
    preprocess.run(chosen)
    expected = b'{"instruction": "1", "response": "a"}\n{"instruction": "2", "response": "b"}\n'
    assert Path(chosen.out, "rows.jsonl").read_bytes() == expected


def test_combine_joins_every_form_that_is_there(settings: Settings, tmp_path: Path) -> None:
    made = tmp_path / "outputs" / "preprocess"
    finished_stage(made / "codealpaca", [{"instruction": "2", "response": "b"}])
    finished_stage(made / "src-instruct", [{"instruction": "1", "response": "a"}])
    chosen = settings("stage=preprocess", "data.preprocess.key=combine")
    preprocess.run(chosen)
    assert [row["instruction"] for row in read_jsonl(Path(chosen.out, "rows.jsonl"))] == ["1", "2"]


def test_combine_waits_for_a_form_that_is_not_finished(settings: Settings, tmp_path: Path) -> None:
    made = tmp_path / "outputs" / "preprocess"
    finished_stage(made / "src-instruct", [{"instruction": "1", "response": "a"}])
    (made / "codealpaca").mkdir()
    chosen = settings("stage=preprocess", "data.preprocess.key=combine")
    assert preprocess.validate(chosen) == [f"{made}/codealpaca: is not complete; run stage=preprocess first"]


def test_default_is_what_the_decontaminate_stage_left(settings: Settings, tmp_path: Path) -> None:
    chosen = settings("stage=preprocess")
    directory = tmp_path / "outputs" / "decontaminate"
    assert preprocess.validate(chosen) == [f"{directory}: no such file; run stage=decontaminate first"]
    finished_stage(directory, [{"problem": "Add.", "solution": "a + b"}])
    assert preprocess.validate(chosen) == []
    preprocess.run(chosen)
    (row,) = read_jsonl(Path(chosen.out, "rows.jsonl"))
    assert "Add." in row["instruction"]
    assert row["response"] == "a + b"


def test_unknown_format_is_named_with_the_choices(settings: Settings) -> None:
    (problem,) = preprocess.validate(settings("stage=preprocess", "data.preprocess.key=evol"))
    assert problem.startswith("data.preprocess.key=evol: choose one of src-instruct, evol-instruct,")


def test_template_that_would_drop_the_problem_is_refused(settings: Settings) -> None:
    chosen = settings("stage=preprocess", "prompt.instruction='Solve it.'")
    assert list(validate(chosen)) == ["prompt.instruction: has no {problem}"]


def test_input_that_is_no_text_is_refused(settings: Settings, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "in.jsonl", [{"instruction": "a", "input": 5, "output": "b"}])
    chosen = settings("stage=preprocess", "data.preprocess.key=codealpaca", f"data.preprocess.data_files=[{path}]")
    with pytest.raises(UserError, match="line 1: column input is neither text nor null"):
        preprocess.run(chosen)


@pytest.mark.parametrize(
    ("key", "row", "column"),
    [
        ("src-instruct", {"problem": "a", "instruction": "a"}, "solution"),
        ("evol-instruct", {"instruction": "a", "response": "b"}, "output"),
        ("codealpaca", {"instruction": "a", "response": "b"}, "output"),
        ("combine", {"instruction": "a", "output": "b"}, "response"),
    ],
)
def test_rows_of_another_format_are_refused_by_missing_column(
    settings: Settings, tmp_path: Path, key: str, row: dict, column: str
) -> None:
    path = write_jsonl(tmp_path / "in.jsonl", [row])
    chosen = settings("stage=preprocess", f"data.preprocess.key={key}", f"data.preprocess.data_files=[{path}]")
    with pytest.raises(UserError, match=f"line 1: has no column {column}; its columns are {', '.join(row)}"):
        preprocess.run(chosen)
    assert not Path(chosen.out, "rows.jsonl").exists()
