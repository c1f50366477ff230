"""Fine-tuning: the plan of updates, how they are laid out, and the loop that runs them."""

# Here, because whoever only asks whether there are checkpoints need not import torch.
CHECKPOINT_PREFIX = "checkpoint-"
