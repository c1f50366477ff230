"""The preprocess stage: rows of each known form become instruction and response."""

from collections.abc import Callable
from pathlib import Path

import pytest

from magicoder.config import StageConfig
from magicoder.config.bounds import validate
from magicoder.runtime.errors import UserError
from magicoder.stages import preprocess
from magicoder.storage import files as storage_files
from magicoder.storage.files import read_json
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


# --- published data --------------------------------------------------------------------------------------------------

OSS = {
    "lang": "rust",
    "raw_index": 3,
    "index": 0,
    "seed": "x",
    "openai_fingerprint": "fp",
    "problem": "p",
    "solution": "s",
}


def preprocess_rows(settings: Settings, path: Path | str, *more: str) -> list[dict]:
    """The rows that the stage makes of one source."""
    chosen = settings("stage=preprocess", f"data.preprocess.data_files={path}", *more)
    assert preprocess.validate(chosen) == []
    preprocess.run(chosen)
    return read_jsonl(Path(chosen.out, "rows.jsonl"))


def test_published_rows_keep_their_other_columns(settings: Settings, tmp_path: Path) -> None:
    (row,) = preprocess_rows(settings, write_jsonl(tmp_path / "oss.jsonl", [OSS]))
    assert list(row) == ["lang", "raw_index", "index", "seed", "openai_fingerprint", "instruction", "response"]
    assert row["instruction"].endswith("p") and row["response"] == "s"


@pytest.mark.parametrize(
    ("row", "instruction"),
    [
        ({"instruction": "a", "response": "s"}, "a"),
        ({"instruction": "a", "input": None, "output": "s"}, "a"),
        ({"instruction": "a", "input": "b", "output": "s"}, "a\nInput: b"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "s"}]}, "a"),
        ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "s"}]}, "a"),
    ],
    ids=["pair", "null input", "alpaca", "messages", "sharegpt"],
)
def test_format_of_each_file_is_recognized(settings: Settings, tmp_path: Path, row: dict, instruction: str) -> None:
    write_jsonl(tmp_path / "a.jsonl", [row])
    write_jsonl(tmp_path / "b.jsonl", [OSS])
    made = preprocess_rows(settings, f"{tmp_path}/*.jsonl", "data.preprocess.key=auto")
    assert made[0] == {"instruction": instruction, "response": "s"}
    assert made[1]["response"] == "s"


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"prompt": "a", "completion": "b"}, "its columns (prompt, completion) fit no known format"),
        ({"instruction": "a", "output": "b", "response": "c"}, "fit several formats: codealpaca, pair"),
    ],
    ids=["unknown", "ambiguous"],
)
def test_format_that_is_not_recognized_lists_known_ones(
    settings: Settings, tmp_path: Path, row: dict, complaint: str
) -> None:
    with pytest.raises(UserError) as caught:
        preprocess_rows(settings, write_jsonl(tmp_path / "in.jsonl", [row]), "data.preprocess.key=auto")
    assert complaint in str(caught.value)
    assert "src-instruct (problem, solution); codealpaca (instruction, output); " in str(caught.value)


@pytest.mark.parametrize("key", ["auto", "pair", "combine"])
def test_columns_are_read_under_their_own_names(settings: Settings, tmp_path: Path, key: str) -> None:
    path = write_jsonl(tmp_path / "in.jsonl", [{"prompt": "a", "completion": "b", "instruction": 5}])
    columns = "data.preprocess.columns={instruction: prompt, response: completion}"
    assert preprocess_rows(settings, path, f"data.preprocess.key={key}", columns) == [
        {"instruction": "a", "response": "b"}
    ]


def test_missing_column_is_named_as_in_the_file(settings: Settings, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "in.jsonl", [{"prompt": "a"}])
    columns = "data.preprocess.columns={instruction: prompt, response: completion}"
    with pytest.raises(UserError, match="line 1: has no column completion; its columns are prompt"):
        preprocess_rows(settings, path, "data.preprocess.key=pair", columns)


def test_column_that_the_format_does_not_read_is_refused(settings: Settings, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "in.jsonl", [OSS])
    chosen = settings(
        "stage=preprocess", f"data.preprocess.data_files={path}", "data.preprocess.columns={instruction: prompt}"
    )
    assert preprocess.validate(chosen) == [
        "data.preprocess.columns.instruction: key=src-instruct reads no such column; it reads problem, solution"
    ]


