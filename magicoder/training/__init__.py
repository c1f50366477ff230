"""Fine-tuning: the plan of updates, their layout on devices, and the loop that runs them."""

import re
import shutil
from pathlib import Path

# Defined here because a complete stage must not import torch.
CHECKPOINT_PREFIX = "checkpoint-"
"""Prefix of the checkpoints' directories, each written whole."""
SEQUENCES = "sequences"
"""The directory of the tokenized rows, while a run is in progress."""


def discard_work(directory: Path) -> None:
    """Delete checkpoints and tokenized rows after the model is published."""
    for path in (*list_checkpoints(directory), directory / SEQUENCES):
        shutil.rmtree(path, ignore_errors=True)


def list_checkpoints(directory: Path) -> list[Path]:
    """List the checkpoints in `directory`, the newest last. A directory of another name, such as a user's copy, is
    none."""
    named = {
        path: re.fullmatch(rf"{CHECKPOINT_PREFIX}(\d{{6,}})", path.name)
        for path in directory.glob(f"{CHECKPOINT_PREFIX}*")
    }
    updates = {path: int(found[1]) for path, found in named.items() if found is not None}
    return sorted(updates, key=updates.__getitem__)
