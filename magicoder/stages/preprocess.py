"""Turn rows of one format into instruction and response."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from magicoder.config import PreprocessConfig
from magicoder.curation.instructions import AUTO, FORMATS, RowFormat, describe_formats, recognize_formats
from magicoder.runtime.console import say
from magicoder.runtime.errors import UserError
from magicoder.storage.artifact import Artifact
from magicoder.storage.bad_rows import BadRows
from magicoder.storage.files import Columns, Source, list_names, read_rows, scan_rows
from magicoder.storage.formats import Fault
from magicoder.storage.inputs import digest_inputs, name_input, resolve_inputs
from magicoder.storage.rejected import Rejection


def validate(settings: PreprocessConfig) -> list[str]:
    """List an unknown format, names of columns that it does not have, and missing input files."""
    key = settings.data.preprocess.key
    if key not in (*FORMATS, AUTO):
        return [f"data.preprocess.key={key}: choose one of {', '.join((*FORMATS, AUTO))}"]
    renamed = settings.data.preprocess.columns if isinstance(settings.data.preprocess.columns, dict) else {}
    known = list_columns(FORMATS.values() if key == AUTO else [FORMATS[key]])
    problems = [
        f"data.preprocess.columns.{column}: key={key} reads no such column; it reads {', '.join(known)}"
        for column in renamed
        if column not in known
    ]
    try:
        resolve_inputs(list_inputs(settings), made_by=name_predecessor(settings))
    except UserError as error:
        problems += error.problems
    return problems


def list_columns(formats: Iterable[RowFormat]) -> list[str]:
    """List the columns that formats read."""
    return list(dict.fromkeys(name for each in formats for name in (*each.columns, *each.nested, *each.optional)))


def list_inputs(settings: PreprocessConfig) -> str | list[str]:
    """Return the files that are named, or the directories that the format is made from by default."""
    chosen = settings.data.preprocess
    if chosen.data_files is not None:
        return chosen.data_files
    if chosen.key == "combine":
        keys = (key for key in (*FORMATS, AUTO) if key != "combine")
        directories = (Path(settings.root) / "preprocess" / key for key in keys)
        return [str(directory) for directory in directories if directory.exists()]
    return [f"{settings.root}/decontaminate"]


def name_predecessor(settings: PreprocessConfig) -> str:
    """Return the stage that writes the input of the format."""
    return "preprocess" if settings.data.preprocess.key == "combine" else "decontaminate"


def run(settings: PreprocessConfig) -> None:
    """Write one pair a row. Errors: UserError naming the rows that give none, unless they are rejected."""
    sources = resolve_inputs(list_inputs(settings), made_by=name_predecessor(settings), stage="preprocess")
    with Artifact(settings, digest_inputs(sources), reads=sources) as artifact:
        if artifact.complete:
            artifact.announce_complete()
            return
        bad = BadRows("data.preprocess", settings.data.preprocess.bad_rows)
        artifact.finish_rows(convert_sources(settings, sources, bad), bad.rejected)


def convert_sources(settings: PreprocessConfig, sources: list[Source], bad: BadRows) -> Iterator[dict[str, Any]]:
    """Yield the pair of each row; keep rows without one in `bad`. Errors: as `BadRows`, and of `choose_format`."""
    renamed = settings.data.preprocess.columns or {}
    for source in sources:
        row_format = choose_format(settings, source)
        groups = (row_format.columns, row_format.optional, row_format.nested)
        theirs = Columns(*(tuple(renamed.get(column, column) for column in group) for group in groups))
        for entry in bad.read(source, theirs):
            pair = row_format.convert(rename_columns(entry.value, renamed), settings.prompt.instruction)
            if isinstance(pair, Rejection):
                bad.add(source, entry, Fault(pair.reason, str(pair.evidence)))
            else:
                yield pair
    bad.refuse_if_nothing_left()


def choose_format(settings: PreprocessConfig, source: Source) -> RowFormat:
    """Return the format that the key names, or the only one that fits the columns of the source's first row.

    Errors: UserError if none fits, or several do.
    """
    key = settings.data.preprocess.key
    if key != AUTO:
        return FORMATS[key]
    first = next((entry.value for entry in scan_rows(source, Columns()) if entry.fault is None), None)
    if first is None:
        first = next(read_rows(source))  # raises, and names the bad rows
    columns = rename_columns(first, settings.data.preprocess.columns or {})
    names = recognize_formats(set(columns))
    if len(names) != 1:
        fits = f"fit several formats: {', '.join(names)}" if names else "fit no known format"
        raise UserError(
            f"{source}: its columns ({list_names(first)}) {fits}; choose data.preprocess.key, or name columns "
            f"with data.preprocess.columns={{OURS: THEIRS}}; known are {describe_formats()}"
        )
    say(f"preprocess: {name_input(source)} is read as {names[0]}")
    return FORMATS[names[0]]


def rename_columns(row: dict[str, Any], renamed: dict[str, str]) -> dict[str, Any]:
    """Return a row with our names of its columns. renamed: ours -> theirs."""
    if not renamed:
        return row
    kept = {name: value for name, value in row.items() if name not in renamed and name not in renamed.values()}
    return {**kept, **{ours: row[theirs] for ours, theirs in renamed.items() if theirs in row}}
