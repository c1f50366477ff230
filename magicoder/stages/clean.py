"""Join generated rows, shuffle them, and remove duplicates."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from magicoder.config import CleanConfig
from magicoder.curation.exact_duplicates import COLUMNS, ExactDuplicates, count_analysis, shuffle_rows
from magicoder.runtime.console import say
from magicoder.runtime.errors import UserError
from magicoder.storage.artifact import MANIFEST, ROWS, Artifact, find_owner
from magicoder.storage.bad_rows import BadRows
from magicoder.storage.files import Columns, Source, read_json, scan_rows, write_json
from magicoder.storage.inputs import digest_inputs, list_patterns, resolve_inputs

HEADS = 100
"""Rows at the beginning of a source that show its columns."""


def validate(settings: CleanConfig) -> list[str]:
    """List missing input files, and files with a language neither in their name nor in their first row."""
    try:
        sources, _ = find_inputs(settings)
    except UserError as error:
        return error.problems
    return [
        f"{source}: no language in its name, and its first row has no lang; call it data-LANGUAGE-..., or give each "
        "row the column lang"
        for source in sources
        if isinstance(source, Path) and find_language(source) is None and has_row_without_language(source)
    ]


def run(settings: CleanConfig) -> None:
    """Write the kept rows in their shuffled order, the rejected ones by reason, and `analysis.json`."""
    chosen = settings.data.clean
    sources, evolved = find_inputs(settings, stage="clean")
    for path in evolved:
        say(f"clean: {path.parent} is left out: evolved instructions have no problem and solution", error=True)
    with Artifact(settings, digest_inputs(sources), reads=sources) as artifact:
        if artifact.complete:
            artifact.announce_complete()
            return
        bad = BadRows("data.clean", chosen.bad_rows)
        rows = [row for source in sources for row in read_input(source, bad)]
        bad.refuse_if_nothing_left()
        kept, dropped = split_rows(shuffle_rows(rows, chosen.seed), chosen.no_filter)
        write_json(artifact.path("analysis.json"), count_analysis(kept, dropped))
        artifact.finish_rows(kept, [*bad.rejected, *dropped])


def find_inputs(settings: CleanConfig, stage: str | None = None) -> tuple[list[Source], list[Path]]:
    """Return the sources to clean, and files of evolved instructions that a pattern matches as well.

    stage: as in `resolve_inputs`. Errors: UserError naming everything that is missing, or if nothing remains.
    """
    patterns = list_patterns(settings.data.clean.data_files)
    found = resolve_inputs(patterns, made_by="generate", stage=stage)
    named = set(map(Path, patterns))
    evolved = [
        path for path in found if isinstance(path, Path) and not named & {path, path.parent} and is_evolved(path)
    ]
    sources = [source for source in found if source not in evolved]
    if not sources:
        raise UserError("data.clean.data_files: only evolved instructions match; stage=preprocess reads them")
    return sources, evolved


def is_evolved(path: Path) -> bool:
    """Return whether a file holds the rows of an Evol-Instruct run."""
    manifest = path.with_name(MANIFEST)
    if path.name != ROWS or not manifest.exists() or find_owner(manifest) != "generate":
        return False
    return read_json(manifest)["config"]["data"]["generate"].get("source") == "instructions"


def has_row_without_language(path: Path) -> bool:
    """Return whether no row at the beginning of a file has `lang`. Errors of the file are left to the run."""
    try:
        heads = [entry.value for entry in islice(scan_rows(path, Columns()), HEADS) if entry.fault is None]
    except UserError:
        return False
    return bool(heads) and not any(row.get("lang") for row in heads)


def read_input(source: Source, bad: BadRows) -> Iterator[dict[str, Any]]:
    """Yield the rows of one source, their language first; a row's own `lang` precedes the language of its source.

    A generate stage whose answers were all rejected has none.
    """
    language = find_language(source)
    columns = Columns((*COLUMNS, "lang"), ()) if language is None else Columns(COLUMNS, ("lang",))
    may_be_empty = isinstance(source, Path) and source.name == ROWS
    for entry in bad.read(source, columns, may_be_empty=may_be_empty):
        row = {"lang": language, **entry.value}
        yield row if row["lang"] else {**row, "lang": language}


def find_language(source: Source) -> str | None:
    """Return the tag of the generate stage that wrote the file, else LANGUAGE of a name `data-LANGUAGE-...`.

    What begins with a digit is none: shards are called `data-00000-of-00001`.
    """
    if isinstance(source, Path) and source.name == ROWS and (manifest := source.with_name(MANIFEST)).exists():
        return read_json(manifest)["config"]["data"]["generate"]["tag"] if find_owner(manifest) == "generate" else None
    name = source.name if isinstance(source, Path) else (source.file or "").rpartition("/")[2]
    fields = name.split(".")[0].split("-")
    return fields[1] if fields[0] == "data" and len(fields) > 1 and fields[1][:1].isalpha() else None


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
