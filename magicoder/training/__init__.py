"""Fine-tuning: the plan of updates, their layout on devices, and the loop that runs them."""

import shutil
from pathlib import Path

# Defined here because a complete stage must not import torch.
CHECKPOINT_PREFIX = "checkpoint-"
"""Prefix of the checkpoints' directories, each written whole."""
SEQUENCES = "sequences"
"""The directory of the tokenized rows, while a run is in progress."""


def discard_work(directory: Path) -> None:
    """Delete checkpoints and tokenized rows after the model is published."""
    for path in (*directory.glob(f"{CHECKPOINT_PREFIX}*"), directory / SEQUENCES):
        shutil.rmtree(path, ignore_errors=True)
