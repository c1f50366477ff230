"""A causal language model fine-tuned on instruction pairs by the documented recipe."""

import dataclasses
import importlib.util
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicoder import models
from magicoder.config import TrainConfig
from magicoder.reports.model_card import LOSS_CURVE
from magicoder.runtime.errors import Interrupted, UserError
from magicoder.runtime.progress import meter
from magicoder.runtime.ranks import is_first, started_elsewhere
from magicoder.runtime.signals import stop_request
from magicoder.storage import artifact
from magicoder.storage.artifact import Artifact, expand, input_digests
from magicoder.training import CHECKPOINT_PREFIX, SEQUENCES, discard_work

if TYPE_CHECKING:
    from magicoder.training.checkpoint import Checkpoints
    from magicoder.training.distributed import World
    from magicoder.training.loop import Training, UpdateReport
    from magicoder.training.tokenization import Sequences
    from magicoder.training.tracker import Tracker


def validate(settings: TrainConfig) -> list[str]:
    """Rows and weights that are not there, and weights of another architecture than the model's."""
    found = []
    try:
        expand(settings.train.datafile_paths, made_by="preprocess")
    except UserError as error:
        found += error.problems
    for key, name in (("model.init", settings.model.init), ("model.key", settings.model.key)):
        try:
            if name is not None:
                models.find(name)
        except UserError as error:
            found += [f"{key}={problem}" for problem in error.problems]
    if settings.model.attention == "flash_attention_2" and importlib.util.find_spec("flash_attn") is None:
        found.append("model.attention=flash_attention_2: needs flash-attn (pip install -e '.[flash]'); or use auto")
    if settings.train.layout == "packed" and settings.model.attention in ("eager", "sdpa"):
        found.append(
            f"model.attention={settings.model.attention}: would let the sequences of a bin see each other; "
            "use auto, or train.layout=padded"
        )
    return found


def validate_sweep(settings: TrainConfig) -> list[str]:
    """What keeps a job from being one of a sweep."""
    from magicoder.training.distributed import shape

    if started_elsewhere() is None and shape(settings.parallel) != (1, 1):
        return [
            "-m: each process that this program starts for a device would start the whole sweep; "
            "start them with torchrun --nproc-per-node N main.py -m ..., or choose parallel.devices=1"
        ]
    return []


def run(settings: TrainConfig) -> None:
    """Set up, resume or begin, fit, publish."""
    settings = counted_in_sequences(settings)
    files = expand(settings.train.datafile_paths, made_by="preprocess")
    weights = settings.model.init or settings.model.key
    inputs = {**input_digests(files), "model.init": models.fingerprint(weights)}
    if artifact.is_complete(settings, inputs):  # asked by every process, so that none waits for one that is not needed
        if is_first():
            artifact.announce_complete("train", Path(settings.out))
            discard_work(Path(settings.out))  # where a run was killed between its manifest and this
        return
    check_architecture(settings)

    from magicoder.training import distributed, publish
    from magicoder.training.fit import set_up

    processes = distributed.launch(settings.parallel)
    with ExitStack() as stack:
        reads = [*files, Path(weights)]
        claimed = claim(settings, inputs, reads, processes, stack)
        tokenizer = models.load_tokenizer(tokenizer_source(settings))
        training, checkpoints = set_up(
            settings, prepare_sequences(settings, files, tokenizer, processes), tokenizer, processes
        )
        start = checkpoints.resume()
        if start and processes.is_first:
            print(f"train: goes on after update {start} of {training.plan.updates}", flush=True)
        tracker = open_tracker(settings, start, processes, stack)
        if start == 0:
            sample("before", settings, training, tokenizer, files)
        with explain_failures(files, processes):
            fit(settings, training, checkpoints, tracker, start)
        samples = sample("after", settings, training, tokenizer, files)
        publish.publish(settings, training, tokenizer, claimed, reads)
        if tracker is not None:
            tracker.show(samples, Path(settings.out) / LOSS_CURVE)


