"""Generated rows joined, shuffled and rid of duplicates."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from magicoder.artifact import ROWS, Artifact, expand, input_digests
from magicoder.config import Clean
from magicoder.data.duplicates import COLUMNS, ExactDuplicates, analysis, shuffled
from magicoder.errors import UserError
from magicoder.files import read_rows, write_json


def problems(settings: Clean) -> list[str]:
    """Input files that are not there or whose language cannot be told."""
    try:
        files = expand(settings.data.clean.data_files, made_by="generate")
    except UserError as error:
        return error.problems
    return [f"{path}: no language in its name; call it data-LANGUAGE-..." for path in files if language(path) is None]


def run(settings: Clean) -> None:
    """Write the kept rows in their shuffled order, the rejected ones by reason, and `analysis.json`."""
    files = expand(settings.data.clean.data_files, made_by="generate")
    artifact = Artifact(settings, input_digests(files))
    if artifact.complete:
        artifact.announce_complete()
        return
    rows = [{"lang": language(path), **row} for path in files for row in rows_of(path)]
    kept, rejected = divide(shuffled(rows, settings.data.clean.seed), settings.data.clean.no_filter)
    write_json(artifact.path("analysis.json"), analysis(kept, rejected))
    artifact.finish_rows(kept, rejected)


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of one input; a generate stage whose answers were all rejected has none."""
    return read_rows(path, COLUMNS, may_be_empty=path.name == ROWS)


def language(path: Path) -> str | None:
    """The second field of the name `data-LANGUAGE-...` of a file, or of a generate stage's directory."""
    name = path.resolve().parent.name if path.name == ROWS else path.name.split(".")[0]
    fields = name.split("-")
    return fields[1] if len(fields) > 1 else None


def divide(rows: list[dict[str, Any]], no_filter: bool) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows that stay, in order, and those that go, sorted by reason, each with its reason and evidence."""
    if no_filter:
        return rows, []
    duplicates = ExactDuplicates()
    kept, rejected = [], []
    for row in rows:
        verdict = duplicates.verdict(row)
        if verdict is None:
            kept.append(row)
        else:
            reason, original = verdict
            rejected.append({"reason": reason, **row, "evidence": original})
    return kept, sorted(rejected, key=lambda row: row["reason"])
