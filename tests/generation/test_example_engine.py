"""The example that uses the engine without a stage."""

import os
import subprocess
import sys
from pathlib import Path

from tests.chat_server import ChatServer, completion, error
from tests.support import PROJECT


def run_example(*arguments: str | Path) -> str:
    """Run the script as its docstring says; return its output."""
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    environment.pop("OPENAI_API_KEY", None)
    command = [sys.executable, str(Path(PROJECT, "examples", "engine_alone.py")), *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60).stdout


def test_example_retries_and_asks_only_what_is_missing(tmp_path: Path, server: ChatServer) -> None:
    server.script(1, error(500))
    arguments = (server.base_url, "m", tmp_path / "journal.jsonl", "Add.", "Sort.")
    first = run_example(*arguments)
    bodies = [next(each.body for each in server.requests if each.seed == seed) for seed in (0, 1)]
    assert [body["messages"][0]["content"] for body in bodies] == ["Add.", "Sort."]
    assert first == "".join(completion(body)["choices"][0]["message"]["content"] + "\n" for body in bodies)
    assert server.counts() == {0: 1, 1: 2}
    assert run_example(*arguments) == first
    assert server.counts() == {0: 1, 1: 2}
