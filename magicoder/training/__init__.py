"""Fine-tuning: the plan of updates, how they are laid out, and the loop that runs them."""

# Here, because whoever only asks what lies in a directory need not import torch.
CHECKPOINT_PREFIX = "checkpoint-"
"""Checkpoints: a directory each, whole or not there."""
SEQUENCES = "sequences"
"""The directory of all rows as tokens, while a run is under way."""
