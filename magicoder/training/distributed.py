"""The processes of a training, one a device: started by torchrun, by Slurm, or by this program itself."""

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
from magicoder.runtime.ranks import started_elsewhere
from magicoder.training.sharding import shard

PATIENCE = timedelta(hours=2)
"""How long a process waits for another one, which may be encoding all rows or loading the weights."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class World:
    """The processes that train together. `kind` is `one`, `ddp` (a whole model on each device) or `fsdp`."""

    fabric: Fabric
    kind: str

    def __str__(self) -> str:
        """Devices and how the model lies on them."""
        ways = {"one": "the whole model", "ddp": "the whole model on each", "fsdp": "the model spread over them"}
        return f"{self.size} x {self.device.type}, {ways[self.kind]}"

    @property
    def rank(self) -> int:
        """The number of this process, from 0."""
        return self.fabric.global_rank

    @property
    def size(self) -> int:
        """How many processes there are."""
        return self.fabric.world_size

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and speaks for all."""
        return self.fabric.is_global_zero

    @property
    def device(self) -> torch.device:
        """This process's device."""
        return self.fabric.device

    @property
    def mesh(self) -> DeviceMesh:
        """The one dimension over which `fsdp` spreads parameters."""
        return self.fabric.strategy.device_mesh["data_parallel"]

    def on_first(self, work: Callable[[], Result]) -> Result:
        """What `work` returns, or the error that it raises, from the first process to every one."""
        outcome: Any = None
        if self.is_first:
            try:
                outcome = work()
            except (UserError, OSError) as error:
                outcome = error
        outcome = self.shared(outcome)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def shared(self, value: Any) -> Any:
        """The first process's `value`, in every process."""
        return value if self.kind == "one" else self.fabric.broadcast(value)

    def any(self, *flags: bool) -> list[bool]:
        """Each flag, true where it is true in any process. Hosts talk about it, devices go on working."""
        if self.kind == "one":
            return list(flags)
        shared = torch.tensor(flags, dtype=torch.int32)
        torch.distributed.all_reduce(shared, torch.distributed.ReduceOp.MAX)
        return [bool(flag) for flag in shared.tolist()]

    def gathered(self, value: Result) -> list[Result]:
        """The value of each process, in the order of their numbers."""
        if self.kind == "one":
            return [value]
        values: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(values, value)
        return values

    def total(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over all processes, in place."""
        if self.kind != "one":
            torch.distributed.all_reduce(tensor)
        return tensor


def launch(settings: ParallelConfig) -> World:
    """Start or join the processes. Errors: UserError for devices that are not there."""
    for talkative in ("lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(talkative).setLevel(logging.WARNING)
    accelerator = "gpu" if settings.accelerator != "cpu" and torch.cuda.is_available() else "cpu"
    devices, nodes = shape(settings)
    kind = "one"
    if devices * nodes > 1:
        kind = "ddp" if settings.strategy == "ddp" else "fsdp"
    if settings.cpu_offload and kind != "fsdp":
        raise UserError("parallel.cpu_offload=true: is for parameters that fsdp spreads over several devices")
    fabric = Fabric(
        accelerator=accelerator,
        devices=devices,
        num_nodes=nodes,
        # Parameters are loaded in their dtype: Fabric's "bf16-true" would round the rotary frequencies as well.
        precision="32-true",
        strategy=_strategy(kind, accelerator, devices * nodes, settings.cpu_offload),
    )
    fabric.launch()
    if kind != "one":
        atexit.register(_leave)
    return World(fabric, kind)


def _leave() -> None:
    """Take leave of the other processes: threads of gloo's that outlive the interpreter would abort it."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def shape(settings: ParallelConfig) -> tuple[int, int]:
    """Processes on each machine, and machines. Errors: UserError for devices that are not there."""
    started = started_elsewhere()
    there = torch.cuda.device_count() if settings.accelerator != "cpu" else 0
    if settings.accelerator == "gpu" and not there:
        raise UserError("parallel.accelerator=gpu: there is no GPU on this machine")
    if started is not None:
        devices, nodes = started
        asked = settings.devices
        if asked not in ("auto", str(devices)):
            raise UserError(
                f"parallel.devices={asked}: {devices} processes were started on each machine; leave it auto"
            )
    else:
        nodes = settings.nodes
        devices = max(there, 1) if settings.devices == "auto" else int(settings.devices)
    if there and devices > there:
        raise UserError(f"parallel.devices={devices}: this machine has {there} GPU{'s' if there > 1 else ''}")
    return devices, nodes


def _strategy(kind: str, accelerator: str, size: int, cpu_offload: bool) -> str | Strategy:
    # Hosts speak through gloo even where devices speak through NCCL, so that a question between hosts, such as whether
    # anybody was asked to stop, waits for no device.
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
