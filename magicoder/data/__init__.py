"""What the rows are: seed snippets, answers, duplicates, leaks, instruction pairs. Pure: no model, no server."""
