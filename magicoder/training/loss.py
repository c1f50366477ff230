"""The objective: the weighted sum of the supervised tokens' negative log-likelihoods."""

from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from magicoder.runtime.errors import UserError
from magicoder.training.layout import MicroBatch

PREDICTIONS_AT_ONCE = 512
"""Of chunked logits: 512 x 32,000 in float32 are 64 MB."""


ALTERING_LOGITS = ("final_logit_softcapping", "logits_scaling", "logit_scale", "lm_head_multiplier")
"""What configurations of transformers call that which models do to their logits."""


class LossModule(torch.nn.Module):
    """The model with its loss, one module, so that every use of a parameter lies within the forward pass of the whole.

    Logits are made for the places alone whose next token is learnt, and taken to float32. With `chunked` they are made
    a piece at a time and once more backwards, so that they are never there all at once.
    """

    def __init__(self, model: Any, *, chunked: bool = False) -> None:
        """Errors: UserError for `chunked` with a model that does more to its logits than a matrix does."""
        super().__init__()
        altered = [name for name in ALTERING_LOGITS if getattr(model.config, name, None) not in (None, 1, 1.0)]
        if chunked and altered:
            raise UserError(f"train.logits=chunked: this model has {altered[0]}; use train.logits=whole")
        self.model = model
        self.chunked = chunked

    def forward(self, batch: MicroBatch) -> torch.Tensor:
        """The part of an update's loss that `batch` contributes, a float32 scalar, in nats."""
        inputs = {"input_ids": batch.input_ids, "use_cache": False}
        if batch.documents is not None:
            inputs |= {"position_ids": batch.position_ids, **self._document_bounds(batch)}
        if not self.chunked:
            logits = self.model(**inputs, logits_to_keep=batch.predicting).logits
            return _weighted(logits.flatten(0, 1), batch.targets.flatten(), batch.weights.flatten())
        hidden = self.model.get_decoder()(**inputs).last_hidden_state[:, batch.predicting]
        flat = (hidden.flatten(0, 1), batch.targets.flatten(), batch.weights.flatten())
        pieces = (tensor.split(PREDICTIONS_AT_ONCE) for tensor in flat)
        losses = [checkpoint(self._piece, *piece, use_reentrant=False) for piece in zip(*pieces, strict=True)]
        return torch.stack(losses).sum()

    def generate(self, *inputs: torch.Tensor, **options: Any) -> torch.Tensor:
        """What the model's own method returns; a method of this module, which is what is spread over devices."""
        return self.model.generate(*inputs, **options)

    def _piece(self, hidden: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        return _weighted(self.model.get_output_embeddings()(hidden), targets, weights)

    def _document_bounds(self, batch: MicroBatch) -> dict[str, Any]:
        """The same bounds under the names of our own attention, or of transformers' with flash-attn."""
        if self.model.config._attn_implementation == "flash_attention_2":
            bounds = {"cu_seq_lens_q": batch.documents, "cu_seq_lens_k": batch.documents}
            return {**bounds, "max_length_q": batch.longest, "max_length_k": batch.longest}
        return {"documents": batch.documents, "longest": batch.longest}


def _weighted(logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    loss: torch.Tensor = WeightedCrossEntropy.apply(logits, targets, weights)  # type: ignore[no-untyped-call]
    return loss


class WeightedCrossEntropy(torch.autograd.Function):
    """Sum over tokens of weight times negative log-likelihood, in float32, with half the passes over the vocabulary.

    PyTorch's own keeps the log-probabilities and makes a gradient for them, mostly zeros, before that of the logits.
    The gradient of a token is known at once: its weight times (probabilities - 1 at the target), made in their place.
    """

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """logits: [tokens, vocabulary]. targets: int64 [tokens]. weights: float32 [tokens]. Returns a scalar."""
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
        """The gradient of the logits, which takes the place of what was kept: it can be asked for once."""
        difference, weights = ctx.saved_tensors
        gradient = difference.mul_((weights * grad_output).unsqueeze(-1))
        return gradient.to(ctx.dtype), None, None
