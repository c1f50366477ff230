"""Read the rows of a training, tokenize them, and reject those without a supervised token."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy

from magicoder.config import TrainConfig
from magicoder.runtime.console import say
from magicoder.runtime.errors import UserError
from magicoder.storage.artifact import REJECTED
from magicoder.storage.files import Source, read_numbered_rows, write_rows
from magicoder.storage.inputs import name_input
from magicoder.training import SEQUENCES
from magicoder.training.distributed import World
from magicoder.training.tokenization import Sequences, tokenize_rows

ADVICE = "stage=preprocess data.preprocess.key=combine data.preprocess.bad_rows=reject leaves bad rows out"


def read_pairs(files: list[Source]) -> Iterator[tuple[Source, int, dict[str, Any]]]:
    """Yield each row with its file and line, counted from 1. Errors: UserError for a row without either side."""
    for path in files:
        for line, row in read_numbered_rows(path, ("instruction", "response"), advice=ADVICE):
            yield path, line, row


def name_rows(files: list[Source], numbers: tuple[int, ...]) -> list[str]:
    """Return file and line of the rows with these numbers, counted from 0 over all files."""
    wanted = set(numbers)
    return [
        f"{name_input(path)}:{line}" for number, (path, line, _) in enumerate(read_pairs(files)) if number in wanted
    ]


def prepare_sequences(settings: TrainConfig, files: list[Source], tokenizer: Any, world: World) -> Sequences:
    """Tokenize all rows in the first process, and map them in every process.

    Errors: UserError if the tokenizer has no end token, or as `write_sequences`.
    """
    if tokenizer.eos_token_id is None:
        raise UserError(f"model.key={settings.model.key}: the tokenizer has no end token, so no answer would ever end")
    directory, limit = Path(settings.out), settings.train.max_training_seq_length
    world.run_on_first(lambda: write_sequences(files, tokenizer, settings.prompt.template, limit, directory))
    sequences = Sequences(directory / SEQUENCES)
    if len(sequences) < settings.train.sequences_per_update:
        say(f"train: {len(sequences)} rows are fewer than global_batch_size: an epoch is one update of all of them")
    return sequences


def write_sequences(files: list[Source], tokenizer: Any, template: str, limit: int, directory: Path) -> None:
    """Tokenize all rows into `directory`, unless a former run has; write `rejected.jsonl` there.

    limit: tokens of a sequence. Errors: UserError if a row has no instruction or response, or if no row has a
    supervised token within the limit.
    """
    folder = directory / SEQUENCES
    if folder.exists():
        sequences = Sequences(folder)
    else:
        sequences = tokenize_rows((row for _, _, row in read_pairs(files)), tokenizer, template, limit, folder)
    counts = sequences.counts
    if counts.unsupervised == counts.rows:
        raise UserError(f"train.max_training_seq_length={limit}: leaves no supervised token in any row")
    if counts.cut:
        say(f"train: {counts.cut} of {counts.rows} rows were truncated to max_training_seq_length={limit}")
    if counts.unsupervised:
        say(f"train: {counts.unsupervised} rows have no supervised token after truncation and are rejected")
    write_rows(directory / REJECTED, _list_rejected(files, sequences, limit))


def _list_rejected(files: list[Source], sequences: Sequences, limit: int) -> Iterator[dict[str, Any]]:
    if not sequences.counts.unsupervised:
        return
    supervised = sequences.count_supervised(numpy.arange(len(sequences)))
    for number, (path, line, row) in enumerate(read_pairs(files)):
        if not supervised[number]:
            evidence = {"file": name_input(path), "line": line, "limit": limit}
            yield {**row, "reason": "nothing to learn", "evidence": evidence}
