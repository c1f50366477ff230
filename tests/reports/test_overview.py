"""The table of what is finished."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import run_main, write_jsonl


def overview(folder: Path, *arguments: str, columns: str = "80") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "magicoder.reports.overview", *arguments],
        cwd=folder,
        env={"COLUMNS": columns, "PATH": "/usr/bin"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_finished_stages_are_listed_and_unfinished_ones_are_not(tmp_path: Path) -> None:
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


def finished(folder: Path) -> None:
    """A directory as a finished stage leaves it, without its rows."""
    folder.mkdir(parents=True)
    counts = {"in": 3, "out": 2, "rejected": 1}
    manifest = {"stage": "clean", "config": {}, "counts": counts, "began": "2024-01-01T00:00:00Z", "seconds": 1.0}
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("content", ['{"name": "My app"}', "[]", "{", '{"stage": "production", "config": {}}'])
def test_manifests_of_other_programs_are_passed_over(tmp_path: Path, content: str) -> None:
    finished(tmp_path / "outputs" / "clean")
    (tmp_path / "outputs" / "app").mkdir()
    (tmp_path / "outputs" / "app" / "manifest.json").write_text(content)
    shown = overview(tmp_path, "outputs")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "clean" in shown.stdout
    assert "app" not in shown.stdout


@pytest.mark.parametrize("name", ["data_files=[red]", "data_files=[/b]"])
def test_brackets_in_names_are_shown_as_they_are(tmp_path: Path, name: str) -> None:
    """Jobs of sweeps are named by overrides, which hold lists; the table would take them for markup."""
    finished(tmp_path / "outputs" / name)
    shown = overview(tmp_path, "outputs")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert name in shown.stdout


@pytest.mark.parametrize("name", ["[red]", "[/b]"])
def test_brackets_in_a_folder_name_are_shown_as_they_are(tmp_path: Path, name: str) -> None:
    finished(tmp_path / name / "clean")
    shown = overview(tmp_path, name)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert f"Finished below {name}" in shown.stdout


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    wrong = overview(tmp_path, "nowhere")
    assert wrong.returncode == 1
    assert len(wrong.stderr.splitlines()) == 1
