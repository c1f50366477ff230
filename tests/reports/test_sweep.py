"""The results of a sweep: the best job first, unfinished ones named, foreign directories omitted."""

import json
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from PIL import Image

from magicoder.reports.sweep import summarize
from magicoder.runtime.errors import UserError
from tests.support import write_jsonl


def job(
    folder: Path,
    name: str,
    losses: list[float],
    stage: str = "train",
    record: str = "manifest.json",
    config: dict | None = None,
) -> Path:
    """A job's directory: finished, or with record="started.json" begun."""
    rows = [{"update": n, "loss": loss, "learning_rate": 1e-5} for n, loss in enumerate(losses, start=1)]
    write_jsonl(folder / name / "metrics.jsonl", rows)
    counts = {"in": 3, "cut": 0, "updates": len(losses), "loss": losses[-1]}
    manifest = {
        "stage": stage,
        "config": config or {},
        "inputs": {},
        "counts": counts,
        "outputs": {},
        "seconds": 12.345,
    }
    (folder / name / record).write_text(json.dumps(manifest))
    return folder / name


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file())


def test_jobs_are_told_the_best_first(tmp_path: Path) -> None:
    folder = tmp_path / "magicoder"
    job(folder, "train.learning_rate=1e-05", [2.0] * 18 + [1.0, 0.5])
    job(folder, "train.learning_rate=5e-05", [0.25])
    job(folder, "train.learning_rate=1e-04", [float(n) for n in range(15, 0, -1)])
    summarize(folder)
    text = (folder / "sweep.md").read_text()
    assert text.startswith("# Sweep <code>magicoder</code>\n")
    assert [line for line in text.splitlines() if line.startswith("|")] == [
        "| job | final loss | mean of the last tenth | updates | seconds |",
        "| --- | --- | --- | --- | --- |",
        "| <code>train.learning_rate=5e-05</code> | 0.2500 | 0.2500 | 1 | 12.3 |",
        "| <code>train.learning_rate=1e-05</code> | 0.5000 | 0.7500 | 20 | 12.3 |",
        "| <code>train.learning_rate=1e-04</code> | 1.0000 | 1.5000 | 15 | 12.3 |",
    ]
    assert "![The loss of each job over the updates](sweep.png)" in text
    assert "Not finished" not in text
    with Image.open(folder / "sweep.png") as image:
        assert image.format == "PNG"


def test_a_job_is_named_by_the_keys_alone_in_which_it_differs(tmp_path: Path) -> None:
    for rate in (1e-5, 2e-5):
        job(tmp_path, f"a long name cut off-{rate}", [rate], config={"train": {"learning_rate": rate, "seed": 42}})
    summarize(tmp_path)
    text = (tmp_path / "sweep.md").read_text()
    assert "<code>train.learning_rate=1e-05</code> |" in text
    assert "seed" not in text


def test_unfinished_jobs_are_listed_and_other_folders_are_not(tmp_path: Path) -> None:
    job(tmp_path, "train.seed=1", [1.0])
    job(tmp_path, "train.seed=2", [1.0], record="started.json")
    job(tmp_path, "train.seed=3", [1.0], record="started.json")
    job(tmp_path, "cleaned", [1.0], stage="clean")
    job(tmp_path, "being cleaned", [1.0], stage="clean", record="started.json")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/manifest.json").write_text("no JSON")
    (tmp_path / "file").write_text("")
    summarize(tmp_path)
    text = (tmp_path / "sweep.md").read_text()
    assert text.endswith("Not finished:\n\n- <code>train.seed=2</code>\n- <code>train.seed=3</code>\n")
    assert text.count("train.seed=1") == 1
    assert "clean" not in text
    assert "foreign" not in text


def test_nothing_is_written_before_a_job_is_finished(tmp_path: Path) -> None:
    job(tmp_path, "train.seed=1", [1.0], record="started.json")
    summarize(tmp_path)
    assert files(tmp_path) == []


def test_a_second_summary_is_the_same_as_the_first(tmp_path: Path) -> None:
    for seed in range(3):
        job(tmp_path, f"train.seed={seed}", [2.0, 1.0])
    summarize(tmp_path)
    first = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    summarize(tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in files(tmp_path)} == first
    assert [*first] == ["sweep.md", "sweep.png"]


def test_sparse_losses_still_have_a_mean(tmp_path: Path) -> None:
    directory = job(tmp_path, "train.logging_steps=8", [1.0] * 20)
    rows = [{"update": n, "loss": float(n), "learning_rate": 1e-5} for n in (8, 16, 20)]
    write_jsonl(directory / "metrics.jsonl", rows)
    summarize(tmp_path)
    assert "| 1.0000 | 20.0000 | 20 |" in (tmp_path / "sweep.md").read_text()


def test_names_of_jobs_cannot_break_the_table(tmp_path: Path) -> None:
    name = "prompt.template=a|b `c` <d> [e](f)\n| g |"
    job(tmp_path, name, [1.0])
    job(tmp_path, f"{name}2", [1.0], record="started.json")
    summarize(tmp_path)
    page = MarkdownIt("commonmark").enable("table").render((tmp_path / "sweep.md").read_text())
    assert page.count("<tr>") == 2
    assert page.count("<td>") == 5
    assert "<td><code>prompt.template=a|b `c` &lt;d&gt; [e](f) | g |</code></td>" in page
    assert page.count("<li>") == 1


def test_a_finished_job_without_its_metrics_is_named(tmp_path: Path) -> None:
    (job(tmp_path, "train.seed=1", [1.0]) / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match=r"train\.seed=1/metrics\.jsonl"):
        summarize(tmp_path)
    assert files(tmp_path) == []
