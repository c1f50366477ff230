"""The parameters of a model spread over devices by FSDP2, and how weights get there and back."""

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
    """Spread a module without weights over the mesh: each layer a unit, and what is in none with the module itself.

    Parameters compute in their own dtype; gradients are summed over the devices in float32, without a mean: every token
    has its weight in the update already. Afterwards parameters have room, but no values.
    """
    options: dict[str, Any] = {
        "mesh": mesh["data_parallel"],
        "mp_policy": MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False),
        "offload_policy": CPUOffloadPolicy() if cpu_offload else OffloadPolicy(),
    }
    for layer in layers(module):
        fully_shard(layer, **options)
    fully_shard(module, **options)
    register_fsdp_forward_method(module, "generate")
    for part in fsdp_modules(module):
        part.set_gradient_divide_factor(1.0)
        part.set_force_sum_reduction_for_comms(True)  # gloo cannot divide
    return module.to_empty(device="cpu" if cpu_offload else mesh.device_type)


def layers(module: torch.nn.Module) -> list[torch.nn.Module]:
    """The decoder layers of a model of transformers."""
    return [part for part in module.modules() if isinstance(part, GradientCheckpointingLayer)]


def fsdp_modules(module: torch.nn.Module) -> list[Any]:
    """The units of a sharded module, the module itself among them; none of one that is not sharded."""
    return [part for part in module.modules() if isinstance(part, FSDPModule)]


def fill(module: torch.nn.Module, weights: dict[str, torch.Tensor], device: torch.device) -> None:
    """Give every process the weights, parameters and buffers by name, that the first one has; the others pass none.

    A sharded parameter takes its part alone, one whole tensor at a time being on the device.
    """
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(module, {name: weights[name] for name in module.state_dict() if weights}, options=options)
    for name, buffer in module.named_buffers():  # among them those that no checkpoint has, such as rotary frequencies
        whole = weights[name].to(device) if weights else torch.empty_like(buffer, device=device)
        torch.distributed.broadcast(whole, 0)
        buffer.copy_(whole)


def gathered(module: torch.nn.Module, *, keep: bool) -> dict[str, torch.Tensor]:
    """Each parameter whole and on the CPU by name, tied ones once: a joint work of all, for one process to `keep`."""
    kept = {}
    for name, parameter in module.named_parameters():
        whole = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
        if keep:
            kept[name] = whole.detach().cpu()
    return kept
