"""Turn rows of one format into instruction and response."""

from pathlib import Path

from magicoder.config import PreprocessConfig
from magicoder.curation.instructions import FORMATS
from magicoder.runtime.errors import UserError
from magicoder.storage.artifact import Artifact, digest_inputs, resolve_inputs
from magicoder.storage.files import read_rows


def validate(settings: PreprocessConfig) -> list[str]:
    """List an unknown format and missing input files."""
    key = settings.data.preprocess.key
    if key not in FORMATS:
        return [f"data.preprocess.key={key}: choose one of {', '.join(FORMATS)}"]
    try:
        resolve_inputs(list_inputs(settings), made_by=name_predecessor(settings))
    except UserError as error:
        return error.problems
    return []


def list_inputs(settings: PreprocessConfig) -> list[str]:
    """Return the files that are named, or the directories that the format is made from by default."""
    chosen = settings.data.preprocess
    if chosen.data_files is not None:
        return chosen.data_files
    if chosen.key == "combine":
        directories = (Path(settings.root) / "preprocess" / key for key in FORMATS if key != "combine")
        return [str(directory) for directory in directories if directory.exists()]
    return [f"{settings.root}/decontaminate"]


def name_predecessor(settings: PreprocessConfig) -> str:
    """Return the stage that writes the input of the format."""
    return "preprocess" if settings.data.preprocess.key == "combine" else "decontaminate"


def run(settings: PreprocessConfig) -> None:
    """Write one pair a row. Errors: UserError naming a row without a needed column."""
    files = resolve_inputs(list_inputs(settings), made_by=name_predecessor(settings))
    with Artifact(settings, digest_inputs(files), reads=files) as artifact:
        if artifact.complete:
            artifact.announce_complete()
            return
        row_format = FORMATS[settings.data.preprocess.key]
        template = settings.prompt.instruction
        rows = (row for path in files for row in read_rows(path, row_format.columns, optional=row_format.optional))
        artifact.finish_rows((row_format.convert(row, template) for row in rows), rejected=())
