"""Estimate the memory that a training needs on each device, before it begins."""

import os
import resource
from dataclasses import dataclass
from typing import Any

import torch

from magicoder.training.flops import find_head_size
from magicoder.training.loss import CHUNK_PREDICTIONS
from magicoder.training.sharding import find_layers

USABLE_SHARE = 0.9
"""Share of a device's memory that may be planned; the rest is for fragmentation and for the libraries."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Peak bytes on each device."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float

    @property
    def total(self) -> float:
        """Return the sum of the parts."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits

    def __str__(self) -> str:
        """Format the total and its parts in GB."""
        parts = ", ".join(f"{name} {value / 1e9:.1f}" for name, value in vars(self).items())
        return f"{self.total / 1e9:.1f} GB ({parts})"


@dataclass(frozen=True)
class MemoryPlan:
    """Ways to save memory. checkpointing: of activations. once: reduce gradients once an update."""

    checkpointing: bool
    once: bool


@dataclass(frozen=True)
class MemoryModel:
    """The sizes of model, micro-batch and devices that an estimate depends on.

    elements: number of all parameters. element_bytes: bytes of each. layer_elements: parameters of the largest layer.
    tokens: of the largest micro-batch. shards: devices over which parameters are sharded, 1 for whole models.
    offloaded: parameters and optimizer state are in the machine's memory. master: the optimizer keeps float32 copies.
    """

    hidden: int
    intermediate: int
    key_value: int
    layers: int
    vocabulary: int
    elements: int
    element_bytes: int
    layer_elements: int
    tokens: int
    shards: int
    chunked: bool
    offloaded: bool
    master: bool

    def estimate(self, plan: MemoryPlan) -> MemoryEstimate:
        """Estimate the peak bytes on each device under a plan."""
        resident = 0.0 if self.offloaded else self.elements / self.shards
        unsharded = 0.0 if self.shards == 1 else 2.0 * self.layer_elements + 2.0 * self.vocabulary * self.hidden
        layer = self.tokens * self._count_layer_elements() * self.element_bytes
        inputs = self.tokens * self.hidden * self.element_bytes * self.layers
        predictions = min(self.tokens, CHUNK_PREDICTIONS) if self.chunked else self.tokens
        # The logits and their float32 gradient, which is rounded to the dtype of the logits where that differs.
        logits = (
            predictions
            * self.vocabulary
            * (4.0 + self.element_bytes + (self.element_bytes if self.element_bytes < 4 else 0))
        )
        return MemoryEstimate(
            weights=(resident + unsharded) * self.element_bytes,
            gradients=self._estimate_gradients(plan, resident),
            optimizer=4.0 * (resident if self.master else 0.0) + 12.0 * self.vocabulary * self.hidden / self.shards,
            # A layer is recomputed after the logits are freed.
            activations=inputs + max(layer - logits, 0.0) if plan.checkpointing else layer * self.layers,
            logits=logits,
        )

    def _estimate_gradients(self, plan: MemoryPlan, resident: float) -> float:
        """Bytes in float32; reduced once, whole gradients and shards in the parameters' dtype coexist briefly."""
        if self.shards == 1:
            return 4.0 * self.elements
        return (
            4.0 * self.elements + self.element_bytes * resident if plan.once else 4.0 * (resident + self.layer_elements)
        )

    def _count_layer_elements(self) -> float:
        """Count the elements a token that a Llama layer keeps for its backward pass, in the parameters' dtype.

        Two norms with their input, its float32 copy and their output; queries, keys and values before and after the
        rotation; the attention's output; and four tensors of the gated feed-forward's width.
        """
        return 14.0 * self.hidden + 4.0 * self.key_value + 4.0 * self.intermediate


def model_memory(model: Any, *, tokens: int, shards: int, chunked: bool, offloaded: bool, master: bool) -> MemoryModel:
    """Read the sizes of a transformers model, with or without weights."""
    config = model.config
    parameters = list(model.parameters())
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return MemoryModel(
        hidden=config.hidden_size,
        intermediate=getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
        key_value=heads * find_head_size(config),
        layers=config.num_hidden_layers,
        vocabulary=config.vocab_size,
        elements=sum(parameter.numel() for parameter in parameters),
        element_bytes=parameters[0].element_size(),
        layer_elements=max((_count_elements(layer) for layer in find_layers(model)), default=0),
        tokens=tokens,
        shards=shards,
        chunked=chunked,
        offloaded=offloaded,
        master=master,
    )


def _count_elements(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def choose_plan(
    memory: MemoryModel, available: float, activation_checkpointing: str, reduce_gradients: str
) -> MemoryPlan:
    """Return the fastest plan that fits into `available` bytes, else the most frugal. Only `auto` leaves a choice."""
    plans = [
        MemoryPlan(checkpointing, once)
        for checkpointing in (
            [False, True] if activation_checkpointing == "auto" else [activation_checkpointing == "on"]
        )
        for once in ([True, False] if reduce_gradients == "auto" else [reduce_gradients == "once"])
    ]
    return next((plan for plan in plans if memory.estimate(plan).total <= USABLE_SHARE * available), plans[-1])


def measure_available(device: torch.device, processes_here: int) -> float:
    """Return the bytes that a process may use: the device's, or on a CPU its share of the machine's."""
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) / processes_here


def measure_peak(device: torch.device) -> int:
    """Return the peak bytes so far: of tensors on a GPU, of the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
