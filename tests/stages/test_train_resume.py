"""The train stage disturbed: killed, stopped, without room on the disk; the same command ends with the same model."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from magicoder.runtime.errors import Interrupted
from magicoder.training.gradients import Gradients
from magicoder.training.loop import Training
from magicoder.training.tracker import Tracker
from tests.stages.trainings import (
    UPDATES,
    arguments,
    assert_close_result,
    assert_same_result,
    checkpoints,
    curve,
    descendants,
    lines,
    names,
    process_of_rank,
    signalled,
    when_done,
)
from tests.support import command, environment, read_jsonl, run_command, torchrun


def started(line: list[str], folder: Path) -> subprocess.Popen[str]:
    """A command that is left to run in the folder."""
    return subprocess.Popen(
        line, cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def killed_after(line: list[str], folder: Path, updates: int, moment: float) -> bool:
    """Run a command and kill all its processes so many seconds after an update; whether it had not ended by then."""
    process = started(line, folder)
    running = when_done(process, folder, updates)
    time.sleep(moment)
    for each in (process.pid, *descendants(process.pid)) if running else ():
        os.kill(each, signal.SIGKILL)
    process.communicate()
    return process.returncode != 0


# --- killed ----------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_killed_at_random_it_ends_with_the_same_weights(
    training_folder: Path, tiny_model: Path, train_here: Callable[..., Path], undisturbed: Path
) -> None:
    chance = random.Random(0)
    line = command(*arguments(tiny_model))
    kills = [killed_after(line, training_folder, aim, chance.uniform(0, 0.05)) for aim in (1, 4, 8)]
    assert sum(kills) >= 2
    assert_same_result(train_here("out=outputs/magicoder"), undisturbed)


@pytest.mark.long
def test_two_killed_processes_end_with_the_same_weights(training_folder: Path, tiny_model: Path) -> None:
    chance = random.Random(1)
    # One start of a sweep: the killed training resumes, then an undisturbed one begins.
    line = torchrun(
        2, "-m", *arguments(tiny_model, "parallel=fsdp", "train.num_train_epochs=10", "train.name=killed,whole")
    )
    assert killed_after(line, training_folder, 4, chance.uniform(0, 0.05))
    sweeps = training_folder / "outputs" / "sweeps"
    assert not (sweeps / "whole").exists()
    finished = run_command(line, cwd=training_folder)
    assert finished.returncode == 0, finished.stderr
    ((killed,), (whole,)) = (
        [path.parent for path in (sweeps / name).glob("*/manifest.json")] for name in ("killed", "whole")
    )
    assert_same_result(killed, whole)


# --- stopped ---------------------------------------------------------------------------------------------------------


def test_signal_ends_with_its_status_and_the_command_resumes(
    training_folder: Path,
    tiny_model: Path,
    program: Callable[..., tuple[int, str, str]],
    train_here: Callable[..., Path],
    undisturbed: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = training_folder / "outputs" / "magicoder"
    line = arguments(tiny_model, "train.save_every=1000")  # so that only the signal saves
    told = "stopped by {}: {} of 12 updates are kept; the same command resumes\n"
    process = started(command(*line), training_folder)
    assert when_done(process, out, 2)
    process.send_signal(signal.SIGUSR1)
    _, errors = process.communicate(timeout=60)
    kept = lines(out / "metrics.jsonl")
    assert (process.returncode, errors) == (138, told.format("SIGUSR1", kept))
    assert checkpoints(out) == [f"checkpoint-{kept:06d}"]
    with monkeypatch.context() as patch:
        signalled(patch, 11, signal.SIGTERM)
        status, _, errors = program(*line)
    assert (status, errors) == (143, told.format("SIGTERM", 11))
    assert checkpoints(out) == ["checkpoint-000011"]
    assert_same_result(train_here(f"out={out}"), undisturbed)


def test_a_stop_is_answered_before_the_next_micro_batch(
    train_here: Callable[..., Path], training_folder: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = []
    add = Gradients.add

    def counting(self: Gradients, loss: torch.Tensor, *, last: bool) -> None:
        passes.append(last)
        if passes.count(True) == 3 and not last:  # within the fourth update
            os.kill(os.getpid(), signal.SIGTERM)
        add(self, loss, last=last)

    two_passes_each = ("train.layout=padded", "train.save_every=1000")
    with monkeypatch.context() as patch, pytest.raises(Interrupted, match="3 of 12 updates are kept"):
        patch.setattr(Gradients, "add", counting)
        train_here(*two_passes_each)
    assert len(passes) == 7
    assert checkpoints(training_folder / "made") == ["checkpoint-000003"]
    whole = train_here("train.layout=padded", f"out={training_folder}/whole")
    assert_same_result(train_here(*two_passes_each), whole)
    assert curve(whole)[0] == pytest.approx(curve(undisturbed)[0], abs=1e-3)


@pytest.mark.parametrize("update", [0, 5])
def test_updates_before_a_signal_are_kept_before_tracker_ends(
    train_here: Callable[..., Path],
    training_folder: Path,
    undisturbed: Path,
    monkeypatch: pytest.MonkeyPatch,
    update: int,
) -> None:
    # The tracker's end may wait for a network until somebody loses patience and kills.
    close = Tracker.close
    kept: list[list[str]] = []

    def closing(self: Tracker) -> None:
        kept.append(checkpoints(training_folder / "made"))
        close(self)

    with monkeypatch.context() as patch:
        signalled(patch, update)
        patch.setattr(Tracker, "close", closing)
        with pytest.raises(Interrupted, match=f"{update} of {UPDATES} updates are kept") as raised:
            train_here("train.save_every=1000")
    assert raised.value.exit_status == 143
    assert kept == [[f"checkpoint-{update:06d}"] if update else []]
    assert_same_result(train_here("train.save_every=1000"), undisturbed)


@pytest.mark.long
def test_signal_to_one_of_two_stops_both_and_any_count_resumes(
    training_folder: Path, tiny_model: Path, train_here: Callable[..., Path]
) -> None:
    same = ("train.bf16=false", "train.num_train_epochs=4")
    whole = train_here(*same, f"out={training_folder}/whole")
    spread = arguments(tiny_model, *same, "parallel=fsdp")
    process = started(torchrun(2, *spread, "train.save_every=1000"), training_folder)
    out = training_folder / "outputs" / "magicoder"
    assert when_done(process, out, 4)
    os.kill(process_of_rank(process.pid, 1), signal.SIGUSR1)
    _, errors = process.communicate(timeout=60)
    kept = lines(out / "metrics.jsonl")
    assert 4 <= kept < len(curve(whole))
    assert errors.count(f"stopped by SIGUSR1: {kept} of {len(curve(whole))} updates are kept") == 1
    assert checkpoints(out) == [f"checkpoint-{kept:06d}"]
    copy = training_folder / "copy"
    copy.mkdir()
    subprocess.run(["cp", "-r", f"{out}/.", str(copy)], check=True)
    assert_close_result(train_here(*same, f"out={out}"), whole)
    four = run_command(torchrun(4, *spread, f"out={copy}"), cwd=training_folder)
    assert four.returncode == 0, four.stderr
    assert_close_result(copy, whole)
    assert curve(copy)[:kept] == curve(out)[:kept]


# --- no room ---------------------------------------------------------------------------------------------------------


def test_full_disk_is_one_line_and_former_checkpoint_resumes(
    training_folder: Path,
    tiny_model: Path,
    train_here: Callable[..., Path],
    undisturbed: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        signalled(patch, 3)
        train_here()
    out = training_folder / "made"
    # A checkpoint's file takes over 100 KB: with a limit of 40 KB a file none can be written.
    limited = run_command(
        ["bash", "-c", 'ulimit -f 40; trap "" XFSZ; exec "$@"', "bash", *command(*arguments(tiny_model, "out=made"))],
        cwd=training_folder,
    )
    assert limited.returncode == 1
    assert limited.stderr == "error: made/checkpoint-000004: File too large; what was written before is kept\n"
    work = {"checkpoint-000003", "sequences", "started.json"}
    assert names(out) == work | {"metrics.jsonl", "samples.jsonl", "rejected.jsonl"}
    assert not list(out.glob(".unfinished-*"))
    assert_same_result(train_here(), undisturbed)


def test_a_run_that_began_without_samples_ends_with_them(
    train_here: Callable[..., Path], undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        signalled(patch, 5)
        train_here("track.samples=0")
    out = train_here()
    assert_same_result(out, undisturbed)
    assert ["after" in row for row in read_jsonl(out / "samples.jsonl")] == [True, True]


def test_a_signal_in_the_last_update_is_answered(
    train_here: Callable[..., Path], training_folder: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    updates = Training.run_updates

    def signalled_in_the_last(self: Training, start: int, stopping: Callable[[], bool]):
        for report in updates(self, start, stopping):
            if report.update == UPDATES:
                os.kill(os.getpid(), signal.SIGTERM)
            yield report

    with monkeypatch.context() as patch, pytest.raises(Interrupted, match="12 of 12 updates are kept"):
        patch.setattr(Training, "run_updates", signalled_in_the_last)
        train_here("train.save_every=1000")
    assert checkpoints(training_folder / "made") == ["checkpoint-000012"]
    assert_same_result(train_here("train.save_every=1000"), undisturbed)
    assert "checkpoint-000012" not in names(training_folder / "made")
