"""Gradients over an update's micro-batches and over the devices, summed in float32 whatever the parameters are.

FSDP2 alone reduces in float32 and then returns gradients in the parameters' dtype.
"""

from collections.abc import Iterator

import torch
import torch.distributed
from torch.distributed.tensor import DTensor

from magicoder.training.distributed import World
from magicoder.training.sharding import find_fsdp_modules

BUCKET_ELEMENTS = 1 << 25
"""Gradients of whole models are reduced in buckets of this size, 128 MB, or a single larger one."""


class Gradients:
    """The gradients of an update: `add` each micro-batch's loss; with the last one they are complete.

    Every token already has its weight in the update, so gradients are summed and never averaged.
    """

    def __init__(self, loss_module: torch.nn.Module, world: World, *, once: bool) -> None:
        """once: reduce the gradients of sharded parameters once an update instead of after each micro-batch.

        That needs room on each device for the float32 gradients of all parameters. Gradients of whole models are always
        reduced once.
        """
        self._parameters = [parameter for parameter in loss_module.parameters() if parameter.requires_grad]
        self._units = find_fsdp_modules(loss_module)
        self._world = world
        self._once = once
        if not (self._units and once):  # else FSDP2 accumulates in float32 itself
            for parameter in self._parameters:
                parameter.grad_dtype = torch.float32

    def add(self, loss: torch.Tensor, *, last: bool) -> None:
        """Add the gradients of a micro-batch's loss; after the `last` one of the update every device has the sum."""
        if self._units and not self._once and self._parameters[0].grad is None:
            # FSDP2 accumulates in the dtype of an existing gradient; its own first one would have the parameter's
            # dtype.
            for parameter in self._parameters:
                parameter.grad = torch.zeros_like(parameter, dtype=torch.float32)
        for unit in self._units:
            unit.set_requires_gradient_sync(last or not self._once, recurse=False)
        torch.autograd.backward(loss)
        if last and self._world.kind == "ddp":
            for bucket in self._make_buckets():
                self._reduce(bucket)

    def clear(self) -> None:
        """Drop the gradients, ready for the next update."""
        for parameter in self._parameters:
            parameter.grad = None

    def clip(self, max_norm: float) -> None:
        """Scale the gradients down to the L2 norm `max_norm` over all parameters and devices, if theirs is larger."""
        norm = torch.nn.utils.get_total_norm(self._list_gradients())
        whole = norm.full_tensor() if isinstance(norm, DTensor) else norm
        torch.nn.utils.clip_grads_with_norm_(self._parameters, max_norm, whole)

    def _list_gradients(self) -> list[torch.Tensor]:
        return [parameter.grad for parameter in self._parameters if parameter.grad is not None]

    def _make_buckets(self) -> Iterator[list[torch.Tensor]]:
        bucket: list[torch.Tensor] = []
        for gradient in self._list_gradients():
            if bucket and sum(map(torch.Tensor.numel, bucket)) + gradient.numel() > BUCKET_ELEMENTS:
                yield bucket
                bucket = []
            bucket.append(gradient)
        yield bucket

    def _reduce(self, bucket: list[torch.Tensor]) -> None:
        flat = self._world.sum(torch.cat([gradient.flatten() for gradient in bucket]))
        for gradient, total in zip(bucket, torch.split(flat, [gradient.numel() for gradient in bucket]), strict=True):
            gradient.copy_(total.view_as(gradient))
