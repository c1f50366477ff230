"""The decontaminate stage: rows that contain a benchmark's text are taken out as the original does."""

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from magicoder.config import BenchmarkConfig, StageConfig
from magicoder.config.bounds import validate
from magicoder.curation.benchmarks import collect_strings
from magicoder.runtime.errors import UserError
from magicoder.stages import decontaminate
from magicoder.storage.files import read_json, read_rows
from tests.support import GOLDEN, read_jsonl, run_main, write_jsonl

Settings = Callable[..., StageConfig]
STAGE = "stage=decontaminate"
DOCUMENTED = "data.decontaminate.detectors=[substrings]"
HUMAN_EVAL = (STAGE, "data/decontaminate=human_eval", DOCUMENTED)


def named(*files: Path) -> str:
    """The override that names the input files."""
    return f"data.decontaminate.data_files=[{','.join(map(str, files))}]"


def benchmarks(**files: object) -> list[str]:
    """The overrides that search these files besides HumanEval, and no other benchmark."""
    others = ("mbpp", "apps", "gsm8k", "ds_1000")
    places = [f"data.decontaminate.benchmarks.{name}.path={path}" for name, path in files.items()]
    return [*places, *(f"~data.decontaminate.benchmarks.{name}" for name in others if name not in files)]


def row(problem: str, solution: str = "", **more: object) -> dict:
    return {"lang": "python", "problem": problem, "solution": solution, **more}


def reasons(chosen: StageConfig) -> list[str]:
    return [each["reason"] for each in read_jsonl(Path(chosen.out, "rejected.jsonl"))]


def kept(chosen: StageConfig) -> list[str]:
    return [each["problem"] for each in read_jsonl(Path(chosen.out, "rows.jsonl"))]


def check_verdicts(chosen: StageConfig, rows: list[dict], verdicts: list[dict]) -> None:
    """Everything that the stage wrote says what the original's verdicts on these rows say."""
    excluded = [
        {
            "data": rows[each["row"]],
            "filter_reason": each["filter_reason"],
            "matched_substring": each["matched_substring"],
        }
        for each in verdicts
    ]
    taken_out = {each["row"] for each in verdicts}
    assert read_json(Path(chosen.out, "excluded-data.json")) == excluded
    assert read_jsonl(Path(chosen.out, "rows.jsonl")) == [
        each for number, each in enumerate(rows) if number not in taken_out
    ]
    assert read_jsonl(Path(chosen.out, "rejected.jsonl")) == [
        {"reason": each["filter_reason"], "evidence": each["matched_substring"], **each["data"]} for each in excluded
    ]


