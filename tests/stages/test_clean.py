"""The clean stage: generated rows joined, shuffled and rid of duplicates as the original does."""

import gzip
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from magicoder.config import StageConfig
from magicoder.curation.exact_duplicates import strip_whitespace
from magicoder.runtime.errors import UserError
from magicoder.stages import clean
from magicoder.storage.files import digest, read_json
from tests.support import GOLDEN, read_jsonl, write_jsonl

Settings = Callable[..., StageConfig]
FILES = [GOLDEN / "clean" / f"data-{language}-00000-0_240.jsonl.gz" for language in ("python", "cpp", "shell")]


def golden(name: str) -> bytes:
    return gzip.decompress((GOLDEN / "clean" / name).read_bytes())


def named(*files: Path) -> str:
    """The override that names the input files."""
    return f"data.clean.data_files=[{','.join(map(str, files))}]"


def row(mark: str, **changes: object) -> dict:
    return {"index": 0, "seed": f"seed {mark}", "problem": f"problem {mark}", "solution": f"solution {mark}", **changes}


def test_kept_rows_are_those_of_the_original_byte_for_byte(settings: Settings) -> None:
    chosen = settings("stage=clean", named(*FILES))
    clean.run(chosen)
    assert Path(chosen.out, "rows.jsonl").read_bytes() == golden("expected.jsonl.gz")


def test_rejected_rows_and_counts_are_those_of_the_original(settings: Settings, tmp_path: Path) -> None:
    chosen = settings("stage=clean", named(*FILES))
    clean.run(chosen)
    (tmp_path / "expected.jsonl").write_bytes(golden("expected_rejected.jsonl.gz"))
    rejected = read_jsonl(Path(chosen.out, "rejected.jsonl"))
    theirs = [{key: value for key, value in each.items() if key != "evidence"} for each in rejected]
    assert theirs == read_jsonl(tmp_path / "expected.jsonl")
    assert [list(each) for each in theirs] == [list(each) for each in read_jsonl(tmp_path / "expected.jsonl")]
    assert read_json(Path(chosen.out, "analysis.json")) == read_json(GOLDEN / "clean" / "expected_analysis.json")


def test_evidence_names_a_kept_row_that_the_rejected_one_repeats(settings: Settings) -> None:
    chosen = settings("stage=clean", named(*FILES))
    clean.run(chosen)
    kept = read_jsonl(Path(chosen.out, "rows.jsonl"))
    for each in read_jsonl(Path(chosen.out, "rejected.jsonl")):
        column = each["reason"].removeprefix("duplicate ").removesuffix("s")
        original = kept[each["evidence"]["kept_row"]]
        assert {name: original[name] for name in ("lang", "index")}.items() <= each["evidence"].items()
        assert strip_whitespace(each[column]) == strip_whitespace(original[column])


def test_earlier_verdict_in_a_row_is_replaced(settings: Settings, tmp_path: Path) -> None:
    rows = [row("a"), row("b", seed="seed a", reason="old", evidence="old", lang="c")]
    chosen = settings("stage=clean", named(write_jsonl(tmp_path / "data-python-0.jsonl", rows)))
    clean.run(chosen)
    (each,) = read_jsonl(Path(chosen.out, "rejected.jsonl"))
    assert next(iter(each.items())) == ("reason", "duplicate seeds")
    assert each["evidence"]["kept_row"] == 0
    assert read_json(Path(chosen.out, "analysis.json"))["reason"] == {"duplicate seeds": 1}


def test_no_filter_keeps_every_row_in_the_same_order(settings: Settings) -> None:
    chosen = settings("stage=clean", named(*FILES), "data.clean.no_filter=true")
    clean.run(chosen)
    lines = Path(chosen.out, "rows.jsonl").read_bytes().splitlines()
    kept = golden("expected.jsonl.gz").splitlines()
    assert len(lines) == 240
    assert [line for line in lines if line in set(kept)] == kept
    assert Path(chosen.out, "rejected.jsonl").read_bytes() == b""


def finished_stage(directory: Path, language: str, rows: list[dict], stage: str = "generate") -> Path:
    """A directory as a finished run of the generate stage leaves it."""
    write_jsonl(directory / "rows.jsonl", rows)
    manifest = {"stage": stage, "config": {"data": {stage: {"tag": language}}}}
    (directory / "manifest.json").write_text(json.dumps(manifest))
    return directory


def test_language_comes_from_the_directory_of_a_generate_stage(settings: Settings, tmp_path: Path) -> None:
    for language in ("rust", "php"):
        finished_stage(tmp_path / "outputs" / "generate" / f"data-{language}-0+1000", language, [row(language)])
    chosen = settings("stage=clean")
    assert clean.validate(chosen) == []
    clean.run(chosen)
    rows = read_jsonl(Path(chosen.out, "rows.jsonl"))
    assert {each["lang"]: each["problem"] for each in rows} == {"rust": "problem rust", "php": "problem php"}
    assert all(next(iter(each)) == "lang" for each in rows)


