"""How rows are generated: plans of requests, a teacher that answers them, rows derived from its answers."""
