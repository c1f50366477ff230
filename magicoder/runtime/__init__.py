"""The process itself: errors, signals, ranks, progress."""