def test_evolved_instructions_beside_the_rows_are_left_out(settings: Settings, tmp_path: Path, capsys: Any) -> None:
    generated = tmp_path / "outputs" / "generate"
    finished_stage(generated / "data-rust-0+1000", "rust", [row("rust")])
    evolved = finished_stage(generated / "data-evol-0+1000", "evol", [{"instruction": "a", "output": "b"}])
    manifest = {"stage": "generate", "config": {"data": {"generate": {"tag": "evol", "source": "instructions"}}}}
    (evolved / "manifest.json").write_text(json.dumps(manifest))
    chosen = settings("stage=clean")
    assert clean.validate(chosen) == []
    clean.run(chosen)
    assert len(read_jsonl(Path(chosen.out, "rows.jsonl"))) == 1
    assert capsys.readouterr().err == (
        f"clean: {evolved} is left out: evolved instructions have no problem and solution\n"
    )


def test_language_of_a_directory_does_not_depend_on_its_name(settings: Settings, tmp_path: Path) -> None:
    """Jobs of a sweep are named by what they override."""
    for language, name in (("rust", "data.generate.tag=rust"), ("cpp", "data-nonsense-0+1"), ("c", "tag=[c]")):
        finished_stage(tmp_path / "sweeps" / name, language, [row(language)])
    chosen = settings("stage=clean", f"data.clean.data_files=['{tmp_path}/sweeps/*','{tmp_path}/sweeps/tag=[c]']")
    assert clean.validate(chosen) == []
    clean.run(chosen)
    rows = read_jsonl(Path(chosen.out, "rows.jsonl"))
    assert {each["lang"]: each["problem"] for each in rows} == {
        each: f"problem {each}" for each in ("rust", "cpp", "c")
    }


def test_generate_stage_with_no_accepted_answer_is_no_mistake(settings: Settings, tmp_path: Path) -> None:
    directories = [finished_stage(tmp_path / "full", "rust", [row("a")]), finished_stage(tmp_path / "none", "php", [])]
    chosen = settings("stage=clean", named(*directories))
    clean.run(chosen)
    assert [each["lang"] for each in read_jsonl(Path(chosen.out, "rows.jsonl"))] == ["rust"]


@pytest.mark.parametrize(
    "manifest",
    ['{"stage": "preprocess", "config": {"data": {}}}', "{}", "[]"],
)
def test_directory_that_no_generate_stage_wrote_has_no_language(
    settings: Settings, tmp_path: Path, manifest: str
) -> None:
    directory = finished_stage(tmp_path / "data-rust-0", "rust", [row("a")])
    (directory / "manifest.json").write_text(manifest)
    (problem,) = clean.validate(settings("stage=clean", named(directory)))
    assert problem.startswith(f"{directory}/rows.jsonl: no language")


def test_file_without_a_language_in_its_name_is_refused(settings: Settings, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", [row("a")])
    moved = path.rename(tmp_path / "mine.jsonl")
    chosen = settings("stage=clean", named(moved))
    assert clean.validate(chosen) == [
        f"{moved}: no language in its name, and its first row has no lang; call it data-LANGUAGE-..., or give each "
        "row the column lang"
    ]


@pytest.mark.parametrize("name", ["train-00000-of-00001.jsonl", "data-00000-of-00001.jsonl", "a-b.jsonl"])
def test_language_is_never_guessed_from_other_names(settings: Settings, tmp_path: Path, name: str) -> None:
    chosen = settings("stage=clean", named(write_jsonl(tmp_path / name, [row("a")])))
    (problem,) = clean.validate(chosen)
    assert problem.startswith(f"{tmp_path / name}: no language in its name")
    with pytest.raises(UserError, match="line 1: has no column lang"):
        clean.run(chosen)


@pytest.mark.parametrize("name", ["train-00000-of-00001.jsonl", "data-python-0.jsonl"])
def test_language_of_a_row_is_its_own(settings: Settings, tmp_path: Path, name: str) -> None:
    path = write_jsonl(tmp_path / name, [row("a", lang="rust"), row("b", lang="php")])
    chosen = settings("stage=clean", f"data.clean.data_files={path}")
    assert clean.validate(chosen) == []
    clean.run(chosen)
    rows = read_jsonl(Path(chosen.out, "rows.jsonl"))
    assert {each["lang"]: each["problem"] for each in rows} == {"rust": "problem a", "php": "problem b"}


def test_null_language_is_that_of_the_file_name(settings: Settings, tmp_path: Path) -> None:
    chosen = settings("stage=clean", named(write_jsonl(tmp_path / "data-python-0.jsonl", [row("a", lang=None)])))
    clean.run(chosen)
    assert read_jsonl(Path(chosen.out, "rows.jsonl"))[0]["lang"] == "python"


def test_bad_rows_are_rejected_if_that_is_wanted(settings: Settings, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "in.jsonl", [row("a", lang="c"), row("b"), row("c", lang="c", solution=None)])
    with pytest.raises(UserError) as caught:
        clean.run(settings("stage=clean", named(path)))
    assert len(caught.value.problems) == 2
    chosen = settings("stage=clean", named(path), "data.clean.bad_rows=reject")
    clean.run(chosen)
    assert [each["problem"] for each in read_jsonl(Path(chosen.out, "rows.jsonl"))] == ["problem a"]
    reasons = [each["reason"] for each in read_jsonl(Path(chosen.out, "rejected.jsonl"))]
    assert reasons == ["missing column", "column is not text"]


def test_unfinished_runs_beside_the_rows_are_left_out(settings: Settings, tmp_path: Path, capsys: Any) -> None:
    generated = tmp_path / "outputs" / "generate"
    finished_stage(generated / "data-rust-0+1000", "rust", [row("rust")])
    (generated / "data-java-0+1000").mkdir()
    (generated / "data-java-0+1000" / ".lock").touch()
    chosen = settings("stage=clean")
    assert clean.validate(chosen) == []
    clean.run(chosen)
    assert [each["lang"] for each in read_jsonl(Path(chosen.out, "rows.jsonl"))] == ["rust"]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"clean: {generated}/data-java-0+1000 is left out: it is not complete")


