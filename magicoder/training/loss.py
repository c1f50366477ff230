"""Compute the objective: the weighted sum of the negative log-likelihoods of supervised tokens."""

from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from magicoder.runtime.errors import UserError
from magicoder.training.layout import MicroBatch

CHUNK_PREDICTIONS = 512
"""Positions of one chunk of logits: 512 x 32,000 in float32 are 64 MB."""


ALTERING_LOGITS = ("final_logit_softcapping", "logits_scaling", "logit_scale", "lm_head_multiplier")
"""Configuration keys of models that transform their logits."""


class LossModule(torch.nn.Module):
    """The model with its loss in one module, so that every use of a parameter is within its forward pass.

    Logits are computed only at positions whose next token is supervised, and converted to float32. With `chunked` they
    are computed a chunk at a time and recomputed in the backward pass, so that they never coexist.
    """

    def __init__(self, model: Any, *, chunked: bool = False) -> None:
        """Errors: UserError for `chunked` with a model that transforms its logits after the output matrix."""
        super().__init__()
        altered = [name for name in ALTERING_LOGITS if getattr(model.config, name, None) not in (None, 1, 1.0)]
        if chunked and altered:
            raise UserError(f"train.logits=chunked: this model has {altered[0]}; use train.logits=whole")
        self.model = model
        self.chunked = chunked

    def forward(self, batch: MicroBatch) -> torch.Tensor:
        """Return the contribution of `batch` to the update's loss: a float32 scalar, in nats."""
        inputs = {"input_ids": batch.input_ids, "use_cache": False}
        if batch.documents is not None:
            inputs |= {"position_ids": batch.position_ids, **self._make_bounds(batch)}
        if not self.chunked:
            logits = self.model(**inputs, logits_to_keep=batch.predicting).logits
            return _weigh(logits.flatten(0, 1), batch.targets.flatten(), batch.weights.flatten())
        hidden = self.model.get_decoder()(**inputs).last_hidden_state[:, batch.predicting]
        flat = (hidden.flatten(0, 1), batch.targets.flatten(), batch.weights.flatten())
        pieces = (tensor.split(CHUNK_PREDICTIONS) for tensor in flat)
        losses = [checkpoint(self._compute_chunk, *piece, use_reentrant=False) for piece in zip(*pieces, strict=True)]
        return torch.stack(losses).sum()

    def generate(self, *inputs: torch.Tensor, **options: Any) -> torch.Tensor:
        """Call the model's own method through this module, which is the one that FSDP2 shards."""
        return self.model.generate(*inputs, **options)

    def _compute_chunk(self, hidden: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        return _weigh(self.model.get_output_embeddings()(hidden), targets, weights)

    def _make_bounds(self, batch: MicroBatch) -> dict[str, Any]:
        """Return the documents' bounds under the names of our attention, or of transformers' flash-attn."""
        if self.model.config._attn_implementation == "flash_attention_2":
            bounds = {"cu_seq_lens_q": batch.documents, "cu_seq_lens_k": batch.documents}
            return {**bounds, "max_length_q": batch.longest, "max_length_k": batch.longest}
        return {"documents": batch.documents, "longest": batch.longest}


def _weigh(logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    loss: torch.Tensor = WeightedCrossEntropy.apply(logits, targets, weights)  # type: ignore[no-untyped-call]
    return loss


class WeightedCrossEntropy(torch.autograd.Function):
    """Sum over tokens of weight x negative log-likelihood, in float32, with half the passes over the vocabulary.

    PyTorch's own keeps the log-probabilities and computes their gradient, mostly zeros, before that of the logits. The
    gradient of the logits is known at once: weight x (probabilities - 1 at the target), computed in place.
    """

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Return the loss, a scalar. logits: [tokens, vocabulary]. targets: int64 [tokens]. weights: float32
        [tokens]."""
        log_probabilities = torch.log_softmax(logits, dim=-1, dtype=torch.float32)
        targets = targets.unsqueeze(-1)
        loss = -(log_probabilities.gather(-1, targets).squeeze(-1) * weights).sum()
        difference = log_probabilities.exp_()
        difference.scatter_add_(-1, targets, torch.full_like(weights, -1.0).unsqueeze(-1))
        ctx.save_for_backward(difference, weights)
        ctx.dtype = logits.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """Return the gradient of the logits. It overwrites the saved tensor, so it can be computed only once."""
        difference, weights = ctx.saved_tensors
        gradient = difference.mul_((weights * grad_output).unsqueeze(-1))
        return gradient.to(ctx.dtype), None, None