def counted_in_sequences(settings: TrainConfig) -> TrainConfig:
    """The same, with `gradient_accumulation_steps` said as the `global_batch_size` that it stands for."""
    steps = settings.train.gradient_accumulation_steps
    if steps is None:
        return settings
    from magicoder.training.distributed import shape

    devices, nodes = shape(settings.parallel)
    size = steps * settings.train.per_device_train_batch_size * devices * nodes
    if is_first():
        print(f"train: an update is {size} sequences, by gradient_accumulation_steps; global_batch_size does not count")
    return dataclasses.replace(settings, train=dataclasses.replace(settings.train, global_batch_size=size))


def claim(
    settings: TrainConfig, inputs: dict[str, str], reads: list[Path], world: "World", stack: ExitStack
) -> Artifact | None:
    """The run's directory, which the first process claims for all, to be let go with `stack`; None in the others."""
    claimed = []

    def enter() -> None:
        made = Artifact(settings, inputs, reads=reads, progress=(f"{CHECKPOINT_PREFIX}*",))
        claimed.append(stack.enter_context(made))

    world.on_first(enter)
    return claimed[0] if claimed else None


def check_architecture(settings: TrainConfig) -> None:
    """Errors: UserError if the weights to start from are of another architecture than the model's."""
    if settings.model.init is None:
        return
    key, init = models.architecture(settings.model.key), models.architecture(settings.model.init)
    if key is not None and init is not None and key != init:
        differences = ", ".join(
            f"{name} {init[name]} instead of {key[name]}" for name in key if key[name] != init[name]
        )
        raise UserError(
            f"model.init={settings.model.init}: is another model than model.key={settings.model.key}: {differences}"
        )


def tokenizer_source(settings: TrainConfig) -> str:
    """The weights' own folder where it has a tokenizer, else the model's key."""
    init = settings.model.init
    has_tokenizer = init is not None and (Path(init) / "tokenizer_config.json").exists()
    return init if init is not None and has_tokenizer else settings.model.key


def prepare_sequences(settings: TrainConfig, files: list[Path], tokenizer: Any, world: "World") -> "Sequences":
    """All rows as tokens, written once and mapped by every process. Errors: UserError if nothing can be learnt."""
    from magicoder.training.rows import prepare
    from magicoder.training.tokenization import Sequences

    if tokenizer.eos_token_id is None:
        raise UserError(f"model.key={settings.model.key}: has no token for the end, so no answer would ever end")
    directory, limit = Path(settings.out), settings.train.max_training_seq_length
    world.on_first(lambda: prepare(files, tokenizer, settings.prompt.template, limit, directory))
    sequences = Sequences(directory / SEQUENCES)
    if world.is_first and len(sequences) < settings.train.global_batch_size:
        print(f"train: {len(sequences)} rows are fewer than global_batch_size: an epoch is one update of all of them")
    return sequences


# --- the training ----------------------------------------------------------------------------------------------------


@contextmanager
def explain_failures(files: list[Path], world: "World") -> Iterator[None]:
    """Errors: UserError for an update whose loss is no number, with the rows in which it began, or without room."""
    import torch

    from magicoder.training.loop import NotFinite
    from magicoder.training.rows import places

    try:
        yield
    except NotFinite as failure:
        rows = failure.rows
        where = ", ".join(world.on_first(lambda: places(files, rows))) or "no row of its own"
        raise UserError(f"{failure}, in {where}; the last checkpoint is kept") from failure
    except torch.OutOfMemoryError as error:
        problem = (
            f"{str(error).splitlines()[0][:200]} Less is needed with train.tokens_per_device smaller, "
            "train.logits=chunked, parallel.activation_checkpointing=on; the last checkpoint is kept"
        )
        if world.kind == "one":
            raise UserError(problem) from error
        print(f"error: {problem}", file=sys.stderr, flush=True)
        os._exit(1)  # the others wait for this one in the middle of an update, and would in any farewell


