"""Generated rows joined, shuffled and rid of duplicates."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from magicoder.config import CleanConfig
from magicoder.curation.exact_duplicates import COLUMNS, ExactDuplicates, analysis, shuffled
from magicoder.runtime.errors import UserError
from magicoder.storage.artifact import MANIFEST, ROWS, Artifact, expand, input_digests, owner
from magicoder.storage.files import read_json, read_rows, write_json
from magicoder.storage.rejected import rejected


def validate(settings: CleanConfig) -> list[str]:
    """Input files that are not there or whose language cannot be told."""
    try:
        files = expand(settings.data.clean.data_files, made_by="generate")
    except UserError as error:
        return error.problems
    return [f"{path}: no language in its name; call it data-LANGUAGE-..." for path in files if language(path) is None]


def run(settings: CleanConfig) -> None:
    """Write the kept rows in their shuffled order, the rejected ones by reason, and `analysis.json`."""
    files = expand(settings.data.clean.data_files, made_by="generate")
    with Artifact(settings, input_digests(files), reads=files) as artifact:
        if artifact.complete:
            artifact.announce_complete()
            return
        rows = [row for path in files for row in rows_of(path)]
        kept, dropped = divide(shuffled(rows, settings.data.clean.seed), settings.data.clean.no_filter)
        write_json(artifact.path("analysis.json"), analysis(kept, dropped))
        artifact.finish_rows(kept, dropped)


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of one input, their language first; a generate stage whose answers were all rejected has none."""
    spoken = language(path)
    for row in read_rows(path, COLUMNS, may_be_empty=path.name == ROWS):
        yield {"lang": spoken, **row}


def language(path: Path) -> str | None:
    """The tag of the generate stage that wrote the file, else the second field of its name `data-LANGUAGE-...`."""
    manifest = path.with_name(MANIFEST)
    if path.name == ROWS and manifest.exists():
        return read_json(manifest)["config"]["data"]["generate"]["tag"] if owner(manifest) == "generate" else None
    fields = path.name.split(".")[0].split("-")
    return fields[1] if len(fields) > 1 else None


def divide(rows: list[dict[str, Any]], no_filter: bool) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows that stay, in order, and those that go, sorted by reason, each with its reason and evidence."""
    if no_filter:
        return rows, []
    duplicates = ExactDuplicates()
    kept, dropped = [], []
    for row in rows:
        verdict = duplicates.verdict(row)
        if verdict is None:
            kept.append(row)
        else:
            reason, original = verdict
            dropped.append(rejected(reason, row, original))
    return kept, sorted(dropped, key=lambda row: row["reason"])