def test_bad_rows_of_parquet_are_rejected_if_wanted(settings: Settings, tmp_path: Path) -> None:
    rows = [row("a", lang=None), row("b", solution=None)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    with pytest.raises(UserError, match=r"rows\.parquet, row 2: column solution is not text"):
        decontaminate.run(settings(*HUMAN_EVAL, f"data.decontaminate.data_files={tmp_path}/rows.parquet"))
    chosen = settings(
        *HUMAN_EVAL, f"data.decontaminate.data_files={tmp_path}/*.parquet", "data.decontaminate.bad_rows=reject"
    )
    decontaminate.run(chosen)
    assert kept(chosen) == ["a"]
    assert reasons(chosen) == ["column is not text"]


def test_verdicts_on_human_eval_are_those_of_the_original(settings: Settings) -> None:
    """Rows of the golden set that hold text of no benchmark but HumanEval, and what the original said of them."""
    source = GOLDEN / "decontaminate" / "human_eval_rows.jsonl.gz"
    verdicts = read_jsonl(GOLDEN / "decontaminate" / "human_eval_verdicts.jsonl")
    chosen = settings(*HUMAN_EVAL, named(source))
    decontaminate.run(chosen)
    check_verdicts(chosen, list(read_rows(source)), verdicts)
    assert read_json(Path(chosen.out, "meta.json")) == {
        "python": {"human_eval_docstrings_match": 8, "human_eval_solutions_match": 5}
    }


@pytest.mark.skipif(
    not {"MAGICODER_BENCHMARKS", "MAGICODER_GOLDEN"} <= os.environ.keys(),
    reason="needs MAGICODER_BENCHMARKS and MAGICODER_GOLDEN: benchmark texts that this project does not carry",
)
def test_verdicts_on_all_benchmarks_are_those_of_the_original(settings: Settings) -> None:
    texts = Path(os.environ["MAGICODER_BENCHMARKS"])
    golden = Path(os.environ["MAGICODER_GOLDEN"]) / "decontaminate"
    searched = benchmarks(
        mbpp=texts / "mbpp.jsonl", gsm8k=texts / "gsm8k_test.jsonl", ds_1000=texts / "ds1000.jsonl.gz"
    )
    chosen = settings(STAGE, "data/decontaminate=documented", named(golden / "contaminated.jsonl"), *searched)
    decontaminate.run(chosen)
    check_verdicts(chosen, read_jsonl(golden / "contaminated.jsonl"), read_jsonl(golden / "verdicts.jsonl"))


def test_side_files_have_the_form_of_the_original(settings: Settings, tmp_path: Path) -> None:
    docstring = collect_strings({"human_eval": "package:human_eval"})["human_eval_docstrings"][3]
    rows = [row("fine"), row(f"Copy: {docstring.upper()}!"), row("fine too", lang="cpp")]
    chosen = settings(*HUMAN_EVAL, named(write_jsonl(tmp_path / "rows.jsonl", rows)))
    decontaminate.run(chosen)
    out = Path(chosen.out)
    assert list(read_json(out / "benchmarks.json")) == ["human_eval_docstrings", "human_eval_solutions"]
    assert read_json(out / "benchmarks.json") == collect_strings({"human_eval": "package:human_eval"})
    assert read_json(out / "excluded-data.json") == [
        {"data": rows[1], "filter_reason": "human_eval_docstrings_match", "matched_substring": docstring}
    ]
    assert read_json(out / "meta.json") == {"python": {"human_eval_docstrings_match": 1}}
    assert read_json(out / "manifest.json")["searched"] == {
        "substrings": {"human_eval_docstrings": 164, "human_eval_solutions": 161}
    }


def test_kept_rows_pass_unchanged(settings: Settings, tmp_path: Path) -> None:
    """Every key in its order and every character, however odd."""
    source = tmp_path / "rows.jsonl"
    line = b'{"z": null, "problem": "half \\ud83d \\u2028", "lang": "c", "n": 1.50, "solution": "\\u001c", "a": {}}\n'
    source.write_bytes(line)
    chosen = settings(*HUMAN_EVAL, named(source))
    decontaminate.run(chosen)
    assert Path(chosen.out, "rows.jsonl").read_bytes() == line.replace(b"1.50", b"1.5")


def test_columns_are_those_of_the_config(settings: Settings, tmp_path: Path) -> None:
    text = collect_strings({"human_eval": "package:human_eval"})["human_eval_docstrings"][0]
    source = write_jsonl(tmp_path / "rows.jsonl", [row("a", text), row("b", instruction=text)])
    chosen = settings(*HUMAN_EVAL, named(source), "data.decontaminate.columns=[problem]")
    decontaminate.run(chosen)
    assert kept(chosen) == ["a", "b"]


def test_apps_solutions_decide_only_when_asked_for(settings: Settings, tmp_path: Path) -> None:
    apps = [{"question": "How many stairs are there?", "solutions": json.dumps(["print(climb(stairs))"])}]
    rows = [row("how many stairs are there?"), row("a", "print(climb(stairs))"), row("b")]
    overrides = (
        STAGE,
        named(write_jsonl(tmp_path / "rows.jsonl", rows)),
        *benchmarks(apps=write_jsonl(tmp_path / "apps.jsonl", apps)),
    )
    without = settings(*overrides, f"out={tmp_path}/without")
    decontaminate.run(without)
    assert reasons(without) == ["apps_docstrings_match"]
    chosen = settings(*overrides, "data.decontaminate.apps_solutions=true")
    decontaminate.run(chosen)
    assert reasons(chosen) == ["apps_docstrings_match", "apps_solutions_match"]
    assert kept(chosen) == ["b"]


def test_settings_that_cannot_work_are_named(settings: Settings) -> None:
    chosen = settings(*HUMAN_EVAL, "data.decontaminate.apps_solutions=true", "data.decontaminate.columns=[]")
    chosen.data.decontaminate.benchmarks["humaneval"] = BenchmarkConfig("package:human_eval")
    assert sorted(validate(chosen)) == [
        "data.decontaminate.apps_solutions=true: needs benchmarks.apps",
        "data.decontaminate.columns: name at least one",
    ]
    assert (
        "data.decontaminate.benchmarks.humaneval: unknown benchmark; known are mbpp, human_eval, apps, gsm8k, ds_1000"
        in decontaminate.validate(chosen)
    )


def test_search_for_nothing_is_refused(settings: Settings) -> None:
    chosen = settings(*HUMAN_EVAL, "~data.decontaminate.benchmarks.human_eval")
    assert list(validate(chosen)) == ["data.decontaminate.benchmarks: name at least one"]


def test_files_that_are_not_there_are_named_at_once(settings: Settings, tmp_path: Path) -> None:
    chosen = settings(
        STAGE,
        named(tmp_path / "rows.jsonl"),
        *benchmarks(mbpp=tmp_path / "mbpp.jsonl", gsm8k=tmp_path / "gsm8k.parquet"),
        f"data.decontaminate.cache={tmp_path}",
    )
    assert decontaminate.validate(chosen) == [
        f"{tmp_path}/rows.jsonl: no such file; run stage=clean first",
        f"data.decontaminate.benchmarks.mbpp.path={tmp_path}/mbpp.jsonl: no such file",
        f"data.decontaminate.benchmarks.gsm8k.path={tmp_path}/gsm8k.parquet: no such file",
        f"data.decontaminate.cache={tmp_path}: has no benchmarks.json",
    ]


def test_benchmarks_that_cannot_be_fetched_are_named_at_once(tmp_path: Path) -> None:
    """Without network (the tests' environment says HF_HUB_OFFLINE=1) the documented benchmarks cannot be had."""
    source = write_jsonl(tmp_path / "rows.jsonl", [row("a")])
    result = run_main("stage=decontaminate", named(source), cwd=tmp_path)
    assert result.returncode == 1
    lines = result.stderr.splitlines()
    assert [line.split(":")[1].strip() for line in lines] == [
        "benchmark mbpp",
        "benchmark apps",
        "benchmark gsm8k",
        "benchmark ds_1000",
    ]
    assert all(line.startswith("error: ") and "hf://datasets/" in line for line in lines)
    assert not (tmp_path / "outputs" / "decontaminate" / "rows.jsonl").exists()


# --- the cache of an earlier search ----------------------------------------------------------------------------------

MBPP = [{"task_id": 11, "text": "Find the odd one.", "code": "def odd(ones): ..."}]
GSM8K = [{"question": "How many apples?"}, {"question": "How many pears?"}]
ROWS = [
    row("Find the odd one."),
    row("How many apples?"),
    row("Find the odd one. How many apples?"),
    row("how many PEARS?"),
    row("Nothing of the kind."),
]


@pytest.fixture
def searched(settings: Settings, tmp_path: Path) -> Settings:
    """searched("name", "mbpp", ...): the settings of a finished search of ROWS for HumanEval and these benchmarks."""
    source = write_jsonl(tmp_path / "rows.jsonl", ROWS)
    files = {
        "mbpp": write_jsonl(tmp_path / "mbpp.jsonl", MBPP),
        "gsm8k": write_jsonl(tmp_path / "gsm8k.jsonl", GSM8K),
    }

    def search(name: str, *names: str, overrides: tuple[str, ...] = ()) -> StageConfig:
        paths = benchmarks(**{each: files[each] for each in names})
        chosen = settings(STAGE, named(source), *paths, f"out={tmp_path}/{name}", *overrides)
        decontaminate.run(chosen)
        return chosen

    return search


def results(chosen: StageConfig) -> dict[str, bytes]:
    names = ("rows.jsonl", "rejected.jsonl", "benchmarks.json", "excluded-data.json", "meta.json")
    return {name: Path(chosen.out, name).read_bytes() for name in names}


def cached(former: StageConfig) -> tuple[str, ...]:
    return (f"data.decontaminate.cache={former.out}",)


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (["mbpp", "gsm8k"], ["mbpp", "gsm8k"]),
        (["mbpp"], ["mbpp", "gsm8k"]),
        (["gsm8k"], ["mbpp", "gsm8k"]),
        (["mbpp", "gsm8k"], ["mbpp"]),
        (["mbpp", "gsm8k"], ["gsm8k"]),
    ],
    ids=["the same", "a later benchmark is new", "an earlier one is new", "the later one less", "the earlier one less"],
)
def test_cache_gives_what_a_fresh_search_gives(searched: Settings, before: list[str], now: list[str]) -> None:
    former = searched("former", *before)
    assert results(searched("cached", *now, overrides=cached(former))) == results(searched("fresh", *now))


