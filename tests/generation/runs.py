"""The real program at work on a small folder of code, asking a real server of chat completions."""

import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.chat_server import ChatServer
from tests.support import command, environment

SECRET = "sk-this-key-shows-nowhere"
SEED = 976
SYSTEM = "You write {exercises}."
USER = "Be inspired: {code} - {braces} and {0} stay."

# In the order of their paths, which is that of the corpus. The snippets of the last two, of 3 and of 14 lines, are too
# long for a full answer, and for any.
ODD_DOCUMENTS = {
    "code_inside.py": b"prompt = '{code}'.format(code={}) # {{code}} {0} {problem} %s $x\n",
    "empty.py": b"",
    "line_ends.py": "a = 1\r\nb = 2\rc = '\u2028'\x0cd = 4\x1ce = 5".encode(),
    "marker.py": b"end = '<|endoftext|>'\n",
    "newline.py": b"\n",
    "not_utf8.py": b"# -*- coding: cp1252 -*- caf\xe9\n",
    "nul.py": b"x = '\x00'\n",
    "z_long.py": (b"7, " * 31 + b"7,\n") * 200,
    "z_too_long.py": (b"8, " * 31 + b"8,\n") * 200,
}
LIMITS = {"max_new_tokens": 200, "model_max_tokens": 400}
ORDINARY = 40
COUNT = ORDINARY + len(ODD_DOCUMENTS) - 2  # snippets; the empty document and the binary one give none


@dataclass(frozen=True)
class Ended:
    """What a finished program left."""

    status: int
    stdout: str
    stderr: str

    @property
    def only_line(self) -> str:
        """The one line on standard error."""
        (line,) = self.stderr.splitlines()
        return line


@dataclass(frozen=True)
class Program:
    """The real program in a folder of its own, asking `server` about the snippets of `code`.

    Whatever a test is about, no run may show a traceback, nor the key anywhere.
    """

    place: Path
    code: Path
    vocabulary: Path
    server: ChatServer

    @property
    def out(self) -> Path:
        return self.place / "made"

    def start(self, *overrides: str, **variables: str) -> subprocess.Popen[str]:
        arguments = [
            "stage=generate",
            *([] if any(each.startswith("data/generate=") for each in overrides) else self.local_code),
            f"prompt.system='{SYSTEM}'",
            f"prompt.user='{USER}'",
            "out=made",
            f"teacher.base_url={self.server.base_url}",
            "teacher.timeout=60",
            *(f"teacher.{name}={value}" for name, value in LIMITS.items()),
            *overrides,
        ]
        surroundings = {
            "OPENAI_API_KEY": SECRET,
            "TIKTOKEN_CACHE_DIR": str(self.vocabulary),
            "HTTPS_PROXY": "http://127.0.0.1:9",  # nothing gets out, even if it should try
            "NO_PROXY": "127.0.0.1",
        }
        return subprocess.Popen(
            command(*arguments),
            cwd=self.place,
            env=environment(**(surroundings | variables)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @property
    def local_code(self) -> list[str]:
        return ["data/generate=local", f"data.generate.path={self.code}", "data.generate.near_duplicates=false"]

    def ended(self, process: subprocess.Popen[str]) -> Ended:
        with process:
            try:
                stdout, stderr = process.communicate(timeout=120)
            finally:
                process.kill()
        assert "Traceback" not in stderr, stderr
        shown = [stdout, stderr] + [
            path.read_text(errors="replace") for path in self.place.rglob("*") if path.is_file()
        ]
        assert not any(SECRET in text for text in shown)
        return Ended(process.returncode, stdout, stderr)

    def run(self, *overrides: str, **variables: str) -> Ended:
        return self.ended(self.start(*overrides, **variables))

    def result(self) -> tuple[bytes, bytes]:
        """The rows and the rejected rows, to the byte."""
        assert (self.out / "manifest.json").exists()
        return (self.out / "rows.jsonl").read_bytes(), (self.out / "rejected.jsonl").read_bytes()

    def await_count(self, process: subprocess.Popen[str], count: Callable[[], int], wanted: int) -> None:
        """Wait, while the process is at work, until the count is what is wanted or more."""
        while count() < wanted:
            if process.poll() is not None:
                pytest.fail(f"the program ended before its time: {self.ended(process)}")
            time.sleep(0.005)

    def journalled(self) -> set[int]:
        """The indices whose record is whole in the journal."""
        path = self.out / "journal.jsonl"
        lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
        records = map(json.loads, lines)
        return {record["index"] for record in records if not {"sent", "not_charged", "no_room", "left"} & record.keys()}
