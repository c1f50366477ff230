"""The table of what is finished."""

import subprocess
import sys
from pathlib import Path

from tests.conftest import run_main, write_jsonl


def overview(folder: Path, *arguments: str, columns: str = "80") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "magicoder.overview", *arguments],
        cwd=folder,
        env={"COLUMNS": columns, "PATH": "/usr/bin"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_finished_stages_are_listed_with_what_went_in_and_out_and_unfinished_ones_are_not(tmp_path: Path) -> None:
    rows = [{"seed": text, "problem": text, "solution": text} for text in ("a", "b", "b")]
    data = write_jsonl(tmp_path / "data-python-0.jsonl", rows)
    assert run_main("stage=clean", f"data.clean.data_files=[{data}]", cwd=tmp_path).returncode == 0
    (tmp_path / "outputs" / "decontaminate").mkdir()
    wide = overview(tmp_path, "outputs")
    assert wide.returncode == 0, wide.stderr
    (line,) = (line.split() for line in wide.stdout.splitlines() if "clean" in line)
    assert line[:4] == ["clean", "3", "2", "1"]
    assert line[-1] == "clean"
    assert "decontaminate" not in wide.stdout
    narrow = overview(tmp_path, "outputs", columns="40")
    assert max(map(len, narrow.stdout.splitlines())) <= 40


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    wrong = overview(tmp_path, "nowhere")
    assert wrong.returncode == 1
    assert len(wrong.stderr.splitlines()) == 1
