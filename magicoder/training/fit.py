"""Fit a model: run the updates, report each, save checkpoints, and explain failures."""

import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from magicoder.config import TrainConfig
from magicoder.runtime.console import say
from magicoder.runtime.errors import Interrupted, UserError
from magicoder.runtime.progress import show_meter
from magicoder.runtime.signals import stop_request
from magicoder.storage.files import Source
from magicoder.training import samples
from magicoder.training.checkpoint import Checkpoints
from magicoder.training.distributed import World
from magicoder.training.flops import find_peak
from magicoder.training.loop import NotFinite, Training, UpdateReport
from magicoder.training.rows import name_rows
from magicoder.training.tracker import Tracker


def fit(
    settings: TrainConfig, training: Training, checkpoints: Checkpoints, tracker: Tracker | None, start: int
) -> None:
    """Run the updates from number `start` on; the first process shows and logs each.

    Errors: Interrupted after a signal, with a checkpoint of the last whole update; NotFinite, with the former one.
    """
    world, recipe = training.world, settings.train
    done, last = start, training.plan.updates
    schedule = CheckpointSchedule(recipe.save_every, recipe.save_every_minutes)
    with stop_request() as stop, show_progress(training, start) as show:
        try:
            for report in training.run_updates(start, lambda: bool(stop)):
                done = report.update
                show(report)
                if tracker is not None and (done % recipe.logging_steps == 0 or done == last):
                    tracker.log(compute_metrics(report, training))
                checkpoints.finish_if_written()
                # Clocks of several processes differ, so the first one decides for all.
                if world.broadcast(schedule.is_due(done) or done == last):
                    checkpoints.save(done)
        except NotFinite:
            checkpoints.finish()
            raise
        if start < done < last:
            checkpoints.save(done)
        checkpoints.finish()
    signal_number = max(world.gather(stop.signal_number or 0))
    if signal_number:
        raise Interrupted(signal_number, f"{done} of {last} updates are kept")


class CheckpointSchedule:
    """Decides when a checkpoint is due: after a number of updates or of minutes, whichever comes first."""

    def __init__(self, updates: int, minutes: float | None) -> None:
        self._updates, self._minutes = updates, minutes
        self._last = time.monotonic()

    def is_due(self, update: int) -> bool:
        """Return whether a checkpoint is due after `update` updates; ask after each update."""
        waited = (time.monotonic() - self._last) / 60
        is_due = update % self._updates == 0 or (self._minutes is not None and waited >= self._minutes)
        if is_due:
            self._last = time.monotonic()
        return is_due


@contextmanager
def explain_failures(files: list[Source], world: World) -> Iterator[None]:
    """Turn failures inside the block into a UserError: a non-finite loss, with its rows, or a lack of memory."""
    try:
        yield
    except NotFinite as failure:
        rows = failure.rows
        where = ", ".join(world.run_on_first(lambda: name_rows(files, rows))) or "no row of its own"
        raise UserError(f"{failure}, in {where}; the last checkpoint, if any, is kept") from failure
    except torch.OutOfMemoryError as error:
        problem = (
            f"{str(error).splitlines()[0][:200]} Save memory with a smaller train.tokens_per_device, "
            "train.logits=chunked, parallel.activation_checkpointing=on; the last checkpoint, if any, is kept"
        )
        if world.kind == "one":
            raise UserError(problem) from error
        # Not `say`: every process that fails must report, not the first alone.
        os.write(2, f"error: {problem}\n".encode())
        os._exit(1)  # the others wait for this process within the update, and would wait in any orderly shutdown


@contextmanager
def show_progress(training: Training, start: int) -> Iterator[Callable[[UpdateReport], None]]:
    """Yield a function that shows a report in the progress line, in the first process alone."""
    if not training.world.is_first:
        yield lambda report: None
        return
    with show_meter("train", training.plan.updates, start) as progress:
        yield lambda report: progress.advance(format_report(report))


def format_report(report: UpdateReport) -> str:
    """Format an update for the progress line."""
    return f"loss {report.loss:.3f}  lr {report.learning_rate:.2g}  {report.tokens_per_second:,.0f} tokens/s"


def compute_metrics(report: UpdateReport, training: Training) -> dict[str, Any]:
    """Return what `metrics.jsonl` and W&B keep of an update.

    mfu: model FLOPs utilization, the share of the devices' peak; missing where the peak is unknown.
    """
    peak = find_peak(training.world.device, next(training.loss_module.parameters()).dtype)
    utilization = {"mfu": report.operations / report.seconds / (peak * training.world.size)} if peak else {}
    return {**dataclasses.asdict(report), "tokens_per_second": report.tokens_per_second, **utilization}


@contextmanager
def open_tracker(settings: TrainConfig, start: int, world: World) -> Iterator[Tracker | None]:
    """Yield the tracker of the curves in the first process, None in the others."""
    opened: list[Tracker] = []

    def open_in_first() -> None:
        directory, config = Path(settings.out), dataclasses.asdict(settings)
        opened.append(Tracker(directory, settings.track, config, resume_after=start))

    world.run_on_first(open_in_first)
    try:
        yield opened[0] if opened else None
    finally:
        for tracker in opened:
            tracker.close()


def announce_resume(start: int, training: Training) -> None:
    """Print where a resumed training continues."""
    if start:
        say(f"train: resumes after update {start} of {training.plan.updates}")


def sample_answers(
    when: str, settings: TrainConfig, training: Training, tokenizer: Any, files: list[Source]
) -> list[dict[str, Any]]:
    """Let the model answer the first instructions, and write the answers to `samples.jsonl`; return its rows.

    when: `before` or `after` the training.
    """
    world, track = training.world, settings.track
    path = Path(settings.out) / samples.SAMPLES
    if not track.samples:
        return []

    def prepare_prompts() -> list[str]:
        if when == "before" or not path.exists():  # the run may have begun without samples
            samples.write_instructions(path, files, track.samples)
        return samples.build_prompts(path, settings.prompt.template)

    prompts = world.run_on_first(prepare_prompts)

    def generate() -> list[str]:
        return samples.generate_answers(training.loss_module, tokenizer, prompts, track.sample_tokens, world.device)

    # Sharded parameters are gathered for each token, which takes all processes.
    answers = generate() if world.kind == "fsdp" else world.run_on_first(generate)
    return world.run_on_first(lambda: samples.add_answers(path, answers, when))
