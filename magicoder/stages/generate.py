"""Ask a teacher to write problems with solutions inspired by real code, or to make instructions harder."""

import tempfile
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Protocol

from magicoder import models
from magicoder.config import (
    GenerateConfig,
    HubCodeConfig,
    InstructionsConfig,
    LocalCodeConfig,
    RowsConfig,
    SeedsConfig,
    SnippetsConfig,
)
from magicoder.config.identity import identify_tokenizer
from magicoder.generation.dry_run import show_plan
from magicoder.generation.evol_instruct import INSTRUCTIONS, EvolInstruct
from magicoder.generation.oss_instruct import SNIPPETS, OssInstruct
from magicoder.generation.summary import RunSummary, finish_run, report_unfinished
from magicoder.runtime.console import say
from magicoder.runtime.errors import Interrupted, Unfinished, UserError
from magicoder.seeds.corpora import SUFFIXES
from magicoder.seeds.functions import GRAMMARS, find_grammar
from magicoder.seeds.local_code import normalize_licenses
from magicoder.storage.artifact import (
    MANIFEST,
    ROWS,
    STARTED,
    Artifact,
    digest_inputs,
    find_owner,
    list_patterns,
    resolve_inputs,
)
from magicoder.storage.files import Source, read_json
from magicoder.teacher.address import resolve_address
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
    "rows": OssInstruct,
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
    if teacher.serve_model is None and not all(teacher.base_urls):
        try:
            resolve_address(None)
        except UserError as error:
            yield from error.problems
    if teacher.serve_model is not None:
        try:
            if not Path(models.find_source(teacher.serve_model).location).is_dir():
                yield f"teacher.serve_model={teacher.serve_model}: is not on this machine; `hf download` can bring it"
        except UserError as error:
            yield from (f"teacher.serve_model={problem}" for problem in error.problems)


def _check_files(settings: GenerateConfig) -> Iterator[str]:
    teacher, seeds = settings.teacher, settings.data.generate
    yield from _check_seeds(seeds)
    if not _has_snapshot(settings):
        yield from _find_missing_seeds(settings)
    if teacher.results_file is not None and not Path(teacher.results_file).is_file():
        yield f"teacher.results_file={teacher.results_file}: no such file"
    if (
        isinstance(seeds, SnippetsConfig)
        and seeds.continue_from is not None
        and not Path(seeds.continue_from).is_file()
    ):
        yield f"data.generate.continue_from={seeds.continue_from}: no such file"


def _check_seeds(seeds: SeedsConfig) -> Iterator[str]:
    """Yield languages and licenses that are not known."""
    if isinstance(seeds, LocalCodeConfig):
        for language in map(str, seeds.languages if seeds.suffixes is None else ()):
            if language not in SUFFIXES:
                yield (
                    f"data.generate.data_dir={language}: choose one of {', '.join(SUFFIXES)}; "
                    "for another language give its suffixes: data.generate.suffixes=[.go]"
                )
        try:
            normalize_licenses(seeds.licenses or [])
        except UserError as error:
            yield from error.problems
    if isinstance(seeds, HubCodeConfig | LocalCodeConfig) and seeds.unit == "functions":
        languages = seeds.languages if isinstance(seeds, LocalCodeConfig) else [seeds.data_dir or seeds.tag]
        for language in languages:
            if find_grammar(str(language)) is None:
                known = ", ".join(name for name in GRAMMARS if name != "tsx")
                yield f"data.generate.unit=functions: the grammar of {language} is not known; those of {known} are"


def _has_snapshot(settings: GenerateConfig) -> bool:
    """Return whether the directory holds what was drawn: the run then reads neither folder nor file of seeds again."""
    out = Path(settings.out)
    if settings.dry_run or settings.overwrite or not any(find_owner(out / name) for name in (MANIFEST, STARTED)):
        return False
    return (out / (INSTRUCTIONS if isinstance(settings.data.generate, InstructionsConfig) else SNIPPETS)).exists()


