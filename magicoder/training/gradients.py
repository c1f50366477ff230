"""Gradients over an update's micro-batches and over the devices, summed in float32 whatever the parameters are.

FSDP2 alone hands over what it has reduced, in float32, in the parameters' dtype.
"""

from collections.abc import Iterator

import torch
import torch.distributed
from torch.distributed.tensor import DTensor

from magicoder.training.distributed import World
from magicoder.training.sharding import fsdp_modules

ELEMENTS_AT_ONCE = 1 << 25
"""Gradients of whole models that travel together: 128 MB, or a single larger one."""


class Gradients:
    """The gradients of an objective: `add` each micro-batch's loss, and with the last they are those of the update.

    Every token has its weight in the update already, so gradients are summed and nowhere averaged.
    """

    def __init__(self, loss_module: torch.nn.Module, world: World, *, once: bool) -> None:
        """once: whether sharded parameters' gradients are reduced once an update.

        That needs room on each device for the gradients of all parameters in float32; else they are reduced after each
        micro-batch. Whole models' gradients are always reduced once.
        """
        self._parameters = [parameter for parameter in loss_module.parameters() if parameter.requires_grad]
        self._units = fsdp_modules(loss_module)
        self._cluster = world
        self._once = once
        if not (self._units and once):  # then FSDP2 adds up by itself, in float32, and hands over the parameters' dtype
            for parameter in self._parameters:
                parameter.grad_dtype = torch.float32

    def add(self, loss: torch.Tensor, *, last: bool) -> None:
        """Add the gradients of a micro-batch's loss; with the update's `last` one they are complete on every device."""
        if self._units and not self._once and self._parameters[0].grad is None:
            # FSDP2 adds to what is there in its dtype; what it would begin with is in the parameter's.
            for parameter in self._parameters:
                parameter.grad = torch.zeros_like(parameter, dtype=torch.float32)
        for unit in self._units:
            unit.set_requires_gradient_sync(last or not self._once, recurse=False)
        torch.autograd.backward(loss)
        if last and self._cluster.kind == "ddp":
            for bucket in self._buckets():
                self._reduce(bucket)

    def forget(self) -> None:
        """Be ready for the next update."""
        for parameter in self._parameters:
            parameter.grad = None

    def clip(self, max_norm: float) -> None:
        """Scale them down to the L2 norm `max_norm` over all parameters and devices, if theirs is larger."""
        norm = torch.nn.utils.get_total_norm(self._present())
        whole = norm.full_tensor() if isinstance(norm, DTensor) else norm
        torch.nn.utils.clip_grads_with_norm_(self._parameters, max_norm, whole)

    def _present(self) -> list[torch.Tensor]:
        return [parameter.grad for parameter in self._parameters if parameter.grad is not None]

    def _buckets(self) -> Iterator[list[torch.Tensor]]:
        bucket: list[torch.Tensor] = []
        for gradient in self._present():
            if bucket and sum(map(torch.Tensor.numel, bucket)) + gradient.numel() > ELEMENTS_AT_ONCE:
                yield bucket
                bucket = []
            bucket.append(gradient)
        yield bucket

    def _reduce(self, bucket: list[torch.Tensor]) -> None:
        flat = self._cluster.total(torch.cat([gradient.flatten() for gradient in bucket]))
        for gradient, total in zip(bucket, torch.split(flat, [gradient.numel() for gradient in bucket]), strict=True):
            gradient.copy_(total.view_as(gradient))
