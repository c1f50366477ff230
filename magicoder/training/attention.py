"""Compute attention within each document of a packed bin: an implementation that transformers calls.

It costs what the documents cost, without a mask of tokens x tokens: on CUDA with PyTorch's FlashAttention kernel for
sequences of varying length, elsewhere document by document.
"""

from functools import partial
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from magicoder.runtime.errors import UserError

NAME = "documents"
UNSUPPORTED = ("softcap", "s_aux")
"""Arguments of models that need more than the scaled dot product."""


def register() -> None:
    """Register the function with transformers under `NAME`. transformers builds no mask for a name of ours."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend_documents)


def keep_documents_apart(model: Any) -> None:
    """Make this the attention of a transformers model.

    Errors: UserError for a model with its own attention code.
    """
    if not model._supports_attention_backend:
        kind = model.config.model_type
        raise UserError(f"train.layout=packed: {kind} has its own attention code; use train.layout=padded")
    register()
    model.set_attn_implementation(NAME)


def attend_documents(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    *,
    documents: torch.Tensor | None = None,
    longest: int = 0,
    sliding_window: int | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Compute causal attention in each document of a bin. Outside training, without documents, each sequence is one.

    query: [sequences, heads, tokens, head size]; key and value likewise, with as many or fewer heads.
    documents: int32 [documents + 1], the start of each document and the end of the last. longest: tokens of the
    longest. Returns [sequences, tokens, heads, head size]. Errors: UserError for a model whose documents would mix.
    """
    unsupported = [name for name in UNSUPPORTED if more.get(name) is not None]
    if sliding_window is not None and (longest or query.shape[2]) > sliding_window:
        unsupported.append("sliding_window")
    if unsupported or (documents is None and module.training):
        why = (
            f"needs attention with {', '.join(unsupported)}"
            if unsupported
            else "does not pass documents to its attention"
        )
        raise UserError(f"train.layout=packed: this model {why}; use train.layout=padded")
    attend = partial(
        scaled_dot_product_attention,
        scale=scaling,
        dropout_p=dropout,
        is_causal=query.shape[2] > 1,  # a generation step has one query, which may see every key
        enable_gqa=key.shape[1] != query.shape[1],
    )
    if documents is None:
        return attend(query, key, value).transpose(1, 2), None
    if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16) and not dropout:
        grouped = key.shape[1] != query.shape[1]
        # One kernel call for all documents: a loop over documents would make the host wait for their lengths.
        return _attend_varlen((query, key, value), documents, longest, scale=scaling, enable_gqa=grouped), None
    lengths = documents.diff().tolist()
    parts = zip(*(torch.split(tensor, lengths, dim=2) for tensor in (query, key, value)), strict=True)
    outputs = [attend(*part) for part in parts]
    return torch.cat(outputs, dim=2).transpose(1, 2), None


def _attend_varlen(
    states: tuple[torch.Tensor, torch.Tensor, torch.Tensor], documents: torch.Tensor, longest: int, **options: Any
) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn

    query, key, value = (state.squeeze(0).transpose(0, 1) for state in states)
    causal = (-1, 0)
    output: Any = varlen_attn(query, key, value, documents, documents, longest, longest, window_size=causal, **options)
    return output.unsqueeze(0)