def _find_missing_seeds(settings: GenerateConfig) -> Iterator[str]:
    """Yield folders and files of seeds that do not exist."""
    seeds = settings.data.generate
    if isinstance(seeds, LocalCodeConfig) and seeds.path is not None and not Path(seeds.path).is_dir():
        yield f"data.generate.path={seeds.path}: no such folder"
    if isinstance(seeds, RowsConfig) and not Path(seeds.path).is_file():
        yield f"data.generate.path={seeds.path}: no such file"
    if isinstance(seeds, InstructionsConfig):
        try:
            resolve_inputs(seeds.evolve.instruction_files, made_by="preprocess")
        except UserError as error:
            yield from error.problems


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
    inputs["tokenizer"] = identify_tokenizer(settings.teacher.tokenizer)
    with Artifact(settings, inputs, reads, has_progress=has_answers) as artifact:
        if artifact.complete:
            artifact.announce_complete()
            return
        # Before the corpus, which may take long to read: a missing tokenizer is reported at once.
        count_tokens = _load_counter(settings)
        recipe = make_recipe(settings, artifact.directory, count_tokens)
        if (teacher := settings.teacher).api_key_env is not None and teacher.known_price is None:
            hint = "teacher.price={input: 1.0, output: 2.0} (dollars for a million tokens) counts and bounds it"
            say(f"the price of {teacher.model} is unknown, so the cost is not counted; {hint}", error=True)
        with TeacherSession(settings, artifact.directory) as session:
            try:
                recipe.ask(session)
            except Unfinished as waiting:
                say(f"generate: {waiting}")
                return
            except (UserError, Interrupted):
                report_unfinished(settings, artifact, recipe.write(artifact), session)
                raise
            finish_run(settings, artifact, recipe.write(artifact), session)


def _load_counter(settings: GenerateConfig) -> Callable[[str], int]:
    return load_token_counter(settings.teacher.tokenizer, settings.teacher.model)


def _find_inputs(settings: GenerateConfig) -> tuple[dict[str, str], list[Source]]:
    """Return the digests of the inputs that bear identity, and everything that the run reads."""
    seeds = settings.data.generate
    if isinstance(seeds, InstructionsConfig):
        return _find_instructions(settings, seeds.evolve.instruction_files)
    inputs: dict[str, str] = {}
    reads: list[Source] = []
    if isinstance(seeds, LocalCodeConfig | RowsConfig) and seeds.path is not None:
        reads.append(Path(seeds.path))
    if isinstance(seeds, SnippetsConfig) and seeds.continue_from is not None:
        reads.append(Path(seeds.continue_from))
        (inputs["continue_from"],) = digest_inputs(reads[-1:]).values()
    return inputs, reads


def _find_instructions(settings: GenerateConfig, patterns: str | list[str]) -> tuple[dict[str, str], list[Source]]:
    """Return the digests of the instruction files, and the files.

    Where they are gone and the snapshot holds their instructions, the digests are those that the run began with.
    """
    try:
        files = resolve_inputs(patterns, made_by="preprocess", stage="generate")
    except UserError:
        if not _has_snapshot(settings) or (former := _read_inputs(Path(settings.out), patterns)) is None:
            raise
        return former, []
    return digest_inputs(files), files


def _read_inputs(out: Path, patterns: str | list[str]) -> dict[str, str] | None:
    """Return the inputs that a run in `out` noted; None unless each pattern names some of them."""
    noted = next(out / name for name in (MANIFEST, STARTED) if (out / name).exists())
    inputs = read_json(noted).get("inputs")
    if not isinstance(inputs, dict):
        return None
    for pattern in list_patterns(patterns):
        name = Path(pattern).name
        if not any(fnmatch(each, name) or fnmatch(each, f"{name}/{ROWS}") for each in inputs):
            return None
    return inputs
