"""Save and load checkpoints: parameters and optimizer state, written whole, for any number of devices.

Each process writes its part (torch.distributed.checkpoint), and a resumed process reads the part that it needs, so one
or four devices can continue what two wrote. Writing happens in the background, from a copy in the machine's memory; the
directory gets its final name when everything is on disk.
"""

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
from magicoder.training import CHECKPOINT_PREFIX, list_checkpoints
from magicoder.training.distributed import World
from magicoder.training.optimizers import Optimizer

# A training on one device has no process group, which torch takes for a mistake.
warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)


class Checkpoints:
    """The checkpoints of one training in `directory`; the newest `keep` remain.

    Example:
        start = checkpoints.resume()   # 0 without a checkpoint
        checkpoints.save(update=20)    # returns at once, writes in the background
        checkpoints.finish()
    """

    def __init__(
        self, directory: Path, keep: int, world: World, loss_module: torch.nn.Module, optimizer: Optimizer
    ) -> None:
        self._directory, self._keep, self._world = directory, keep, world
        self._loss_module, self._optimizer = loss_module, optimizer
        self._alone = world.kind == "one"
        # The background thread communicates while the training does, so it needs a process group of its own:
        # collectives of one group must happen in the same order everywhere.
        self._group = None if self._alone else torch.distributed.new_group(backend="gloo")
        self._writing: tuple[Future, Path, Path] | None = None

    def resume(self) -> int:
        """Load the newest checkpoint; return the number of its updates, 0 without a checkpoint."""
        newest = self._world.run_on_first(lambda: next(reversed(list_checkpoints(self._directory)), None))
        if newest is None:
            return 0
        # Loading fills tensors that exist, in place; an optimizer before its first step has none.
        self._optimizer.initialize_state()
        state = self._collect_state()
        load(state, storage_reader=FileSystemReader(newest), no_dist=self._alone)
        for entries, step in zip(self._list_optimizer_state(), state["steps"].tolist(), strict=True):
            entries["step"] = step
        return int(newest.name.removeprefix(CHECKPOINT_PREFIX))

    def save(self, update: int) -> None:
        """Start writing the state after `update` updates. Training may continue as soon as this returns.

        Errors: OSError if this checkpoint or the former one cannot be written.
        """
        # One write at a time: two would need two copies of the state in memory.
        self.finish()
        final = self._directory / f"{CHECKPOINT_PREFIX}{update:06d}"
        # One process decides for all: on a network file system they may see different things.
        if self._world.broadcast(final.exists()):
            return
        self._optimizer.initialize_state()
        building = self._world.run_on_first(
            lambda: Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=self._directory))
        )
        writing: Any = async_save(
            self._collect_state(),
            # Each file is on disk before the rename that makes the checkpoint count.
            storage_writer=FileSystemWriter(building, sync_files=True),
            process_group=self._group,
            no_dist=self._alone,
        )
        self._writing = writing, building, final

    def finish(self) -> None:
        """Wait until the current checkpoint is written, then delete those that are too old."""
        if self._writing is None:
            return
        (writing, building, final), self._writing = self._writing, None
        try:
            writing.result()
        except CheckpointException as failure:
            # The others may have written their parts; a directory that is half-written helps nobody.
            if self._world.is_first:
                shutil.rmtree(building, ignore_errors=True)
            raise _find_disk_error(failure, final) from failure
        self._world.run_on_first(lambda: self._publish(building, final))

    def finish_if_written(self) -> None:
        """Finish without waiting: do nothing while the checkpoint is being written."""
        if self._writing is not None and self._world.broadcast(self._writing[0].done()):
            self.finish()

    def _publish(self, building: Path, final: Path) -> None:
        # The rename comes last: a directory with this name is complete, whenever the machine stops.
        sync_directory(building)
        os.replace(building, final)
        sync_directory(self._directory)
        # Only after the new one is on disk: at every instant one is whole.
        for former in list_checkpoints(self._directory)[: -self._keep]:
            shutil.rmtree(former)

    def _collect_state(self) -> dict[str, torch.Tensor]:
        """Return every tensor by name; optimizer state under the name of its parameter."""
        names: dict[torch.Tensor, str] = {parameter: name for name, parameter in self._loss_module.named_parameters()}
        state: dict[str, torch.Tensor] = {name: parameter.detach() for parameter, name in names.items()}
        for parameter, entries in self._optimizer.state.items():
            tensors = {key: entry for key, entry in entries.items() if isinstance(entry, torch.Tensor)}
            state |= {f"{names[parameter]}.{key}": tensor for key, tensor in tensors.items()}
        # Of all parameters in one tensor: the loader fills tensors in place, and leaves numbers alone.
        steps = [entries["step"] for entries in self._list_optimizer_state()]
        return {**state, "steps": torch.tensor(steps, dtype=torch.int64)}

    def _list_optimizer_state(self) -> list[dict[str, Any]]:
        """Return the optimizer's state of each trained parameter in the model's order, which is the same in all
        runs."""
        return [
            self._optimizer.state[parameter] for parameter in self._loss_module.parameters() if parameter.requires_grad
        ]


def _find_disk_error(failure: CheckpointException, path: Path) -> BaseException:
    """Return the disk's error, which torch's writer hides behind one of its own; the latter if there is none."""
    for error, _ in failure.failures.values():
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, OSError):
                return OSError(cause.errno, cause.strerror, str(path))
            cause = cause.__context__
    return failure
