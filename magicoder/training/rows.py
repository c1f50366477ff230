"""The rows of a training: where each stands, what it is as tokens, and those from which nothing can be learnt."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy

from magicoder.runtime.errors import UserError
from magicoder.storage.artifact import REJECTED, input_name
from magicoder.storage.files import numbered_rows, write_rows
from magicoder.training import SEQUENCES
from magicoder.training.tokenization import Sequences, encode


def located(files: list[Path]) -> Iterator[tuple[Path, int, dict[str, Any]]]:
    """Each row with its file and its line there, counted from 1. Errors: UserError for a row without either side."""
    for path in files:
        for line, row in numbered_rows(path, ("instruction", "response")):
            yield path, line, row


def places(files: list[Path], numbers: tuple[int, ...]) -> list[str]:
    """Where the rows of these numbers stand, counted from 0 over all files."""
    wanted = set(numbers)
    return [f"{input_name(path)}:{line}" for number, (path, line, _) in enumerate(located(files)) if number in wanted]


def prepare(files: list[Path], tokenizer: Any, template: str, limit: int, directory: Path) -> None:
    """Encode all rows into `directory`, unless a run that was killed has done so; write `rejected.jsonl` there.

    Errors: UserError if a row has no instruction or response, or if no row has anything to learn within `limit` tokens.
    """
    folder = directory / SEQUENCES
    if folder.exists():
        sequences = Sequences(folder)
    else:
        sequences = encode((row for _, _, row in located(files)), tokenizer, template, limit, folder)
    counts = sequences.counts
    if counts.unsupervised == counts.rows:
        raise UserError(f"train.max_training_seq_length={limit}: leaves nothing to learn in any row")
    if counts.cut:
        print(f"train: {counts.cut} of {counts.rows} rows were cut to max_training_seq_length={limit}")
    if counts.unsupervised:
        print(f"train: {counts.unsupervised} rows have only prompt left: nothing is learnt from them")
    write_rows(directory / REJECTED, _rejected(files, sequences, limit))


def _rejected(files: list[Path], sequences: Sequences, limit: int) -> Iterator[dict[str, Any]]:
    if not sequences.counts.unsupervised:
        return
    learnt = sequences.supervised(numpy.arange(len(sequences)))
    for number, (path, line, row) in enumerate(located(files)):
        if not learnt[number]:
            evidence = {"file": input_name(path), "line": line, "limit": limit}
            yield {**row, "reason": "nothing to learn", "evidence": evidence}
