"""Checkpoints: the parameters and the optimizer's state, whole or not there, for any number of devices.

Each process writes its part (torch.distributed.checkpoint), and whoever resumes reads the part that it needs, so that
one or four devices may go on from what two wrote. Writing happens in the background, from a copy in the machine's
memory; the directory gets its name once all of it is on disk.
"""

import errno
import os
import shutil
import tempfile
import warnings
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save

from magicoder.storage.files import TEMPORARY_PREFIX, sync_directory
from magicoder.training import CHECKPOINT_PREFIX
from magicoder.training.adafactor import Adafactor
from magicoder.training.distributed import World

# One process without a process group is what some trainings are, and no reason to warn.
warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)


class Checkpoints:
    """The checkpoints of one training in `directory`, of which the newest `keep` are kept."""

    def __init__(
        self, directory: Path, keep: int, world: World, loss_module: torch.nn.Module, optimizer: Adafactor
    ) -> None:
        self._directory, self._keep, self._cluster = directory, keep, world
        self._objective, self._optimizer = loss_module, optimizer
        self._alone = world.kind == "one"
        # The background talks beside the training, so not over the group in which the training talks.
        self._group = None if self._alone else torch.distributed.new_group(backend="gloo")
        self._writing: tuple[Future, Path, Path] | None = None

    def resume(self) -> int:
        """Load the newest checkpoint; return how many updates it is after, 0 if there is none."""
        newest = self._cluster.on_first(lambda: max(saved(self._directory), default=None))
        if newest is None:
            return 0
        self._optimizer.initialize_state()
        state = self._state()
        load(state, storage_reader=FileSystemReader(newest), no_dist=self._alone)
        for entries, step in zip(self._optimizer_entries(), state["steps"].tolist(), strict=True):
            entries["step"] = step
        return int(newest.name.removeprefix(CHECKPOINT_PREFIX))

    def save(self, update: int) -> None:
        """Begin to write the state after `update` updates. It may change as soon as this returns.

        Errors: OSError if this one or the former cannot be written.
        """
        self.finish()
        final = self._directory / f"{CHECKPOINT_PREFIX}{update:06d}"
        if self._cluster.shared(final.exists()):
            return
        self._optimizer.initialize_state()
        building = self._cluster.on_first(lambda: Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=self._directory)))
        writing: Any = async_save(
            self._state(),
            storage_writer=FileSystemWriter(building),
            process_group=self._group,
            no_dist=self._alone,
        )
        self._writing = writing, building, final

    def finish(self) -> None:
        """Wait until what is being written is whole, then drop those that are too old."""
        if self._writing is None:
            return
        (writing, building, final), self._writing = self._writing, None
        try:
            writing.result()
        except CheckpointException as failure:
            if self._cluster.is_first:
                shutil.rmtree(building, ignore_errors=True)
            raise _disk_error(failure, final) from failure
        self._cluster.on_first(lambda: self._publish(building, final))

    def finish_if_written(self) -> None:
        """The same, without waiting: nothing happens while it is being written."""
        if self._writing is not None and self._cluster.shared(self._writing[0].done()):
            self.finish()

    def _publish(self, building: Path, final: Path) -> None:
        sync_directory(building)
        os.replace(building, final)
        sync_directory(self._directory)
        for former in saved(self._directory)[: -self._keep]:
            shutil.rmtree(former)

    def _state(self) -> dict[str, torch.Tensor]:
        """Every tensor by name, the optimizer's behind the parameter's."""
        names: dict[torch.Tensor, str] = {parameter: name for name, parameter in self._objective.named_parameters()}
        state: dict[str, torch.Tensor] = {name: parameter.detach() for parameter, name in names.items()}
        for parameter, entries in self._optimizer.state.items():
            tensors = {key: entry for key, entry in entries.items() if isinstance(entry, torch.Tensor)}
            state |= {f"{names[parameter]}.{key}": tensor for key, tensor in tensors.items()}
        steps = [entries["step"] for entries in self._optimizer_entries()]
        return {**state, "steps": torch.tensor(steps, dtype=torch.int64)}

    def _optimizer_entries(self) -> list[dict[str, Any]]:
        """The optimizer's state of each trained parameter, in the model's order, whatever order they were met in."""
        return [
            self._optimizer.state[parameter] for parameter in self._objective.parameters() if parameter.requires_grad
        ]


def saved(directory: Path) -> list[Path]:
    """The checkpoints in `directory`, the newest last."""
    return sorted(directory.glob(f"{CHECKPOINT_PREFIX}*"))


def _disk_error(failure: CheckpointException, path: Path) -> OSError:
    """What kept a process from writing. torch's writer hides the disk's error behind one of its own."""
    for error, _ in failure.failures.values():
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, OSError):
                return OSError(cause.errno, cause.strerror, str(path))
            cause = cause.__context__
    return OSError(errno.EIO, "could not be written", str(path))
