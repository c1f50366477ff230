"""Attention within each document of a packed bin, and to no other: an implementation that transformers calls.

It costs what the documents cost, without a mask of tokens times tokens: on CUDA by the FlashAttention kernel for
sequences of varying length that PyTorch carries, elsewhere document by document.
"""

from functools import partial
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from magicoder.runtime.errors import UserError

NAME = "documents"
UNKNOWN_TO_US = ("softcap", "s_aux")
"""What some models ask of their attention beyond the scaled dot product."""


def register() -> None:
    """Make it known to transformers under `NAME`. It gets no mask: for a name that is unknown there none is made."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, documents_attention)


def keep_documents_apart(model: Any) -> None:
    """Let this be the attention of a model of transformers.

    Errors: UserError for a model that computes its attention by itself.
    """
    if not model._supports_attention_backend:
        kind = model.config.model_type
        raise UserError(f"train.layout=packed: {kind} computes its attention by itself; use train.layout=padded")
    register()
    model.set_attn_implementation(NAME)


def documents_attention(
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
    """Causal attention in each document of a bin; out of training, one document to each sequence where none are told.

    query: [sequences, heads, tokens, size of a head]; key and value alike, with as many or fewer heads.
    documents: int32 [documents + 1], where each begins and the last ends. longest: tokens of the longest.
    Returns [sequences, tokens, heads, size of a head]. Errors: UserError for a model whose documents this cannot keep
    apart.
    """
    asked = [name for name in UNKNOWN_TO_US if more.get(name) is not None]
    if sliding_window is not None and (longest or query.shape[2]) > sliding_window:
        asked.append("sliding_window")
    if asked or (documents is None and module.training):
        why = f"asks its attention for {', '.join(asked)}" if asked else "does not tell its attention of documents"
        raise UserError(f"train.layout=packed: this model {why}; use train.layout=padded")
    attend = partial(
        scaled_dot_product_attention,
        scale=scaling,
        dropout_p=dropout,
        is_causal=query.shape[2] > 1,  # the one query of a step of generation may see every key
        enable_gqa=key.shape[1] != query.shape[1],
    )
    if documents is None:
        return attend(query, key, value).transpose(1, 2), None
    if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16) and not dropout:
        grouped = key.shape[1] != query.shape[1]
        return _varlen((query, key, value), documents, longest, scale=scaling, enable_gqa=grouped), None
    lengths = documents.diff().tolist()
    parts = zip(*(torch.split(tensor, lengths, dim=2) for tensor in (query, key, value)), strict=True)
    outputs = [attend(*part) for part in parts]
    return torch.cat(outputs, dim=2).transpose(1, 2), None


def _varlen(
    states: tuple[torch.Tensor, torch.Tensor, torch.Tensor], documents: torch.Tensor, longest: int, **options: Any
) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn

    query, key, value = (state.squeeze(0).transpose(0, 1) for state in states)
    causal = (-1, 0)
    output: Any = varlen_attn(query, key, value, documents, documents, longest, longest, window_size=causal, **options)
    return output.unsqueeze(0)
