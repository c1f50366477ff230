"""One module a stage: `problems(config)` finds what is wrong before any work, `run(config)` does the work."""
