"""The objective: the weighted sum of the supervised tokens' negative log-likelihoods."""

from typing import Any

import torch
from torch.nn.functional import cross_entropy

from magicoder.training.layout import MicroBatch


def weighted_loss(model: Any, batch: MicroBatch) -> torch.Tensor:
    """The part of an update's loss that `batch` contributes, a float32 scalar; logits are taken to float32 first."""
    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits
    predicting = logits[:, :-1].float()
    losses = cross_entropy(predicting.flatten(0, 1), batch.input_ids[:, 1:].flatten(), reduction="none")
    return (losses * batch.weights[:, 1:].flatten()).sum()
