"""How an update's sequences lie in tensors: in the documented micro-batches, padded on the right."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy
import torch
from numpy.typing import NDArray

from magicoder.training.encoding import Sequences
from magicoder.training.plan import micro_mean_weight


@dataclass(frozen=True)
class MicroBatch:
    """What one forward and backward pass takes.

    input_ids: int64 [sequences, tokens]. attention_mask: int64 [sequences, tokens], 0 on padding.
    weights: float32 [sequences, tokens], what predicting each token counts in the update's loss; 0 on prompts, padding
    and each sequence's first token, which nothing predicts.
    supervised: how many tokens are learnt.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    weights: torch.Tensor
    supervised: int

    def to(self, device: torch.device) -> "MicroBatch":
        """The same on `device`; the copy does not wait for the device."""

        def moved(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.to(device, non_blocking=True)

        return MicroBatch(moved(self.input_ids), moved(self.attention_mask), moved(self.weights), self.supervised)


def padded(sequences: Sequences, update: list[NDArray[numpy.int64]], pad_token_id: int) -> Iterator[MicroBatch]:
    """The micro-batches of an update as the plan has them, each padded to its longest sequence."""
    for rows in update:
        length = max(len(sequences[row]) for row in rows)
        input_ids = torch.full((len(rows), length), pad_token_id, dtype=torch.int64)
        attention_mask = torch.zeros((len(rows), length), dtype=torch.int64)
        weights = torch.zeros((len(rows), length), dtype=torch.float32)
        supervised = sum(sequences.supervised(row) for row in rows)
        weight = micro_mean_weight(supervised, len(update))
        for place, row in enumerate(rows):
            tokens = sequences[row]
            input_ids[place, : len(tokens)] = torch.from_numpy(tokens.astype(numpy.int64))
            attention_mask[place, : len(tokens)] = 1
            weights[place, len(tokens) - sequences.supervised(row) : len(tokens)] = weight
        yield MicroBatch(input_ids, attention_mask, weights, supervised)
