"""Snippets of real code inspire a teacher to write problems with solutions, or instructions are made harder by it."""

import os
import tempfile
from pathlib import Path
from typing import Any

from magicoder import models
from magicoder.config import GenerateConfig
from magicoder.config.bounds import url_problems
from magicoder.generation import dry_run, summary
from magicoder.generation.oss_instruct import OssInstruct
from magicoder.runtime.errors import Unfinished, UserError
from magicoder.storage.artifact import MANIFEST, Artifact, expand, input_digests
from magicoder.storage.files import digest
from magicoder.teacher.api_key import api_key
from magicoder.teacher.session import TeacherSession
from magicoder.teacher.tokens import token_counter

ANSWERS = ("*journal*.jsonl", "results*.jsonl")
"""Where answers are that were paid for, or computed by a batch runner."""


def validate(settings: GenerateConfig) -> list[str]:
    """A key, a folder or a file that is not there."""
    found = []
    teacher, code = settings.teacher, settings.data.generate
    if not settings.dry_run and teacher.mode != "file" and not (Path(settings.out) / MANIFEST).exists():
        try:  # of a finished run only what has changed asks anything, and then the key is looked for again
            api_key(teacher)
        except UserError as error:
            found += error.problems
    if teacher.base_url is None and teacher.serve is None and (url := os.environ.get("OPENAI_BASE_URL")) is not None:
        found += [f"OPENAI_BASE_URL: {problem}" for problem in url_problems(url)]
    if code.source == "local" and code.path is not None and not Path(code.path).is_dir():
        found.append(f"data.generate.path={code.path}: no such folder")
    if code.evolve is not None:
        try:
            expand(code.evolve.instruction_files, made_by="preprocess")
        except UserError as error:
            found += error.problems
    if teacher.results is not None and not Path(teacher.results).is_file():
        found.append(f"teacher.results={teacher.results}: no such file")
    if code.continue_from is not None and not Path(code.continue_from).is_file():
        found.append(f"data.generate.continue_from={code.continue_from}: no such file")
    if teacher.serve is not None:
        try:
            if not Path(models.find(teacher.serve).location).is_dir():
                found.append(f"teacher.serve={teacher.serve}: is not on this machine; `hf download` can bring it")
        except UserError as error:
            found += [f"teacher.serve={problem}" for problem in error.problems]
    return found


def run(settings: GenerateConfig) -> None:
    """Ask the teacher for what its journal does not hold yet, then derive the rows from the journal."""
    code, teacher = settings.data.generate, settings.teacher
    # Ahead of the corpus, which may take long to read: a tokenizer that cannot be had is told at once.
    if settings.dry_run:
        with tempfile.TemporaryDirectory() as scratch:
            count_tokens = token_counter(teacher.tokenizer, teacher.model)
            dry_run.announce(settings, recipe(settings)(settings, Path(scratch), count_tokens).planned())
        return
    files = expand(code.evolve.instruction_files, made_by="preprocess") if code.evolve is not None else []
    inputs = input_digests(files)
    if code.continue_from is not None:
        inputs["continue_from"] = digest(Path(code.continue_from))
    reads = [*files, *(Path(path) for path in (code.continue_from, code.path) if path is not None)]
    with Artifact(settings, inputs, reads, progress=ANSWERS) as artifact:
        if artifact.complete:
            artifact.announce_complete()
            return
        count_tokens = token_counter(teacher.tokenizer, teacher.model)
        making = recipe(settings)(settings, artifact.directory, count_tokens)
        with TeacherSession(settings, artifact.directory) as session:
            try:
                making.ask(session)
            except Unfinished as waiting:
                print(f"generate: {waiting}")
                return
            summary.finish(settings, artifact, making.write(artifact), session)


def recipe(settings: GenerateConfig) -> Any:
    """What rows are made of: snippets of code, or instructions."""
    if settings.data.generate.source != "instructions":
        return OssInstruct
    from magicoder.generation.evol_instruct import EvolInstruct

    return EvolInstruct
