"""Fine-tuning: the plan of updates, how they are laid out, and the loop that runs them."""

import shutil
from pathlib import Path

# Here, because whoever only asks what lies in a directory need not import torch.
CHECKPOINT_PREFIX = "checkpoint-"
"""Checkpoints: a directory each, whole or not there."""
SEQUENCES = "sequences"
"""The directory of all rows as tokens, while a run is under way."""


def discard_work(directory: Path) -> None:
    """Delete what only a run under way needs, once the model is published."""
    for path in (*directory.glob(f"{CHECKPOINT_PREFIX}*"), directory / SEQUENCES):
        shutil.rmtree(path, ignore_errors=True)
