"""Find what a run of the generate stage reads, and check that it is there."""

from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

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
from magicoder.generation.evol_instruct import INSTRUCTIONS
from magicoder.generation.oss_instruct import SNIPPETS
from magicoder.runtime.errors import UserError
from magicoder.seeds.corpora import SUFFIXES
from magicoder.seeds.functions import GRAMMARS, find_grammar
from magicoder.seeds.local_code import normalize_licenses
from magicoder.storage.artifact import MANIFEST, ROWS, STARTED, find_owner
from magicoder.storage.files import Source, read_json
from magicoder.storage.inputs import digest_inputs, list_patterns, resolve_inputs
from magicoder.teacher.address import resolve_address
from magicoder.teacher.api_key import read_api_key


def check_teacher(settings: GenerateConfig) -> Iterator[str]:
    """Yield what is wrong with key, address and model of the teacher."""
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


def check_files(settings: GenerateConfig) -> Iterator[str]:
    """Yield folders, files, languages and licenses that are missing or unknown."""
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


def find_inputs(settings: GenerateConfig) -> tuple[dict[str, str], list[Source]]:
    """Return the digests of the inputs that bear identity, and everything that the run reads."""
    seeds = settings.data.generate
    tokenizer = {"tokenizer": identify_tokenizer(settings.teacher.tokenizer)}
    if isinstance(seeds, InstructionsConfig):
        inputs, files = _find_instructions(settings, seeds.evolve.instruction_files)
        return inputs | tokenizer, files
    inputs = {}
    reads: list[Source] = []
    if isinstance(seeds, LocalCodeConfig | RowsConfig) and seeds.path is not None:
        reads.append(Path(seeds.path))
    if isinstance(seeds, SnippetsConfig) and seeds.continue_from is not None:
        reads.append(Path(seeds.continue_from))
        (inputs["continue_from"],) = digest_inputs(reads[-1:]).values()
    return inputs | tokenizer, reads


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
