"""Join generated rows, shuffle them, and remove duplicates."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from magicoder.config import CleanConfig
from magicoder.curation.exact_duplicates import COLUMNS, ExactDuplicates, count_analysis, shuffle_rows
from magicoder.runtime.console import say
from magicoder.runtime.errors import UserError
from magicoder.storage.artifact import MANIFEST, ROWS, Artifact, digest_inputs, find_owner, resolve_inputs
from magicoder.storage.files import read_json, read_rows, write_json


def validate(settings: CleanConfig) -> list[str]:
    """List missing input files, and files whose name holds no language."""
    try:
        files, _ = find_inputs(settings)
    except UserError as error:
        return error.problems
    return [
        f"{path}: no language in its name; call it data-LANGUAGE-..." for path in files if find_language(path) is None
    ]


def run(settings: CleanConfig) -> None:
    """Write the kept rows in their shuffled order, the rejected ones by reason, and `analysis.json`."""
    files, evolved = find_inputs(settings)
    for path in evolved:
        say(f"clean: {path.parent} is left out: evolved instructions have no problem and solution", error=True)
    with Artifact(settings, digest_inputs(files), reads=files) as artifact:
        if artifact.complete:
            artifact.announce_complete()
            return
        rows = [row for path in files for row in read_input(path)]
        kept, dropped = split_rows(shuffle_rows(rows, settings.data.clean.seed), settings.data.clean.no_filter)
        write_json(artifact.path("analysis.json"), count_analysis(kept, dropped))
        artifact.finish_rows(kept, dropped)


def find_inputs(settings: CleanConfig) -> tuple[list[Path], list[Path]]:
    """Return the files to clean, and files of evolved instructions that a pattern matches as well.

    Errors: UserError naming everything that is missing, or if nothing remains.
    """
    patterns = settings.data.clean.data_files
    found = resolve_inputs(patterns, made_by="generate")
    named = {Path(pattern) for pattern in patterns}
    evolved = [path for path in found if not named & {path, path.parent} and is_evolved(path)]
    files = [path for path in found if path not in evolved]
    if not files:
        raise UserError("data.clean.data_files: only evolved instructions match; stage=preprocess reads them")
    return files, evolved


def is_evolved(path: Path) -> bool:
    """Return whether a file holds the rows of an Evol-Instruct run."""
    manifest = path.with_name(MANIFEST)
    if path.name != ROWS or not manifest.exists() or find_owner(manifest) != "generate":
        return False
    return read_json(manifest)["config"]["data"]["generate"].get("source") == "instructions"


def read_input(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of one input, their language first; a generate stage whose answers were all rejected has none."""
    language = find_language(path)
    for row in read_rows(path, COLUMNS, may_be_empty=path.name == ROWS):
        yield {"lang": language, **row}


def find_language(path: Path) -> str | None:
    """Return the tag of the generate stage that wrote the file, else the second field of `data-LANGUAGE-...`."""
    manifest = path.with_name(MANIFEST)
    if path.name == ROWS and manifest.exists():
        return read_json(manifest)["config"]["data"]["generate"]["tag"] if find_owner(manifest) == "generate" else None
    fields = path.name.split(".")[0].split("-")
    return fields[1] if len(fields) > 1 else None


def split_rows(rows: list[dict[str, Any]], no_filter: bool) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the kept rows in order, and the rejected ones sorted by reason, each with reason and evidence."""
    if no_filter:
        return rows, []
    duplicates = ExactDuplicates()
    kept, dropped = [], []
    for row in rows:
        rejection = duplicates.verdict(row)
        if rejection is None:
            kept.append(row)
        else:
            dropped.append(rejection.as_row(row))
    return kept, sorted(dropped, key=lambda row: row["reason"])
