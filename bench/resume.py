"""Measure how the cost of resuming grows with the rows done: `python bench/resume.py [ROWS ...]`.

For each number of rows it builds a run that was killed before its last row, and lets the real program resume. The table
shows seconds from the start to the one request and to the end, and the peak memory.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

from tests.teacher.vocabulary import cache_vocabulary  # noqa: E402 - the tests are in no package that is installed

SNIPPET = (
    "def total(values):\n    result = 0\n    for value in values:\n        result += value\n    return result\n" * 2
)
PROGRAM = [sys.executable, str(PROJECT / "main.py"), "stage=generate", "data/generate=local", "out=made"]


def main() -> None:
    numbers = [int(word) for word in sys.argv[1:]] or [1_000, 100_000, 1_000_000]
    print("| rows | to the request, s | to the end, s | peak memory, MB | journal, MB |")
    print("|---|---|---|---|---|")
    for number in numbers:
        with tempfile.TemporaryDirectory() as scratch:
            print(measure(number, Path(scratch)), flush=True)


def measure(number: int, place: Path) -> str:
    server = [sys.executable, PROJECT / "bench/chat_mock.py", "0.01"]
    with subprocess.Popen(server, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as mock:
        port = int(mock.stdout.readline())
        (place / "code").mkdir()
        (place / "code" / "one.py").write_text("one = 1\n")
        run(place, port)
        read_report(mock)
        fake_progress(place / "made", number)
        begun = time.time()
        memory = run(place, port)
        ended = time.time()
        asked, first = read_report(mock)
        mock.stdin.close()
    assert asked == 1, f"{asked} rows were asked again"
    journal = (place / "made" / "journal.jsonl").stat().st_size / 1e6
    return f"| {number:,} | {first - begun:.1f} | {ended - begun:.1f} | {memory:.0f} | {journal:,.0f} |"


def run(place: Path, port: int) -> float:
    """Run the program to its end; return its peak memory in megabytes."""
    command = [*PROGRAM, "data.generate.path=code", f"teacher.base_url=http://127.0.0.1:{port}/v1"]
    surroundings = os.environ | {"OPENAI_API_KEY": "none", "TIKTOKEN_CACHE_DIR": str(cache_vocabulary(place))}
    process = subprocess.Popen(command, cwd=place, env=surroundings, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        sys.exit("the program failed")
    return used.ru_maxrss / 1024


def read_report(mock: subprocess.Popen) -> tuple[int, float]:
    """Return the number of requests since the last call, and the time of the first."""
    mock.stdin.write("\n")
    mock.stdin.flush()
    return tuple(json.loads(mock.stdout.readline()))


def fake_progress(made: Path, number: int) -> None:
    """Make the finished run of one row look like a run of `number` rows that was killed before its last."""
    manifest = json.loads((made / "manifest.json").read_bytes())
    (made / "started.json").write_text(json.dumps({key: manifest[key] for key in ("stage", "config", "inputs")}))
    (made / "manifest.json").unlink()
    with open(made / "journal.jsonl") as file:
        records = [json.loads(line) for line in file]  # that it was sent, and its answer
    with open(made / "snippets.jsonl", "w") as snippets, open(made / "journal.jsonl", "w") as journal:
        for index in range(number):
            snippets.write(json.dumps({"raw_index": index, "index": index, "seed": f"# {index}\n{SNIPPET}"}) + "\n")
            if index < number - 1:
                journal.writelines(json.dumps({**record, "index": index}) + "\n" for record in records)


if __name__ == "__main__":
    main()
