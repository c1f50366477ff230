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

from magicoder.errors import Interrupted
from magicoder.track import Tracker
from magicoder.training.gradients import Gradients
from tests.conftest import command, environment, run_command, torchrun
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
def test_killed_at_random_points_it_ends_with_the_same_weights_and_the_same_curve(
    training_folder: Path, tiny_model: Path, train_here: Callable[..., Path], undisturbed: Path
) -> None:
    chance = random.Random(0)
    line = command(*arguments(tiny_model))
    kills = [killed_after(line, training_folder, aim, chance.uniform(0, 0.05)) for aim in (1, 4, 8)]
    assert sum(kills) >= 2
    assert_same_result(train_here("out=outputs/magicoder"), undisturbed)


@pytest.mark.long
def test_two_processes_that_are_killed_together_end_with_the_same_weights_and_the_same_curve(
    training_folder: Path, tiny_model: Path
) -> None:
    chance = random.Random(1)
    # A sweep under one start: the killed training goes on, then one that nothing disturbs begins.
    line = torchrun(2, "-m", *arguments(tiny_model, "parallel=fsdp", "train.name=killed,whole"))
    kills = [killed_after(line, training_folder, aim, chance.uniform(0, 0.05)) for aim in (2, 6)]
    sweeps = training_folder / "outputs" / "sweeps"
    assert any(kills)
    assert not (sweeps / "whole").exists()
    finished = run_command(line, cwd=training_folder)
    assert finished.returncode == 0, finished.stderr
    ((killed,), (whole,)) = (
        [path.parent for path in (sweeps / name).glob("*/manifest.json")] for name in ("killed", "whole")
    )
    assert_same_result(killed, whole)


# --- stopped ---------------------------------------------------------------------------------------------------------


def test_a_signal_ends_the_program_with_its_status_and_one_line_and_the_same_command_goes_on(
    training_folder: Path, tiny_model: Path, train_here: Callable[..., Path], undisturbed: Path
) -> None:
    out = training_folder / "outputs" / "magicoder"
    for number, updates in ((signal.SIGUSR1, 2), (signal.SIGTERM, 6)):
        # save_every: so that only the signal saves.
        process = started(command(*arguments(tiny_model, "train.save_every=1000")), training_folder)
        assert when_done(process, out, updates)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 128 + number
        kept = lines(out / "metrics.jsonl")
        told = f"stopped by {number.name}: {kept} of 12 updates are kept; the same command goes on from there\n"
        assert errors == told
        assert checkpoints(out) == [f"checkpoint-{kept:06d}"]
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
def test_after_a_signal_its_updates_are_kept_before_the_tracker_ends(
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
def test_two_processes_of_which_one_gets_a_signal_stop_and_one_or_four_devices_go_on(
    training_folder: Path, tiny_model: Path, train_here: Callable[..., Path]
) -> None:
    same = ("train.bf16=false", "train.num_train_epochs=4", "track.samples=0")
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


def test_a_full_disk_ends_in_one_line_and_the_same_command_goes_on_from_the_former_checkpoint(
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
