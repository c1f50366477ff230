"""Rows of one form become instruction and response."""

from pathlib import Path

from magicoder.config import PreprocessConfig
from magicoder.curation.instructions import FORMS
from magicoder.runtime.errors import UserError
from magicoder.storage.artifact import Artifact, expand, input_digests
from magicoder.storage.files import read_rows


def validate(settings: PreprocessConfig) -> list[str]:
    """Input files that are not there."""
    if settings.data.preprocess.key not in FORMS:
        return []  # said already, by the key's own check
    try:
        expand(inputs(settings), made_by=predecessor(settings))
    except UserError as error:
        return error.problems
    return []


def inputs(settings: PreprocessConfig) -> list[str]:
    """The files that are named, or the directories that hold what this form is made from."""
    chosen = settings.data.preprocess
    if chosen.data_files is not None:
        return chosen.data_files
    if chosen.key == "combine":
        directories = (Path(settings.root) / "preprocess" / key for key in FORMS if key != "combine")
        return [str(directory) for directory in directories if directory.exists()]
    return [f"{settings.root}/decontaminate"]


def predecessor(settings: PreprocessConfig) -> str:
    """The stage that writes what this form is made from."""
    return "preprocess" if settings.data.preprocess.key == "combine" else "decontaminate"


def run(settings: PreprocessConfig) -> None:
    """Write one pair a row; a row that lacks a column is an error that names it."""
    files = expand(inputs(settings), made_by=predecessor(settings))
    with Artifact(settings, input_digests(files), reads=files) as artifact:
        if artifact.complete:
            artifact.announce_complete()
            return
        columns, pair = FORMS[settings.data.preprocess.key]
        template = settings.prompt.instruction
        artifact.finish_rows((pair(row, template) for path in files for row in read_rows(path, columns)), rejected=())
