"""Decide which rows may stay: duplicates, benchmark leaks, instruction pairs."""
