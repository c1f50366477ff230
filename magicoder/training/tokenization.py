"""Turn instruction pairs into token sequences, with the prompt marked as not supervised.

They are written to a folder and memory-mapped, so that a process's memory does not grow with the number of rows and the
processes of one machine share them.
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

from magicoder.runtime.text import make_encodable
from magicoder.storage.files import TEMPORARY_PREFIX, sync_directory, sync_file

CHUNK_ROWS = 1000
TOKENS, ENDS, PROMPT_LENGTHS, COUNTS = "tokens.int32", "ends.int64", "prompt_lengths.int32", "counts.json"


@dataclass(frozen=True)
class Counts:
    """Counts over all rows.

    rows: their number. cut: rows longer than the limit. unsupervised: rows without a supervised token. longest: tokens
    of the longest sequence. largest_token: the highest token id.
    """

    rows: int = 0
    cut: int = 0
    unsupervised: int = 0
    longest: int = 0
    largest_token: int = 0


class Sequences:
    """All sequences, concatenated.

    tokens: int32 [tokens of all rows]. ends: int64 [rows], the end of each row's sequence in `tokens`.
    prompt_lengths: int32 [rows], leading tokens of each row that are not supervised.
    """

    def __init__(self, folder: Path) -> None:
        """Map the files that `tokenize_rows` wrote to `folder`."""
        self.counts = Counts(**json.loads((folder / COUNTS).read_bytes()))
        self.tokens = _map(folder / TOKENS, numpy.int32)
        self.ends = _map(folder / ENDS, numpy.int64)
        self.prompt_lengths = _map(folder / PROMPT_LENGTHS, numpy.int32)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.ends)

    def __getitem__(self, row: int) -> NDArray[numpy.int32]:
        """Return the tokens of one row, int32."""
        return self.tokens[self.ends[row - 1] if row else 0 : self.ends[row]]

    def measure_lengths(self, rows: NDArray[numpy.int64]) -> NDArray[numpy.int64]:
        """Return the number of tokens of each of `rows`, int64."""
        return self.ends[rows] - numpy.where(rows > 0, self.ends[rows - 1], 0)

    def count_supervised(self, rows: NDArray[numpy.int64]) -> NDArray[numpy.int64]:
        """Return the supervised tokens of each of `rows`, int64. The first token has no prediction, prompt or not."""
        return numpy.maximum(self.measure_lengths(rows) - numpy.maximum(self.prompt_lengths[rows], 1), 0)


def _map(path: Path, dtype: type) -> NDArray:
    return numpy.memmap(path, dtype, "r") if path.stat().st_size else numpy.empty(0, dtype)


def tokenize_rows(rows: Iterable[dict[str, Any]], tokenizer: Any, template: str, limit: int, folder: Path) -> Sequences:
    """Write `[bos] + prompt + response + [eos]` of each row, truncated on the right to `limit` tokens, to `folder`.

    Prompt and response are tokenized separately and without special tokens, so that a token boundary lies between them
    in training as in generation. A tokenizer without bos adds none.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=folder.parent))
    try:
        counts = _write(_tokenize(rows, tokenizer, template), limit, building)
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


def _tokenize(rows: Iterable[dict[str, Any]], tokenizer: Any, template: str) -> Iterator[tuple[list[int], int]]:
    """Yield each row's whole sequence, and the length of its prompt."""
    before_response = template.removesuffix("{response}")
    prefix = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    suffix = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    stream = iter(rows)
    while chunk := list(islice(stream, CHUNK_ROWS)):
        prompts = _encode(tokenizer, [before_response.replace("{instruction}", row["instruction"]) for row in chunk])
        responses = _encode(tokenizer, [row["response"] for row in chunk])
        for prompt, response in zip(prompts, responses, strict=True):
            yield prefix + prompt + response + suffix, len(prefix) + len(prompt)


def _write(sequences: Iterable[tuple[list[int], int]], limit: int, folder: Path) -> Counts:
    end = rows = cut = unsupervised = longest = largest = 0
    with ExitStack() as stack:
        tokens, ends, prompts = (
            stack.enter_context(open(folder / name, "wb")) for name in (TOKENS, ENDS, PROMPT_LENGTHS)
        )
        for sequence, prompt_length in sequences:
            kept = numpy.array(sequence[:limit], numpy.int32)
            tokens.write(kept.tobytes())
            end += len(kept)
            ends.write(numpy.int64(end).tobytes())
            prompts.write(numpy.int32(min(prompt_length, limit)).tobytes())
            rows += 1
            cut += len(sequence) > limit
            unsupervised += len(kept) <= max(prompt_length, 1)
            longest = max(longest, len(kept))
            largest = max(largest, int(kept.max(initial=0)))
    return Counts(rows, cut, unsupervised, longest, largest)


def _encode(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    return tokenizer([make_encodable(text) for text in texts], add_special_tokens=False, return_attention_mask=False)[
        "input_ids"
    ]
