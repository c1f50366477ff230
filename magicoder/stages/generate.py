"""Ask a teacher to write problems with solutions inspired by real code, or to make instructions harder."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from magicoder.config import GenerateConfig
from magicoder.generation.dry_run import show_plan
from magicoder.generation.evol_instruct import EvolInstruct
from magicoder.generation.inputs import check_files, check_teacher, find_inputs
from magicoder.generation.oss_instruct import OssInstruct
from magicoder.generation.summary import RunSummary, finish_run, report_unfinished
from magicoder.runtime.console import say
from magicoder.runtime.errors import Interrupted, Unfinished, UserError
from magicoder.storage.artifact import Artifact
from magicoder.teacher.journal import has_billable_records
from magicoder.teacher.records import PromptTooLong
from magicoder.teacher.requests import Request
from magicoder.teacher.session import TeacherSession
from magicoder.teacher.tokens import load_token_counter


class Recipe(Protocol):
    """A way to generate rows: it plans requests, asks a teacher, and derives rows from the journal."""

    def plan(self) -> Iterator[Request | PromptTooLong]:
        """Yield the requests that a fresh run sends first."""

    def open(self, session: TeacherSession) -> None:
        """Open the journals."""

    def ask(self, session: TeacherSession) -> None:
        """Journal the outcome of every request."""

    def write(self, artifact: Artifact) -> RunSummary:
        """Derive the rows."""


RECIPES: dict[str, Callable[[GenerateConfig, Path, Callable[[str], int]], Recipe]] = {
    "hub": OssInstruct,
    "local": OssInstruct,
    "rows": OssInstruct,
    "instructions": EvolInstruct,
}
"""The recipe for each `data.generate.source`."""


def validate(settings: GenerateConfig) -> list[str]:
    """List keys, folders and files that are missing."""
    return [*check_teacher(settings), *check_files(settings)]


def has_answers(directory: Path) -> bool:
    """Return whether a directory holds answers, requests that may be billed, or the results of a batch runner."""
    if any(path.stat().st_size for path in directory.glob("results*.jsonl")):
        return True
    return any(has_billable_records(path) for path in directory.glob("*journal*.jsonl"))


def run(settings: GenerateConfig) -> None:
    """Ask the teacher for everything that the journal lacks, then derive the rows from the journal."""
    make_recipe = RECIPES[settings.data.generate.source]
    if settings.dry_run:
        with tempfile.TemporaryDirectory() as scratch:
            show_plan(settings, make_recipe(settings, Path(scratch), _load_counter(settings)).plan())
        return
    inputs, reads = find_inputs(settings)
    with Artifact(settings, inputs, reads, has_progress=has_answers) as artifact:
        if artifact.complete:
            artifact.announce_complete()
            return
        # Before the corpus, which may take long to read: a missing tokenizer is reported at once.
        count_tokens = _load_counter(settings)
        recipe = make_recipe(settings, artifact.directory, count_tokens)
        if (teacher := settings.teacher).api_key_env is not None and teacher.known_price is None:
            hint = "teacher.price.input=1 teacher.price.output=2 (dollars for a million tokens) counts it"
            say(f"the price of {teacher.model} is unknown, so the cost is not counted; {hint}", error=True)
        with TeacherSession(settings, artifact.directory) as session:
            recipe.open(session)
            try:
                recipe.ask(session)
            except Unfinished as waiting:
                say(f"generate: {waiting}")
                return
            except (UserError, Interrupted):
                if session.has_answers:  # otherwise there is nothing to show, and former rows must stay
                    report_unfinished(settings, artifact, recipe.write(artifact), session)
                raise
            finish_run(settings, artifact, recipe.write(artifact), session)


def _load_counter(settings: GenerateConfig) -> Callable[[str], int]:
    return load_token_counter(settings.teacher.tokenizer, settings.teacher.model)