def test_cache_of_fewer_columns_does_not_vouch_for_others(settings: Settings, tmp_path: Path) -> None:
    """The same strings, but the former search did not look at the column in which one stands."""
    overrides = (
        STAGE,
        named(write_jsonl(tmp_path / "rows.jsonl", [row("a", "How many apples?"), row("b", "Nothing of the kind.")])),
        *benchmarks(gsm8k=write_jsonl(tmp_path / "gsm8k.jsonl", GSM8K)),
    )
    former = settings(*overrides, "data.decontaminate.columns=[problem]", f"out={tmp_path}/former")
    decontaminate.run(former)
    chosen = settings(*overrides, *cached(former))
    decontaminate.run(chosen)
    assert reasons(chosen) == ["gsm8k_questions_match"]


def test_cache_of_other_rows_does_not_vouch_for_these(settings: Settings, tmp_path: Path) -> None:
    overrides = (STAGE, *benchmarks(gsm8k=write_jsonl(tmp_path / "gsm8k.jsonl", GSM8K)))
    before = write_jsonl(tmp_path / "before.jsonl", [row("Nothing of the kind.")])
    former = settings(*overrides, named(before), f"out={tmp_path}/former")
    decontaminate.run(former)
    now = write_jsonl(tmp_path / "now.jsonl", [row("How many apples?"), row("Another one.")])
    chosen = settings(*overrides, named(now), *cached(former))
    decontaminate.run(chosen)
    assert reasons(chosen) == ["gsm8k_questions_match"]


