"""What a training needs of a device's memory, estimated before it begins."""

import os
import resource
from dataclasses import dataclass
from typing import Any

import torch

from magicoder.training.flops import head_size
from magicoder.training.loss import PREDICTIONS_AT_ONCE
from magicoder.training.sharding import layers

SHARE_TO_USE = 0.9
"""Of a device's memory; the rest is left to fragments and to the libraries' own."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on each device at the worst moment."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits

    def __str__(self) -> str:
        """The total and its parts, in GB."""
        parts = ", ".join(f"{name} {value / 1e9:.1f}" for name, value in vars(self).items())
        return f"{self.total / 1e9:.1f} GB ({parts})"


@dataclass(frozen=True)
class MemoryPlan:
    """How to save memory. checkpointing: of activations. once: gradients are reduced once an update."""

    checkpointing: bool
    once: bool


@dataclass(frozen=True)
class MemoryModel:
    """What an estimate needs to know: of the model, of a micro-batch and of the devices.

    elements: of all parameters. element_bytes: of each. layer_elements: of the largest layer. tokens: of the largest
    micro-batch. shards: devices over which parameters are spread, 1 where each has them whole. offloaded: whether
    parameters and optimizer state are in the machine's memory. master: whether the optimizer keeps float32 copies.
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

    def demand(self, way: MemoryPlan) -> MemoryEstimate:
        """Bytes on each device."""
        resident = 0.0 if self.offloaded else self.elements / self.shards
        unsharded = 0.0 if self.shards == 1 else 2.0 * self.layer_elements + 2.0 * self.vocabulary * self.hidden
        layer = self.tokens * self._layer_elements_per_token() * self.element_bytes
        inputs = self.tokens * self.hidden * self.element_bytes * self.layers
        predictions = min(self.tokens, PREDICTIONS_AT_ONCE) if self.chunked else self.tokens
        # The logits and what becomes their gradient, in float32, which is rounded back where they are not.
        logits = (
            predictions
            * self.vocabulary
            * (4.0 + self.element_bytes + (self.element_bytes if self.element_bytes < 4 else 0))
        )
        return MemoryEstimate(
            weights=(resident + unsharded) * self.element_bytes,
            gradients=self._gradients(way, resident),
            optimizer=4.0 * (resident if self.master else 0.0) + 12.0 * self.vocabulary * self.hidden / self.shards,
            # A layer is computed again when the logits are gone.
            activations=inputs + max(layer - logits, 0.0) if way.checkpointing else layer * self.layers,
            logits=logits,
        )

    def _gradients(self, way: MemoryPlan, resident: float) -> float:
        """In float32; reduced once, the shards are beside the whole for a moment, in the parameters' dtype."""
        if self.shards == 1:
            return 4.0 * self.elements
        return (
            4.0 * self.elements + self.element_bytes * resident if way.once else 4.0 * (resident + self.layer_elements)
        )

    def _layer_elements_per_token(self) -> float:
        """What a layer of Llama's form keeps for its backward pass, in elements of the parameters' dtype.

        Two norms with their input, its float32 copy and their output, queries, keys and values before and after the
        rotation, the attention's output, and four of the gated feed-forward's width.
        """
        return 14.0 * self.hidden + 4.0 * self.key_value + 4.0 * self.intermediate


def shape_of(model: Any, *, tokens: int, shards: int, chunked: bool, offloaded: bool, master: bool) -> MemoryModel:
    """The shape of a model of transformers, its weights present or not."""
    config = model.config
    parameters = list(model.parameters())
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return MemoryModel(
        hidden=config.hidden_size,
        intermediate=getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
        key_value=heads * head_size(config),
        layers=config.num_hidden_layers,
        vocabulary=config.vocab_size,
        elements=sum(parameter.numel() for parameter in parameters),
        element_bytes=parameters[0].element_size(),
        layer_elements=max((_elements(layer) for layer in layers(model)), default=0),
        tokens=tokens,
        shards=shards,
        chunked=chunked,
        offloaded=offloaded,
        master=master,
    )


def _elements(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def choose(shape: MemoryModel, available: float, activation_checkpointing: str, reduce_gradients: str) -> MemoryPlan:
    """The fastest way that fits into `available` bytes, or the most frugal; what is not `auto` is as it says."""
    ways = [
        MemoryPlan(checkpointing, once)
        for checkpointing in (
            [False, True] if activation_checkpointing == "auto" else [activation_checkpointing == "on"]
        )
        for once in ([True, False] if reduce_gradients == "auto" else [reduce_gradients == "once"])
    ]
    return next((way for way in ways if shape.demand(way).total <= SHARE_TO_USE * available), ways[-1])


def available(device: torch.device, processes_here: int) -> float:
    """Bytes that a process may use: the device's, or its part of the machine's where the device is the CPU."""
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) / processes_here


def memory_in_use(device: torch.device) -> int:
    """The most bytes so far: of tensors on a GPU, of the whole process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
