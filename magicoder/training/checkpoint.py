"""Checkpoints: a directory each, whole or not there, of which the newest is kept."""

import io
import os
import shutil
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_model, save_model

from magicoder.files import TEMPORARY_PREFIX, sync_directory
from magicoder.models import disk_errors
from magicoder.training import CHECKPOINT_PREFIX

WEIGHTS = "model.safetensors"
OPTIMIZER = "optimizer.pt"


def save(directory: Path, update: int, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write the state after `update` updates, then drop the former checkpoint."""
    final = directory / f"{CHECKPOINT_PREFIX}{update:06d}"
    if final.exists():
        return
    building = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=directory))
    try:
        with disk_errors(final):
            save_model(model, str(building / WEIGHTS))
        # Through memory, for torch names no cause when a file cannot be written; factored state is small.
        state = io.BytesIO()
        torch.save(optimizer.state_dict(), state)
        (building / OPTIMIZER).write_bytes(state.getbuffer())
        for name in (WEIGHTS, OPTIMIZER):
            with open(building / name, "rb") as file:
                os.fsync(file.fileno())
        os.replace(building, final)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    sync_directory(directory)
    for former in saved(directory)[:-1]:
        shutil.rmtree(former)


def saved(directory: Path) -> list[Path]:
    """The checkpoints in `directory`, the newest last."""
    return sorted(directory.glob(f"{CHECKPOINT_PREFIX}*"))


def resume(directory: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Load the newest checkpoint into model and optimizer; return how many updates it is after, 0 if there is none."""
    checkpoints = saved(directory)
    if not checkpoints:
        return 0
    newest = checkpoints[-1]
    load_model(model, str(newest / WEIGHTS))
    device = next(model.parameters()).device
    load_optimizer(optimizer, torch.load(newest / OPTIMIZER, map_location=device, weights_only=True))
    return int(newest.name.removeprefix(CHECKPOINT_PREFIX))


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Give the optimizer back its state in the precision it was saved in.

    `Optimizer.load_state_dict` casts float32 state to the dtype of a bfloat16 parameter, after which a resumed run
    differs from an undisturbed one.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, entries in state["state"].items():
        optimizer.state[parameters[number]] = entries
    for group, saved_group in zip(optimizer.param_groups, state["param_groups"], strict=True):
        group.update({key: value for key, value in saved_group.items() if key != "params"})
