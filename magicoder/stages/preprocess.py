"""Turn rows of one format into instruction and response."""

from collections.abc import Iterable, Iterator
from itertools import islice
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

HEADS = 100
"""Rows at the beginning of a source that show its columns."""


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
    for source in sources:
        # A second look at the beginning, only where it decides something.
        needs_heads = settings.data.preprocess.key == AUTO or settings.data.preprocess.columns
        heads = read_heads(source) if needs_heads else []
        renamed = choose_names(settings, heads)
        row_format = choose_format(settings, source, heads)
        groups = (row_format.columns, row_format.optional, row_format.nested)
        theirs = Columns(*(tuple(renamed.get(column, column) for column in group) for group in groups))
        for entry in bad.read(source, theirs):
            pair = row_format.convert(rename_columns(entry.value, renamed), settings.prompt.instruction)
            if isinstance(pair, Rejection):
                bad.add(source, entry, Fault(pair.reason, str(pair.evidence)))
            else:
                yield pair
    bad.refuse_if_nothing_left()


def read_heads(source: Source) -> list[dict[str, Any]]:
    """Return the first rows of a source, which show its columns; some of them may be bad."""
    return [entry.value for entry in islice(scan_rows(source, Columns()), HEADS) if entry.fault is None]


def choose_names(settings: PreprocessConfig, heads: list[dict[str, Any]]) -> dict[str, str]:
    """Return the configured names of columns (ours -> theirs) that a source has; a file with ours keeps them."""
    renamed = settings.data.preprocess.columns or {}
    columns = {name for row in heads for name in row}
    return {ours: theirs for ours, theirs in renamed.items() if theirs in columns or ours not in columns}


def choose_format(settings: PreprocessConfig, source: Source, heads: list[dict[str, Any]]) -> RowFormat:
    """Return the format that the key names, or the only one that fits the columns of the source's first rows.

    Errors: UserError if none fits, or several do.
    """
    key = settings.data.preprocess.key
    if key != AUTO:
        return FORMATS[key]
    first = heads[0] if heads else next(read_rows(source))  # raises, and names the bad rows
    renamed = choose_names(settings, heads)
    # Columns that hold nothing say nothing; a first row may be a bad one.
    filled = ({name for name, value in rename_columns(row, renamed).items() if value is not None} for row in heads)
    names = next((names for columns in filled if (names := recognize_formats(columns))), [])
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
    present = {ours: theirs for ours, theirs in renamed.items() if theirs in row}
    kept = {name: value for name, value in row.items() if name not in present and name not in present.values()}
    return {**kept, **{ours: row[theirs] for ours, theirs in present.items()}}