def test_language_does_not_include_the_ending_of_the_file_name(settings: Settings, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "data-python.jsonl", [row("a")])
    chosen = settings("stage=clean", named(path))
    clean.run(chosen)
    assert [each["lang"] for each in read_jsonl(Path(chosen.out, "rows.jsonl"))] == ["python"]


def test_order_of_the_files_is_that_of_the_config(settings: Settings, tmp_path: Path) -> None:
    """The shuffle permutes positions, so another order of files is another data set."""
    in_order = settings("stage=clean", named(*FILES))
    reversed_order = settings("stage=clean", named(*reversed(FILES)), f"out={tmp_path}/reversed")
    clean.run(in_order)
    clean.run(reversed_order)
    assert Path(reversed_order.out, "rows.jsonl").read_bytes() != Path(in_order.out, "rows.jsonl").read_bytes()


def test_other_order_of_the_files_is_another_identity(settings: Settings) -> None:
    clean.run(settings("stage=clean", named(*FILES)))
    with pytest.raises(UserError, match="another config"):
        clean.run(settings("stage=clean", named(*reversed(FILES))))


def test_lone_surrogates_of_a_corpus_reach_the_rows(settings: Settings, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "data-python-0.jsonl", [row("a", seed="half \ud83d")])
    chosen = settings("stage=clean", named(path))
    clean.run(chosen)
    assert read_jsonl(Path(chosen.out, "rows.jsonl"))[0]["seed"] == "half \ud83d"


# --- killed at any instant -------------------------------------------------------------------------------------------

TOUCHES = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir")


@pytest.fixture
def few(tmp_path: Path) -> str:
    """The override that names a small file with a duplicate in it."""
    return named(write_jsonl(tmp_path / "data-python-0.jsonl", [row("a"), row("b"), row("c", seed="seed b")]))


def killed(chosen: StageConfig, step: int) -> bool:
    """Run the stage in a process that is killed just before its step-th touch of `out`; whether it came that far."""
    process = os.fork()
    if process == 0:
        steps = iter(range(step))

        def watch(event: str, arguments: tuple) -> None:
            if event in TOUCHES and str(arguments[0]).startswith(chosen.out) and next(steps, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)

        status = 1
        try:
            sys.addaudithook(watch)
            clean.run(chosen)
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(process, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the run failed instead of being killed"
    return os.WIFSIGNALED(status)


def results_in(directory: str) -> dict[str, bytes]:
    """Name -> content of what a run made, without its records: the lock, the start, the manifest (it holds times)."""
    records = (".lock", "manifest.json", "started.json")
    return {entry.name: entry.read_bytes() for entry in Path(directory).iterdir() if entry.name not in records}


def test_killed_at_any_instant_ends_in_the_same_files(settings: Settings, tmp_path: Path, few: str) -> None:
    whole = settings("stage=clean", few)
    clean.run(whole)
    for step in count():
        chosen = replace(whole, out=f"{tmp_path}/killed-{step}")
        if not killed(chosen, step):
            break
        clean.run(chosen)
        assert Path(chosen.out, "manifest.json").exists()
        assert results_in(chosen.out) == results_in(whole.out)
    assert step > 10


def test_killed_while_overwriting_never_looks_complete(settings: Settings, tmp_path: Path, few: str) -> None:
    old = settings("stage=clean", few)
    new = settings("stage=clean", few, "data.clean.no_filter=true", "overwrite=true")
    clean.run(new)
    for step in count():
        chosen = replace(new, out=f"{tmp_path}/killed-{step}")
        clean.run(replace(old, out=chosen.out))
        if not killed(chosen, step):
            break
        manifest = Path(chosen.out, "manifest.json")
        if manifest.exists():  # then what it vouches for must be there
            outputs = read_json(manifest)["outputs"]
            present = {name: Path(chosen.out, name) for name in outputs if Path(chosen.out, name).exists()}
            assert {name: digest(path) for name, path in present.items()} == outputs
        clean.run(chosen)
        assert results_in(chosen.out) == results_in(new.out)
    assert step > 10
