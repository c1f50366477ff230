"""The benchmarks run on today's code: nothing else calls them, so a renamed function would go unnoticed."""

import sys
from pathlib import Path

import pytest

from tests.support import PROJECT, run_command, write_jsonl


@pytest.mark.long
@pytest.mark.parametrize(
    ("script", "arguments", "part"),
    [
        ("generate.py", ["--rows", "300", "--repetitions", "1", "--contestants", "ours,bare"], "ours: engine"),
        ("resume.py", ["50"], "| 50 |"),
        ("packing.py", ["rows.jsonl"], "packed, 8 devices"),
        (
            "train.py",
            ["rows.jsonl", "--updates", "1", "--repetitions", "1", "--contestants", "packed,padded,chunked"],
            "ours, packed (default)",
        ),
    ],
)
def test_benchmark_runs_and_prints_its_table(tmp_path: Path, script: str, arguments: list[str], part: str) -> None:
    rows = [{"instruction": f"Add {number}.", "response": f"x + {number}\n" * 3} for number in range(32)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    line = [sys.executable, str(PROJECT / "bench" / script), *arguments]
    ended = run_command(line, cwd=tmp_path, timeout=300, PYTHONPATH=str(PROJECT))
    assert ended.returncode == 0, ended.stderr
    assert part in ended.stdout
