"""What the tests of the train stage share: rows, the command, what a run left, and runs that are disturbed."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from magicoder.training.loop import Training, UpdateReport
from tests.support import read_jsonl

ROWS = [
    {"instruction": f"Write a function that adds {number}.", "response": f"def add(x):\n    return x + {number}"}
    for number in range(24)
]
UPDATES = 12


def arguments(model: Path, *more: str) -> list[str]:
    """A training of 12 updates, over the file rows.jsonl of the working directory, that moves the weights."""
    return [
        "stage=train",
        f"model.key={model}",
        "train.datafile_paths=[rows.jsonl]",
        "train.global_batch_size=4",
        "train.warmup_steps=2",
        "train.learning_rate=1e-2",
        "train.save_every=1",
        "track=file",
        "track.samples=2",
        "track.sample_tokens=4",
        "parallel.accelerator=cpu",
        *more,
    ]


def curve(out: Path) -> list[tuple[int, float, float]]:
    """Number, loss and learning rate of each update."""
    return [(row["update"], row["loss"], row["learning_rate"]) for row in read_jsonl(out / "metrics.jsonl")]


def names(directory: Path) -> set[str]:
    """What lies in a directory, but for what is hidden."""
    return {path.name for path in directory.iterdir() if not path.name.startswith(".")}


def checkpoints(directory: Path) -> list[str]:
    """The checkpoints in a directory, the newest last."""
    return sorted(path.name for path in directory.glob("checkpoint-*"))


def lines(path: Path) -> int:
    """Whole lines of a file, 0 where it is not there."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


def assert_same_result(one: Path, other: Path) -> None:
    """Bit for bit the same curve and the same weights."""
    assert curve(one) == curve(other)
    ours, theirs = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def assert_close_result(one: Path, other: Path, tolerance: float = 1e-5) -> None:
    """The same curve and the same weights but for rounding, and weights that have moved at all."""
    for ours, theirs in zip(curve(one), curve(other), strict=True):
        assert ours == pytest.approx(theirs, abs=tolerance)
    assert sum(row["update_norm"] for row in read_jsonl(one / "metrics.jsonl")) > 100 * tolerance
    weights = load_file(other / "model.safetensors")
    for name, tensor in load_file(one / "model.safetensors").items():
        torch.testing.assert_close(tensor, weights.pop(name), rtol=0.0, atol=tolerance)
    assert not weights


# --- runs that are disturbed -----------------------------------------------------------------------------------------


def when_done(process: subprocess.Popen, root: Path, updates: int) -> bool:
    """Wait until a training somewhere below `root` has noted so many updates; whether the process is still there."""
    while process.poll() is None and not has_logged(root, updates):
        time.sleep(0.002)
    return process.poll() is None


def has_logged(root: Path, updates: int) -> bool:
    """Return whether a training below `root` has logged so many updates."""
    try:
        return any(lines(path) >= updates for path in root.rglob("metrics.jsonl"))
    except FileNotFoundError:  # an old checkpoint was deleted during the walk
        return False


def descendants(process: int) -> list[int]:
    """The processes that `process` started, those that these started, and so on."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue  # ended meanwhile
        children.setdefault(int(parent), []).append(int(entry.name))
    found = list(children.get(process, []))
    for child in found:
        found += children.get(child, [])
    return found


def process_of_rank(starter: int, rank: int) -> int:
    """Find the child of `starter` with this rank."""
    return next(each for each in descendants(starter) if f"LOCAL_RANK={rank}" in _environment(each))


def _environment(process: int) -> list[str]:
    return Path(f"/proc/{process}/environ").read_bytes().decode(errors="replace").split("\0")


def signalled(monkeypatch: pytest.MonkeyPatch, update: int, number: int = signal.SIGTERM) -> None:
    """Let this process get a signal after that update of its next training; after 0: before the first one."""
    during(monkeypatch, update, lambda: os.kill(os.getpid(), number))


def during(monkeypatch: pytest.MonkeyPatch, update: int, event: Callable[[], None]) -> None:
    """Let `event` happen after that update, noted and maybe saved by then, of the next training in this process."""
    updates = Training.run_updates

    def disturbed(self: Training, start: int, stopping: Callable[[], bool]) -> Iterator[UpdateReport]:
        if update == start:
            event()
        for report in updates(self, start, stopping):
            yield report
            if report.update == update:
                event()

    monkeypatch.setattr(Training, "run_updates", disturbed)
