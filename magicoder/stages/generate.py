"""Ask a teacher to write problems with solutions inspired by real code, or to make instructions harder."""

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from magicoder import models
from magicoder.config import GenerateConfig, InstructionsConfig, LocalCodeConfig, SnippetsConfig
from magicoder.config.bounds import find_url_problems
from magicoder.generation.dry_run import show_plan
from magicoder.generation.evol_instruct import EvolInstruct
from magicoder.generation.oss_instruct import OssInstruct
from magicoder.generation.summary import RunSummary, finish_run
from magicoder.runtime.console import say
from magicoder.runtime.errors import Unfinished, UserError
from magicoder.seeds.corpora import SUFFIXES
from magicoder.seeds.local_code import normalize_licenses
from magicoder.storage.artifact import MANIFEST, Artifact, digest_inputs, resolve_inputs
from magicoder.storage.files import Source
from magicoder.teacher.api_key import read_api_key
from magicoder.teacher.journal import has_billable_records
from magicoder.teacher.records import PromptTooLong
from magicoder.teacher.requests import Request
from magicoder.teacher.session import TeacherSession
from magicoder.teacher.tokens import load_token_counter


class Recipe(Protocol):
    """A way to generate rows: it plans requests, asks a teacher, and derives rows from the journal."""

    def plan(self) -> Iterator[Request | PromptTooLong]:
        """Yield the requests that a fresh run sends first."""

    def ask(self, session: TeacherSession) -> None:
        """Journal the outcome of every request."""

    def write(self, artifact: Artifact) -> RunSummary:
        """Derive the rows."""


RECIPES: dict[str, Callable[[GenerateConfig, Path, Callable[[str], int]], Recipe]] = {
    "hub": OssInstruct,
    "local": OssInstruct,
    "instructions": EvolInstruct,
}
"""The recipe for each `data.generate.source`."""


def validate(settings: GenerateConfig) -> list[str]:
    """List keys, folders and files that are missing."""
    return [*_check_teacher(settings), *_check_files(settings)]


def _check_teacher(settings: GenerateConfig) -> Iterator[str]:
    teacher = settings.teacher
    # A finished run asks again only after a change, and then the session looks for the key.
    if not settings.dry_run and teacher.mode != "file" and not (Path(settings.out) / MANIFEST).exists():
        try:
            read_api_key(teacher)
        except UserError as error:
            yield from error.problems
    url = os.environ.get("OPENAI_BASE_URL")
    if teacher.base_url is None and teacher.serve_model is None and url is not None:
        yield from (f"OPENAI_BASE_URL: {problem}" for problem in find_url_problems(url))
    if teacher.serve_model is not None:
        try:
            if not Path(models.find_source(teacher.serve_model).location).is_dir():
                yield f"teacher.serve_model={teacher.serve_model}: is not on this machine; `hf download` can bring it"
        except UserError as error:
            yield from (f"teacher.serve_model={problem}" for problem in error.problems)


def _check_files(settings: GenerateConfig) -> Iterator[str]:
    teacher, seeds = settings.teacher, settings.data.generate
    if isinstance(seeds, LocalCodeConfig):
        if seeds.path is not None and not Path(seeds.path).is_dir():
            yield f"data.generate.path={seeds.path}: no such folder"
        if seeds.data_dir not in SUFFIXES:
            yield f"data.generate.data_dir={seeds.data_dir}: choose one of {', '.join(SUFFIXES)}"
        try:
            normalize_licenses(seeds.licenses or [])
        except UserError as error:
            yield from error.problems
    if isinstance(seeds, InstructionsConfig):
        try:
            resolve_inputs(seeds.evolve.instruction_files, made_by="preprocess")
        except UserError as error:
            yield from error.problems
    if teacher.results_file is not None and not Path(teacher.results_file).is_file():
        yield f"teacher.results_file={teacher.results_file}: no such file"
    if (
        isinstance(seeds, SnippetsConfig)
        and seeds.continue_from is not None
        and not Path(seeds.continue_from).is_file()
    ):
        yield f"data.generate.continue_from={seeds.continue_from}: no such file"


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
    inputs, reads = _find_inputs(settings)
    with Artifact(settings, inputs, reads, has_progress=has_answers) as artifact:
        if artifact.complete:
            artifact.announce_complete()
            return
        # Before the corpus, which may take long to read: a missing tokenizer is reported at once.
        count_tokens = _load_counter(settings)
        recipe = make_recipe(settings, artifact.directory, count_tokens)
        with TeacherSession(settings, artifact.directory) as session:
            try:
                recipe.ask(session)
            except Unfinished as waiting:
                say(f"generate: {waiting}")
                return
            finish_run(settings, artifact, recipe.write(artifact), session)


def _load_counter(settings: GenerateConfig) -> Callable[[str], int]:
    return load_token_counter(settings.teacher.tokenizer, settings.teacher.model)


def _find_inputs(settings: GenerateConfig) -> tuple[dict[str, str], list[Source]]:
    """Return the digests of the inputs that bear identity, and everything that the run reads."""
    seeds = settings.data.generate
    if isinstance(seeds, InstructionsConfig):
        files = resolve_inputs(seeds.evolve.instruction_files, made_by="preprocess", stage="generate")
        return digest_inputs(files), files
    inputs: dict[str, str] = {}
    reads: list[Source] = []
    if isinstance(seeds, LocalCodeConfig) and seeds.path is not None:
        reads.append(Path(seeds.path))
    if isinstance(seeds, SnippetsConfig) and seeds.continue_from is not None:
        reads.append(Path(seeds.continue_from))
        (inputs["continue_from"],) = digest_inputs(reads[-1:]).values()
    return inputs, reads
