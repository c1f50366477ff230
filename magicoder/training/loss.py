"""The objective: the weighted sum of the supervised tokens' negative log-likelihoods."""

from typing import Any

import torch
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from magicoder.training.layout import MicroBatch

PREDICTIONS_AT_ONCE = 512
"""Of chunked logits: 512 x 32,000 in float32 are 64 MB."""


class Objective(torch.nn.Module):
    """The model with its loss, one module, so that every use of a parameter lies within the forward pass of the whole.

    Logits are made for the places alone whose next token is learnt, and taken to float32. With `chunked` they are made
    a piece at a time and once more backwards, so that they are never there all at once.
    """

    def __init__(self, model: Any, *, chunked: bool = False) -> None:
        super().__init__()
        self.model = model
        self.chunked = chunked

    def forward(self, batch: MicroBatch) -> torch.Tensor:
        """The part of an update's loss that `batch` contributes, a float32 scalar, in nats."""
        inputs = {"input_ids": batch.input_ids, "use_cache": False}
        if batch.documents is not None:
            inputs |= {"position_ids": batch.position_ids, **self._document_bounds(batch)}
        if not self.chunked:
            logits = self.model(**inputs, logits_to_keep=batch.predicting).logits
            return _weighted(logits, batch.targets, batch.weights)
        hidden = self.model.get_decoder()(**inputs).last_hidden_state[:, batch.predicting]
        pieces = (tensor.split(PREDICTIONS_AT_ONCE, dim=1) for tensor in (hidden, batch.targets, batch.weights))
        losses = [checkpoint(self._piece, *piece, use_reentrant=False) for piece in zip(*pieces, strict=True)]
        return torch.stack(losses).sum()

    def _piece(self, hidden: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        return _weighted(self.model.get_output_embeddings()(hidden), targets, weights)

    def _document_bounds(self, batch: MicroBatch) -> dict[str, Any]:
        """The same bounds under the names of our own attention, or of transformers' with flash-attn."""
        if self.model.config._attn_implementation == "flash_attention_2":
            bounds = {"cu_seq_lens_q": batch.documents, "cu_seq_lens_k": batch.documents}
            return {**bounds, "max_length_q": batch.longest, "max_length_k": batch.longest}
        return {"documents": batch.documents, "longest": batch.longest}


def _weighted(logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    losses = cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none")
    return (losses * weights.flatten()).sum()
