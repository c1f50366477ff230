"""Rows that contain a benchmark's text are taken out."""

from pathlib import Path
from typing import Any

from magicoder.config import DecontaminateConfig, DecontaminationConfig
from magicoder.curation.benchmarks import Strings, package_file, search_strings
from magicoder.curation.leaks import Leak, SubstringDetector, excluded_by_language
from magicoder.runtime.errors import UserError
from magicoder.runtime.progress import meter
from magicoder.storage.artifact import Artifact, expand, input_digests
from magicoder.storage.files import digest, read_json, read_rows, write_json
from magicoder.storage.rejected import rejected

BENCHMARKS = "benchmarks.json"


def validate(settings: DecontaminateConfig) -> list[str]:
    """Input files, benchmark files and cache files that are not there."""
    chosen = settings.data.decontaminate
    found = []
    try:
        expand(chosen.data_files, made_by="clean")
    except UserError as error:
        found += error.problems
    for name, benchmark in chosen.benchmarks.items():
        if not benchmark.path.startswith(("hf://", "package:")) and not Path(benchmark.path).is_file():
            found.append(f"data.decontaminate.benchmarks.{name}.path={benchmark.path}: no such file")
    if chosen.cache is not None and not (Path(chosen.cache) / BENCHMARKS).is_file():
        found.append(f"data.decontaminate.cache={chosen.cache}: has no {BENCHMARKS}")
    return found


def run(settings: DecontaminateConfig) -> None:
    """Write the clean rows, the rejected ones with the text they contain, and the original's three side files."""
    chosen = settings.data.decontaminate
    files = expand(chosen.data_files, made_by="clean")
    with Artifact(settings, {**input_digests(files), **benchmark_digests(chosen)}, reads=files) as artifact:
        if artifact.complete:
            artifact.announce_complete()
            return
        rows = [row for path in files for row in read_rows(path, chosen.columns)]
        strings = strings_to_search(chosen)
        leaks = find_leaks(rows, strings, chosen.columns)
        excluded: list[dict[str, Any]] = [
            {"data": row, "filter_reason": leak.reason, "matched_substring": leak.matched_substring}
            for row, leak in zip(rows, leaks, strict=True)
            if leak is not None
        ]
        write_json(artifact.path(BENCHMARKS), strings)
        write_json(artifact.path("excluded-data.json"), excluded)
        write_json(artifact.path("meta.json"), excluded_by_language(excluded))
        artifact.finish_rows(
            (row for row, leak in zip(rows, leaks, strict=True) if leak is None),
            (rejected(entry["filter_reason"], entry["data"], entry["matched_substring"]) for entry in excluded),
            searched={name: len(texts) for name, texts in strings.items()},
        )


def benchmark_digests(chosen: DecontaminationConfig) -> dict[str, str]:
    """What each benchmark is: the SHA-256 of a file on this machine, else the name of what is fetched."""
    digests: dict[str, str] = {}
    if chosen.cache is not None:
        digests[BENCHMARKS] = digest(Path(chosen.cache) / BENCHMARKS)
    for name, path in ((name, benchmark.path) for name, benchmark in chosen.benchmarks.items()):
        if path.startswith("package:"):
            digests[f"benchmark {name}"] = digest(package_file(path.removeprefix("package:")))
        else:
            digests[f"benchmark {name}"] = digest(Path(path)) if Path(path).is_file() else path
    return digests


def strings_to_search(chosen: DecontaminationConfig) -> Strings:
    """The strings of every benchmark: those of the cache as they are, the others read."""
    known = read_lists(Path(chosen.cache) / BENCHMARKS) if chosen.cache is not None else {}
    paths = {name: benchmark.path for name, benchmark in chosen.benchmarks.items()}
    return search_strings(paths, chosen.apps_solutions, known)


def read_lists(path: Path) -> Strings:
    """The lists that an earlier search wrote. Errors: UserError if the file holds no lists of strings."""
    lists = read_json(path)
    well_formed = isinstance(lists, dict) and all(
        isinstance(texts, list) and all(isinstance(text, str) for text in texts) for texts in lists.values()
    )
    if not well_formed:
        raise UserError(f"{path}: does not hold lists of strings")
    return lists


def find_leaks(rows: list[dict[str, Any]], strings: Strings, columns: list[str]) -> list[Leak | None]:
    """For each row the leak that decides, or None."""
    detector = SubstringDetector(strings)
    leaks = []
    with meter("decontaminate", len(rows)) as progress:
        for row in rows:
            leaks.append(detector.verdict(row, columns))
            progress.advance()
    return leaks
