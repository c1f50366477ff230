"""Instruction pairs as token sequences, with the prompt's part marked as not supervised.

They are written to a folder and mapped into memory from there, so that the memory of a process does not grow with the
number of rows and the processes of one machine share them.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from magicoder.runtime.text import encodable
from magicoder.storage.files import TEMPORARY_PREFIX, sync_directory, sync_file

ROWS_AT_ONCE = 1000
TOKENS, ENDS, PROMPT_LENGTHS, COUNTS = "tokens.int32", "ends.int64", "prompt_lengths.int32", "counts.json"


@dataclass(frozen=True)
class Counts:
    """What was found while encoding.

    rows: how many. cut: longer than the limit. unsupervised: with nothing left to learn. longest: tokens of the longest
    sequence. largest_token: the highest token id.
    """

    rows: int = 0
    cut: int = 0
    unsupervised: int = 0
    longest: int = 0
    largest_token: int = 0


class Sequences:
    """All sequences end to end.

    tokens: int32 [tokens of all]. ends: int64 [rows], where each row's sequence ends in `tokens`.
    prompt_lengths: int32 [rows], leading tokens of each row that are given and not learnt.
    """

    def __init__(self, folder: Path) -> None:
        """Map what `encode` wrote to `folder`."""
        self.counts = Counts(**json.loads((folder / COUNTS).read_bytes()))
        self.tokens = _mapped(folder / TOKENS, numpy.int32)
        self.ends = _mapped(folder / ENDS, numpy.int64)
        self.prompt_lengths = _mapped(folder / PROMPT_LENGTHS, numpy.int32)

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.ends)

    def __getitem__(self, row: int) -> NDArray[numpy.int32]:
        """The tokens of one row."""
        return self.tokens[self.ends[row - 1] if row else 0 : self.ends[row]]

    def lengths(self, rows: NDArray[numpy.int64]) -> NDArray[numpy.int64]:
        """How many tokens each of `rows` has."""
        return self.ends[rows] - numpy.where(rows > 0, self.ends[rows - 1], 0)

    def supervised(self, rows: NDArray[numpy.int64]) -> NDArray[numpy.int64]:
        """How many tokens of each of `rows` are learnt; a sequence's first is predicted by nothing, prompt or not."""
        return numpy.maximum(self.lengths(rows) - numpy.maximum(self.prompt_lengths[rows], 1), 0)


def _mapped(path: Path, dtype: type) -> NDArray:
    return numpy.memmap(path, dtype, "r") if path.stat().st_size else numpy.empty(0, dtype)


def encode(rows: Iterable[dict[str, Any]], tokenizer: Any, template: str, limit: int, folder: Path) -> Sequences:
    """`[bos] + prompt | response + [eos]` for each row, cut on the right to `limit` tokens, written whole to `folder`.

    Prompt and response are encoded apart and without special tokens, so that the boundary between them is a boundary
    between tokens at training as it is at generation. A tokenizer without bos gets none.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=folder.parent))
    try:
        counts = _write(_sequences(rows, tokenizer, template), limit, building)
        (building / COUNTS).write_text(json.dumps(asdict(counts)))
        for name in (TOKENS, ENDS, PROMPT_LENGTHS, COUNTS):
            sync_file(building / name)
        sync_directory(building)
        os.replace(building, folder)
        sync_directory(folder.parent)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return Sequences(folder)


def _sequences(rows: Iterable[dict[str, Any]], tokenizer: Any, template: str) -> Iterator[tuple[list[int], int]]:
    """Each row's whole sequence, and how many of its tokens are given."""
    before_response = template.removesuffix("{response}")
    opening = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    closing = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    stream = iter(rows)
    while chunk := list(islice(stream, ROWS_AT_ONCE)):
        prompts = _plain(tokenizer, [before_response.replace("{instruction}", row["instruction"]) for row in chunk])
        responses = _plain(tokenizer, [row["response"] for row in chunk])
        for prompt, response in zip(prompts, responses, strict=True):
            yield opening + prompt + response + closing, len(opening) + len(prompt)


def _write(sequences: Iterable[tuple[list[int], int]], limit: int, folder: Path) -> Counts:
    end = rows = cut = unsupervised = longest = largest = 0
    with ExitStack() as stack:
        tokens, ends, prompts = (
            stack.enter_context(open(folder / name, "wb")) for name in (TOKENS, ENDS, PROMPT_LENGTHS)
        )
        for sequence, given in sequences:
            kept = numpy.array(sequence[:limit], numpy.int32)
            tokens.write(kept.tobytes())
            end += len(kept)
            ends.write(numpy.int64(end).tobytes())
            prompts.write(numpy.int32(min(given, limit)).tobytes())
            rows += 1
            cut += len(sequence) > limit
            unsupervised += len(kept) <= max(given, 1)
            longest = max(longest, len(kept))
            largest = max(largest, int(kept.max(initial=0)))
    return Counts(rows, cut, unsupervised, longest, largest)


def _plain(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    return tokenizer([encodable(text) for text in texts], add_special_tokens=False, return_attention_mask=False)[
        "input_ids"
    ]