def test_nothing_but_the_lists_of_a_former_search_is_read(
    searched: Settings, settings: Settings, tmp_path: Path
) -> None:
    """What it took out says nothing of these rows."""
    former = searched("former", "gsm8k")
    for path in Path(former.out).iterdir():
        if path.name != "benchmarks.json":
            path.write_text("spoilt") if path.name != ".lock" else None
    assert results(searched("cached", "gsm8k", overrides=cached(former))) == results(searched("fresh", "gsm8k"))


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '"text"',
        '{"gsm8k_questions": null}',
        '{"gsm8k_questions": [1]}',
        '{"gsm8k_questions": ["a", null]}',
        '{"gsm8k_questions": "How many"}',
        '{"gsm8k_questions": 5}',
        '{"gsm8k_questions": {"How many": 1}}',
    ],
)
def test_cache_that_holds_no_lists_of_strings_is_one_line(settings: Settings, tmp_path: Path, content: str) -> None:
    (tmp_path / "benchmarks.json").write_text(content)
    source = write_jsonl(tmp_path / "rows.jsonl", ROWS)
    files = benchmarks(gsm8k=write_jsonl(tmp_path / "gsm8k.jsonl", GSM8K))
    chosen = settings(STAGE, named(source), *files, f"data.decontaminate.cache={tmp_path}")
    with pytest.raises(UserError) as caught:
        decontaminate.run(chosen)
    (problem,) = caught.value.problems
    assert problem.startswith(f"{tmp_path}/benchmarks.json: ")
    assert not Path(chosen.out, "rows.jsonl").exists()


