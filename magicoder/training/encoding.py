"""Instruction pairs as token sequences, with the prompt's part marked as not supervised."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy
from numpy.typing import NDArray

from magicoder.text import encodable

ROWS_AT_ONCE = 1000


@dataclass(frozen=True)
class Sequences:
    """All sequences end to end.

    tokens: int32 [tokens of all]. ends: int64 [rows], where each row's sequence ends in `tokens`.
    prompt_lengths: int32 [rows], leading tokens of each row that are given and not learnt.
    cut: how many rows were longer than the limit. unsupervised: how many have nothing left to learn.
    """

    tokens: NDArray[numpy.int32]
    ends: NDArray[numpy.int64]
    prompt_lengths: NDArray[numpy.int32]
    cut: int
    unsupervised: int

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.ends)

    def __getitem__(self, row: int) -> NDArray[numpy.int32]:
        """The tokens of one row."""
        return self.tokens[self.ends[row - 1] if row else 0 : self.ends[row]]

    def supervised(self, row: int) -> int:
        """How many tokens of a row are learnt; the first of a sequence is predicted by nothing, prompt or not."""
        return max(0, len(self[row]) - max(int(self.prompt_lengths[row]), 1))


def encode(rows: Iterable[dict[str, Any]], tokenizer: Any, template: str, limit: int) -> Sequences:
    """`[bos] + prompt | response + [eos]` for each row, cut on the right to `limit` tokens.

    Prompt and response are encoded apart and without special tokens, so that the boundary between them is a boundary
    between tokens at training as it is at generation. A tokenizer without bos gets none.
    """
    before_response = template.removesuffix("{response}")
    opening = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    closing = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    pieces: list[NDArray[numpy.int32]] = []
    prompt_lengths: list[int] = []
    cut = unsupervised = 0
    stream = iter(rows)
    while chunk := list(islice(stream, ROWS_AT_ONCE)):
        prompts = _plain(tokenizer, [before_response.replace("{instruction}", row["instruction"]) for row in chunk])
        responses = _plain(tokenizer, [row["response"] for row in chunk])
        for prompt, response in zip(prompts, responses, strict=True):
            sequence = opening + prompt + response + closing
            cut += len(sequence) > limit
            pieces.append(numpy.array(sequence[:limit], dtype=numpy.int32))
            prompt_lengths.append(min(len(opening) + len(prompt), limit))
            unsupervised += len(pieces[-1]) <= max(prompt_lengths[-1], 1)
    return Sequences(
        numpy.concatenate(pieces) if pieces else numpy.empty(0, numpy.int32),
        numpy.cumsum([len(piece) for piece in pieces], dtype=numpy.int64),
        numpy.array(prompt_lengths, dtype=numpy.int32),
        cut,
        unsupervised,
    )


def _plain(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    return tokenizer([encodable(text) for text in texts], add_special_tokens=False, return_attention_mask=False)[
        "input_ids"
    ]
