"""Fine-tuning: the plan of updates, how they are laid out, and the loop that runs them."""