MIXED = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, {"messages": []}, {}]


def test_bad_rows_of_every_kind_are_named_at_once(settings: Settings, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "in.jsonl", MIXED)
    with pytest.raises(UserError) as caught:
        preprocess_rows(settings, path, "data.preprocess.key=messages")
    assert caught.value.problems == [
        f"{path}, line 2: has no user message with an assistant's answer to it",
        f"{path}, line 3: has no column messages; its columns are none; "
        "data.preprocess.bad_rows=reject leaves bad rows out",
    ]


def test_bad_rows_are_rejected_with_their_place(settings: Settings, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "in.jsonl", MIXED)
    with open(path, "a") as file:
        file.write("{torn\n")
    made = preprocess_rows(settings, path, "data.preprocess.key=messages", "data.preprocess.bad_rows=reject")
    assert made == [{"instruction": "a", "response": "b"}]
    directory = tmp_path / "outputs" / "preprocess" / "messages"
    rejected = read_jsonl(directory / "rejected.jsonl")
    assert [row["reason"] for row in rejected] == ["no exchange", "missing column", "not JSON"]
    assert [row["evidence"]["line"] for row in rejected] == [2, 3, 4]
    assert (rejected[0]["messages"], rejected[2]["text"]) == ([], "{torn")
    assert {row["evidence"]["file"] for row in rejected} == {"in.jsonl"}
    assert read_json(directory / "manifest.json")["counts"] == {"in": 4, "out": 1, "rejected": 3}


def test_nothing_but_bad_rows_is_an_error_all_the_same(settings: Settings, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "in.jsonl", MIXED[1:])
    with pytest.raises(UserError, match="every row is bad, so nothing would be left"):
        preprocess_rows(settings, path, "data.preprocess.key=auto", "data.preprocess.bad_rows=reject")


def test_dataset_of_the_hub_is_read_by_its_name(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A local folder of that name has the same form as the dataset."""
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "owner" / "evol" / "data-evol_instruct-decontaminated.jsonl", [{**OSS, "response": "s"}])
    (row,) = preprocess_rows(settings, "hf://datasets/owner/evol")
    assert row["response"] == "s"
    manifest = read_json(tmp_path / "outputs" / "preprocess" / "src-instruct" / "manifest.json")
    assert manifest["inputs"] == {"hf://datasets/owner/evol": "hf://datasets/owner/evol"}


def test_file_of_the_hub_is_read_as_a_local_one(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "blobs.csv"
    path.write_text('instruction,response\n"a\nb",007\n')
    monkeypatch.setattr(storage_files, "fetch_file", lambda source: path if source.file == "d/x.csv" else None)
    made = preprocess_rows(settings, "hf://datasets/owner/name@main/d/x.csv", "data.preprocess.key=auto")
    assert made == [{"instruction": "a\nb", "response": "007"}]


def test_recognition_is_not_misled_by_a_bad_first_row_or_empty_columns(settings: Settings, tmp_path: Path) -> None:
    rows = [{"id": 1}, {"instruction": "a", "response": "b", "messages": None}]
    chosen = settings(
        "stage=preprocess",
        "data.preprocess.key=auto",
        "data.preprocess.bad_rows=reject",
        f"data.preprocess.data_files={write_jsonl(tmp_path / 'rows.jsonl', rows)}",
    )
    preprocess.run(chosen)
    assert read_jsonl(Path(chosen.out, "rows.jsonl")) == [{"instruction": "a", "response": "b"}]
    assert len(read_jsonl(Path(chosen.out, "rejected.jsonl"))) == 1


def test_a_file_with_our_names_keeps_them_beside_one_that_is_mapped(settings: Settings, tmp_path: Path) -> None:
    theirs = write_jsonl(tmp_path / "theirs.jsonl", [{"prompt": "a", "completion": "b"}])
    ours = write_jsonl(tmp_path / "ours.jsonl", [{"instruction": "c", "response": "d"}])
    chosen = settings(
        "stage=preprocess",
        "data.preprocess.key=auto",
        "data.preprocess.columns={instruction: prompt, response: completion}",
        f"data.preprocess.data_files=[{theirs},{ours}]",
    )
    preprocess.run(chosen)
    assert [row["instruction"] for row in read_jsonl(Path(chosen.out, "rows.jsonl"))] == ["a", "c"]