def fit(
    settings: TrainConfig,
    training: "Training",
    checkpoints: "Checkpoints",
    tracker: "Tracker | None",
    start: int,
) -> None:
    """Carry out the updates from `start` on, the first process showing and noting each.

    Errors: Interrupted after a signal, with a checkpoint of the last whole update; NotFinite, with the former one.
    """
    from magicoder.training.loop import NotFinite

    world = training.world
    done, last = start, training.plan.updates
    due = CheckpointSchedule(settings.train.save_every, settings.train.save_every_minutes)
    with stop_request() as stop, shown(training, start) as show:
        try:
            for report in training.updates(start, lambda: bool(stop)):
                done = report.update
                show(report)
                if tracker is not None and (done % settings.train.logging_steps == 0 or done == last):
                    tracker.log(figures(report, training))
                checkpoints.finish_if_written()
                if world.shared(due(done) or done == last):
                    checkpoints.save(done)
        except NotFinite:
            checkpoints.finish()
            raise
        if start < done < last:
            checkpoints.save(done)
        checkpoints.finish()
    signal_number = max(world.gathered(stop.signal_number or 0))
    if signal_number:
        raise Interrupted(signal_number, f"{done} of {last} updates are kept")


class CheckpointSchedule:
    """Whether a checkpoint is due, by updates or by minutes since the last one, whichever comes first."""

    def __init__(self, updates: int, minutes: float | None) -> None:
        self._updates, self._minutes = updates, minutes
        self._last = time.monotonic()

    def __call__(self, update: int) -> bool:
        """Ask after each update."""
        waited = (time.monotonic() - self._last) / 60
        due = update % self._updates == 0 or (self._minutes is not None and waited >= self._minutes)
        if due:
            self._last = time.monotonic()
        return due


@contextmanager
def shown(training: "Training", start: int) -> Iterator[Callable[["UpdateReport"], None]]:
    """A function that takes each report into the progress line, in the first process alone."""
    if not training.world.is_first:
        yield lambda report: None
        return
    with meter("train", training.plan.updates, start) as progress:
        yield lambda report: progress.advance(summary(report))


def summary(report: "UpdateReport") -> str:
    """What the progress line says of an update."""
    return f"loss {report.loss:.3f}  lr {report.learning_rate:.2g}  {report.tokens_per_second:,.0f} tokens/s"


def figures(report: "UpdateReport", training: "Training") -> dict[str, Any]:
    """What `metrics.jsonl` and W&B keep of an update; mfu is the share of the devices' peak, where that is known."""
    from magicoder.training.flops import peak

    of_one = peak(training.world.device, next(training.loss_module.parameters()).dtype)
    utilisation = {"mfu": report.operations / report.seconds / (of_one * training.world.size)} if of_one else {}
    return {**dataclasses.asdict(report), "tokens_per_second": report.tokens_per_second, **utilisation}


def open_tracker(settings: TrainConfig, start: int, world: "World", stack: ExitStack) -> "Tracker | None":
    """Where the first process notes the curves, until `stack` ends; None in the others."""
    from magicoder.training.tracker import Tracker

    opened: list[Tracker] = []

    def open_tracker() -> None:
        directory, config = Path(settings.out), dataclasses.asdict(settings)
        opened.append(Tracker(directory, settings.track, config, resume_after=start))
        stack.callback(opened[0].close)

    world.on_first(open_tracker)
    return opened[0] if opened else None


def sample(
    when: str, settings: TrainConfig, training: "Training", tokenizer: Any, files: list[Path]
) -> list[dict[str, Any]]:
    """Let the model answer the first instructions, `before` or `after`; return all that is known of them by then."""
    from magicoder.training import samples

    world, track = training.world, settings.track
    path = Path(settings.out) / samples.SAMPLES
    if not track.samples:
        return []

    def asked() -> list[str]:
        if when == "before" or not path.exists():  # it may have begun without samples
            samples.begin(path, files, track.samples)
        return samples.prompts(path, settings.prompt.template)

    prompts = world.on_first(asked)

    def answered() -> list[str]:
        return samples.answers(training.loss_module, tokenizer, prompts, track.sample_tokens, world.device)

    answers = answered() if world.kind == "fsdp" else world.on_first(answered)
    return world.on_first(lambda: samples.note(path, answers, when))
