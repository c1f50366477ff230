"""Remove rows that contain a benchmark's text."""

from itertools import chain
from pathlib import Path
from typing import Any

from magicoder.config import DecontaminateConfig, DecontaminationConfig
from magicoder.curation.benchmarks import BENCHMARKS, Strings, collect_strings, count_by_language, find_package_file
from magicoder.curation.leaks import DETECTORS, Row
from magicoder.runtime.errors import UserError
from magicoder.runtime.progress import show_meter
from magicoder.storage.artifact import Artifact
from magicoder.storage.bad_rows import BadRows, read_sources
from magicoder.storage.files import Columns, digest, read_json, write_json
from magicoder.storage.inputs import digest_inputs, resolve_inputs
from magicoder.storage.rejected import Filter, Rejection

STRINGS = "benchmarks.json"


def validate(settings: DecontaminateConfig) -> list[str]:
    """List unknown benchmarks and detectors, and missing input, benchmark and cache files."""
    chosen = settings.data.decontaminate
    problems = []
    try:
        resolve_inputs(chosen.data_files, made_by="clean")
    except UserError as error:
        problems += error.problems
    for name, benchmark in chosen.benchmarks.items():
        key = f"data.decontaminate.benchmarks.{name}"
        if name not in BENCHMARKS:
            problems.append(f"{key}: unknown benchmark; known are {', '.join(BENCHMARKS)}")
        elif not benchmark.path.startswith(("hf://", "package:")) and not Path(benchmark.path).is_file():
            problems.append(f"{key}.path={benchmark.path}: no such file")
    unknown = [name for name in chosen.detectors if name not in DETECTORS]
    problems += [f"data.decontaminate.detectors: {name}: choose from {', '.join(DETECTORS)}" for name in unknown]
    if chosen.cache is not None and not (Path(chosen.cache) / STRINGS).is_file():
        problems.append(f"data.decontaminate.cache={chosen.cache}: has no {STRINGS}")
    return problems


def run(settings: DecontaminateConfig) -> None:
    """Write the clean rows, the rejected ones with the text they contain, and the original's three side files."""
    chosen = settings.data.decontaminate
    files = resolve_inputs(chosen.data_files, made_by="clean", stage="decontaminate")
    with Artifact(settings, {**digest_inputs(files), **digest_benchmarks(chosen)}, reads=files) as artifact:
        if artifact.complete:
            artifact.announce_complete()
            return
        bad = BadRows("data.decontaminate", chosen.bad_rows)
        rows = read_sources(bad, files, Columns(tuple(chosen.columns)))
        strings = load_strings(chosen)
        detectors = {name: DETECTORS[name](strings, chosen.columns) for name in chosen.detectors}
        verdicts = judge_rows(rows, list(detectors.values()))
        kept = [row for row, rejection in zip(rows, verdicts, strict=True) if rejection is None]
        leaks = [(row, rejection) for row, rejection in zip(rows, verdicts, strict=True) if rejection is not None]
        excluded: list[dict[str, Any]] = [
            {"data": row, "filter_reason": rejection.reason, "matched_substring": rejection.evidence}
            for row, rejection in leaks
        ]
        write_json(artifact.path(STRINGS), strings)
        write_json(artifact.path("excluded-data.json"), excluded)
        write_json(artifact.path("meta.json"), count_by_language(excluded))
        # A detector of one's own need not count.
        searched = {name: getattr(detector, "counts", None) for name, detector in detectors.items()}
        rejected = (rejection.as_row(row) for row, rejection in leaks)
        artifact.finish_rows(kept, chain(bad.rejected, rejected), searched=searched)


def digest_benchmarks(chosen: DecontaminationConfig) -> dict[str, str]:
    """Return the identity of each benchmark: the SHA-256 of a local file, else the address of a remote one."""
    digests: dict[str, str] = {}
    if chosen.cache is not None:
        digests[STRINGS] = digest(Path(chosen.cache) / STRINGS)
    for name, path in ((name, benchmark.path) for name, benchmark in chosen.benchmarks.items()):
        if path.startswith("package:"):
            digests[f"benchmark {name}"] = digest(find_package_file(path.removeprefix("package:")))
        else:
            digests[f"benchmark {name}"] = digest(Path(path)) if Path(path).is_file() else path
    return digests


def load_strings(chosen: DecontaminationConfig) -> Strings:
    """Return the strings of every benchmark: those of the cache as they are, the others extracted."""
    known = read_cached_strings(Path(chosen.cache) / STRINGS) if chosen.cache is not None else {}
    paths = {name: benchmark.path for name, benchmark in chosen.benchmarks.items()}
    return collect_strings(paths, with_optional=chosen.apps_solutions, known=known)


def read_cached_strings(path: Path) -> Strings:
    """Read the lists that an earlier search wrote. Errors: UserError if the file holds anything else."""
    lists = read_json(path)
    well_formed = isinstance(lists, dict) and all(
        isinstance(texts, list) and all(isinstance(text, str) for text in texts) for texts in lists.values()
    )
    if not well_formed:
        raise UserError(f"{path}: does not hold lists of strings")
    return lists


def judge_rows(rows: list[Row], detectors: list[Filter[Row]]) -> list[Rejection | None]:
    """Return the verdict on each row: the first rejection in the order of the detectors, or None."""
    verdicts = []
    with show_meter("decontaminate", len(rows)) as progress:
        for row in rows:
            rejections = (detector.verdict(row) for detector in detectors)
            verdicts.append(next((rejection for rejection in rejections if rejection is not None), None))
            progress.advance()
    return verdicts
