"""Start or join the processes of a training, one a device: by torchrun, by Slurm, or by this program itself."""

import atexit
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import torch
import torch.distributed
from lightning.fabric import Fabric
from lightning.fabric.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch.distributed.device_mesh import DeviceMesh

from magicoder.config import ParallelConfig
from magicoder.runtime.errors import UserError
from magicoder.runtime.ranks import find_launched_processes
from magicoder.training.sharding import shard

PATIENCE = timedelta(hours=2)
"""Limit for waiting on another process, which may be tokenizing all rows or loading the weights."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class World:
    """The processes that train together. kind: `one`, `ddp` (a whole model on each device) or `fsdp`."""

    fabric: Fabric
    kind: str

    def __str__(self) -> str:
        """Describe the devices and the placement of the model."""
        placements = {"one": "the whole model", "ddp": "the whole model on each", "fsdp": "the model sharded over them"}
        return f"{self.size} x {self.device.type}, {placements[self.kind]}"

    @property
    def rank(self) -> int:
        """The number of this process, from 0."""
        return self.fabric.global_rank

    @property
    def size(self) -> int:
        """The number of processes."""
        return self.fabric.world_size

    @property
    def size_here(self) -> int:
        """The number of processes on this machine."""
        return self.size // getattr(self.fabric.strategy, "num_nodes", 1)  # one device alone has no such property

    @property
    def is_first(self) -> bool:
        """Whether this process writes and prints for all."""
        return self.fabric.is_global_zero

    @property
    def device(self) -> torch.device:
        """This process's device."""
        return self.fabric.device

    @property
    def mesh(self) -> DeviceMesh:
        """The one dimension over which `fsdp` shards parameters."""
        return self.fabric.strategy.device_mesh["data_parallel"]

    def run_on_first(self, work: Callable[[], Result]) -> Result:
        """Run `work` in the first process; return its result, or raise its error, in every process."""
        outcome: Any = None
        if self.is_first:
            try:
                outcome = work()
            except (UserError, OSError) as error:
                outcome = error
        outcome = self.broadcast(outcome)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def broadcast(self, value: Any) -> Any:
        """Return the first process's `value` in every process."""
        return value if self.kind == "one" else self.fabric.broadcast(value)

    def any(self, *flags: bool) -> list[bool]:
        """Return each flag, true if it is true in any process. Hosts communicate, devices keep working."""
        if self.kind == "one":
            return list(flags)
        reduced = torch.tensor(flags, dtype=torch.int32)
        torch.distributed.all_reduce(reduced, torch.distributed.ReduceOp.MAX)
        return [bool(flag) for flag in reduced.tolist()]

    def gather(self, value: Result) -> list[Result]:
        """Return the value of each process, in rank order."""
        if self.kind == "one":
            return [value]
        values: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(values, value)
        return values

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum a tensor over all processes, in place."""
        if self.kind != "one":
            torch.distributed.all_reduce(tensor)
        return tensor


def launch(settings: ParallelConfig) -> World:
    """Start or join the processes. Errors: UserError for missing devices."""
    for name in ("lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    accelerator = "gpu" if settings.accelerator != "cpu" and torch.cuda.is_available() else "cpu"
    devices, nodes = count_devices(settings)
    kind = "one"
    if devices * nodes > 1:
        kind = "ddp" if settings.strategy == "ddp" else "fsdp"
    if settings.cpu_offload and kind != "fsdp":
        raise UserError("parallel.cpu_offload=true: needs parameters that fsdp shards over several devices")
    fabric = Fabric(
        accelerator=accelerator,
        devices=devices,
        num_nodes=nodes,
        # Parameters are loaded in their dtype: Fabric's "bf16-true" would round the rotary frequencies as well.
        precision="32-true",
        strategy=_choose_strategy(kind, accelerator, devices * nodes, settings.cpu_offload),
    )
    fabric.launch()
    if kind != "one":
        atexit.register(_leave)
    return World(fabric, kind)


def _leave() -> None:
    """Close the process group: threads of gloo that outlive the interpreter would abort it."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def count_devices(settings: ParallelConfig) -> tuple[int, int]:
    """Return the processes on each machine, and the machines. Errors: UserError for missing devices."""
    started = find_launched_processes()
    available = torch.cuda.device_count() if settings.accelerator != "cpu" else 0
    if settings.accelerator == "gpu" and not available:
        raise UserError("parallel.accelerator=gpu: this machine has no GPU")
    if started is not None:
        devices, nodes = started
        chosen = settings.devices
        if chosen not in ("auto", str(devices)):
            raise UserError(
                f"parallel.devices={chosen}: {devices} processes were started on each machine; leave it auto"
            )
    else:
        nodes = settings.num_nodes
        devices = max(available, 1) if settings.devices == "auto" else int(settings.devices)
    if available and devices > available:
        raise UserError(f"parallel.devices={devices}: this machine has {available} GPU{'s' if available > 1 else ''}")
    return devices, nodes


def _choose_strategy(kind: str, accelerator: str, size: int, cpu_offload: bool) -> str | Strategy:
    # Hosts communicate over gloo even where devices use NCCL, so that a question among hosts, such as "did anybody
    # receive a signal?", waits for no device.
    backend = "cpu:gloo,cuda:nccl" if accelerator == "gpu" else "gloo"
    if kind == "ddp":
        return DDPStrategy(process_group_backend=backend, timeout=PATIENCE)
    if kind == "fsdp":
        return ModelParallelStrategy(
            partial(shard, cpu_offload=cpu_offload and accelerator == "gpu"),
            data_parallel_size=size,
            tensor_parallel_size=1,
            process_group_backend=backend,
            timeout=PATIENCE,
        )
    return "auto"