def test_cache_may_hold_a_benchmark_without_any_string(settings: Settings, tmp_path: Path) -> None:
    """APPS has solutions for training alone in some copies; a search wrote that list, so it can be searched again."""
    apps = [{"question": "How many stairs are there?", "solutions": ""}]
    overrides = (
        STAGE,
        named(write_jsonl(tmp_path / "rows.jsonl", [row("a")])),
        *benchmarks(apps=write_jsonl(tmp_path / "apps.jsonl", apps)),
        "data.decontaminate.apps_solutions=true",
    )
    former = settings(*overrides, f"out={tmp_path}/former")
    decontaminate.run(former)
    assert read_json(Path(former.out, "benchmarks.json"))["apps_solutions"] == []
    chosen = settings(*overrides, *cached(former))
    decontaminate.run(chosen)
    assert results(chosen) == results(former)


def test_earlier_verdict_in_a_row_is_replaced(settings: Settings, tmp_path: Path) -> None:
    rows = [row("How many apples?", reason="old", evidence="old"), row("b", reason="old")]
    overrides = benchmarks(gsm8k=write_jsonl(tmp_path / "gsm8k.jsonl", GSM8K))
    chosen = settings(STAGE, named(write_jsonl(tmp_path / "rows.jsonl", rows)), *overrides)
    decontaminate.run(chosen)
    assert reasons(chosen) == ["gsm8k_questions_match"]
    assert read_jsonl(Path(chosen.out, "rejected.jsonl"))[0]["evidence"] == "How many apples?"
    assert read_jsonl(Path(chosen.out, "rows.jsonl")) == [rows[1]]


# --- identity --------------------------------------------------------------------------------------------------------


def test_benchmarks_bear_identity_by_content_not_by_path(
    searched: Settings, settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    former = searched("former", "gsm8k")
    elsewhere = write_jsonl(tmp_path / "elsewhere" / "questions.jsonl", GSM8K)
    overrides = (STAGE, named(tmp_path / "rows.jsonl"), f"out={former.out}")
    decontaminate.run(settings(*overrides, *benchmarks(gsm8k=elsewhere)))
    assert f"{former.out} is complete" in capsys.readouterr().out


def test_changed_benchmark_is_noticed(searched: Settings, settings: Settings, tmp_path: Path) -> None:
    former = searched("former", "gsm8k")
    corrected = write_jsonl(tmp_path / "corrected.jsonl", GSM8K[:1])
    overrides = (STAGE, named(tmp_path / "rows.jsonl"), f"out={former.out}")
    with pytest.raises(UserError, match=r"another config.*benchmark gsm8k was"):
        decontaminate.run(settings(*overrides, *benchmarks(gsm8k=corrected)))


def test_benchmark_left_out_is_noticed(searched: Settings, settings: Settings, tmp_path: Path) -> None:
    former = searched("former", "gsm8k")
    with pytest.raises(UserError, match=r"another config.*gsm8k"):
        decontaminate.run(settings(STAGE, named(tmp_path / "rows.jsonl"), *benchmarks(), f"out={former.out}"))


@pytest.mark.parametrize("form", ["jsonl.gz", "parquet"])
def test_every_form_of_a_benchmark_file_gives_the_same_verdicts(
    searched: Settings, settings: Settings, tmp_path: Path, form: str
) -> None:
    plain = searched("plain", "gsm8k")
    path = tmp_path / f"gsm8k.{form}"
    if form == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(GSM8K), path)
    else:
        path.write_bytes(gzip.compress((tmp_path / "gsm8k.jsonl").read_bytes()))
    chosen = settings(STAGE, named(tmp_path / "rows.jsonl"), *benchmarks(gsm8k=path))
    decontaminate.run(chosen)
    assert results(chosen) == results(plain)
