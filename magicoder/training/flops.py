"""Count the floating-point operations of a training, and look up a device's peak."""

import re
from typing import Any

import numpy
import torch
from numpy.typing import NDArray

from magicoder.training.sharding import find_layers

PEAK_BFLOAT16 = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L40": 181e12,
    "A10": 125e12,
    "A10G": 125e12,
    "L4": 121e12,
    "RTX 4090": 165e12,
}
"""Dense bfloat16 operations per second by part of the device's name; the first match counts. Source: NVIDIA's data
sheets."""


def find_peak(device: torch.device, dtype: torch.dtype) -> float | None:
    """Return the device's peak operations per second in `dtype`; None if unknown."""
    if device.type != "cuda" or dtype != torch.bfloat16:
        return None
    name = torch.cuda.get_device_name(device)
    return next((operations for part, operations in PEAK_BFLOAT16.items() if re.search(rf"\b{part}\b", name)), None)


class FlopsCounter:
    """Counts the operations of forward and backward passes through a model, without recomputation."""

    def __init__(self, model: Any) -> None:
        """Read the shapes; parameters may be sharded or without values."""
        config = model.config
        matrices = [
            parameter for layer in find_layers(model) for parameter in layer.parameters() if parameter.dim() > 1
        ]
        self._layer_elements = sum(parameter.numel() for parameter in matrices)
        self._head_elements = model.get_output_embeddings().weight.numel()
        self._attention = config.num_hidden_layers * config.num_attention_heads * find_head_size(config)

    def count(self, lengths: NDArray[numpy.int64], supervised_tokens: int) -> float:
        """Return the operations for documents of these `lengths` (int64 [documents]) with so many supervised tokens.

        Two for each matrix element and token, and as many again for each of the two gradients; causal attention takes
        half of 12 x tokens squared x heads x head size. Logits are computed for supervised tokens alone.
        Source: Chowdhery et al., 2022, https://arxiv.org/abs/2204.02311, appendix B.
        """
        matrices = 6.0 * (self._layer_elements * float(lengths.sum()) + self._head_elements * supervised_tokens)
        return matrices + 6.0 * self._attention * float((lengths * lengths).sum())


def find_head_size(config: Any) -> int:
    """Return the elements of one attention head."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
