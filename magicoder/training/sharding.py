"""Shard a model over devices with FSDP2, send weights there, and gather them back."""

from typing import Any

import torch
import torch.distributed
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor
from transformers.modeling_layers import GradientCheckpointingLayer


def shard(module: torch.nn.Module, mesh: DeviceMesh, *, cpu_offload: bool = False) -> torch.nn.Module:
    """Shard a module without weights over the mesh: each layer is a unit, all other parameters belong to the module.

    Parameters compute in their own dtype; gradients are summed over the devices in float32, without a mean: every token
    already has its weight in the update. Afterwards parameters have memory, but no values.
    """
    options: dict[str, Any] = {
        "mesh": mesh["data_parallel"],
        "mp_policy": MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False),
        "offload_policy": CPUOffloadPolicy() if cpu_offload else OffloadPolicy(),
    }
    for layer in find_layers(module):
        fully_shard(layer, **options)
    fully_shard(module, **options)
    register_fsdp_forward_method(module, "generate")
    for part in find_fsdp_modules(module):
        part.set_gradient_divide_factor(1.0)
        part.set_force_sum_reduction_for_comms(True)  # gloo cannot divide
    return module.to_empty(device="cpu" if cpu_offload else mesh.device_type)


def find_layers(module: torch.nn.Module) -> list[torch.nn.Module]:
    """Return the decoder layers of a transformers model."""
    return [part for part in module.modules() if isinstance(part, GradientCheckpointingLayer)]


def find_fsdp_modules(module: torch.nn.Module) -> list[Any]:
    """Return the units of a sharded module, itself included; none for a module that is not sharded."""
    return [part for part in module.modules() if isinstance(part, FSDPModule)]


def broadcast_weights(module: torch.nn.Module, weights: dict[str, torch.Tensor], device: torch.device) -> None:
    """Send the first process's weights, parameters and buffers by name, to every process; the others pass none.

    A sharded parameter keeps its part alone; one whole tensor at a time is on the device.
    """
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(module, {name: weights[name] for name in module.state_dict() if weights}, options=options)
    for name, buffer in module.named_buffers():  # also those that no checkpoint has, such as rotary frequencies
        whole = weights[name].to(device) if weights else torch.empty_like(buffer, device=device)
        torch.distributed.broadcast(whole, 0)
        buffer.copy_(whole)


def gather_weights(module: torch.nn.Module, *, keep: bool) -> dict[str, torch.Tensor]:
    """Return each parameter by name, whole and on the CPU, tied ones once. All processes must call; one may `keep`."""
    kept = {}
    for name, parameter in module.named_parameters():
        whole = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
        if keep:
            kept[name] = whole.detach().cpu()
    return kept
