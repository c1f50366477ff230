"""A causal language model fine-tuned on instruction pairs by the documented recipe."""

import dataclasses
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicoder import models
from magicoder.artifact import Artifact, expand, input_digests
from magicoder.config import Train
from magicoder.errors import Interrupted, UserError
from magicoder.files import read_rows
from magicoder.interrupt import stop_request
from magicoder.progress import meter
from magicoder.training import CHECKPOINT_PREFIX

if TYPE_CHECKING:
    from magicoder.training.encoding import Sequences
    from magicoder.training.loop import Training, UpdateReport


def problems(settings: Train) -> list[str]:
    """Rows and weights that are not there, and devices that this trainer cannot use."""
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
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        found.append("WORLD_SIZE: the trainer runs in one process on one device")
    return found


def run(settings: Train) -> None:
    """Set up, resume or begin, fit, publish."""
    files = expand(settings.train.datafile_paths, made_by="preprocess")
    weights = settings.model.init or settings.model.key
    inputs = {**input_digests(files), "model.init": models.fingerprint(weights)}
    with Artifact(settings, inputs, reads=[*files, Path(weights)], progress=f"{CHECKPOINT_PREFIX}*") as artifact:
        if artifact.complete:
            artifact.announce_complete()
        else:
            rows = (row for path in files for row in read_rows(path, ("instruction", "response")))
            tokenizer = models.load_tokenizer(tokenizer_source(settings))
            training = set_up(settings, rows, tokenizer)
            fit(settings, training, artifact)
            publish(training, tokenizer, artifact)
        for checkpoint in artifact.directory.glob(f"{CHECKPOINT_PREFIX}*"):
            shutil.rmtree(checkpoint)  # the model they led to is published


def tokenizer_source(settings: Train) -> str:
    """The weights' own folder where it has a tokenizer, else the model's key."""
    init = settings.model.init
    has_tokenizer = init is not None and (Path(init) / "tokenizer_config.json").exists()
    return init if init is not None and has_tokenizer else settings.model.key


def set_up(settings: Train, rows: Iterable[dict[str, Any]], tokenizer: Any) -> "Training":
    """Model, optimizer and plan on the device: a `Training` at its beginning."""
    import torch
    from lightning.fabric import Fabric

    from magicoder.training.encoding import encode
    from magicoder.training.loop import Training
    from magicoder.training.optimizer import adafactor
    from magicoder.training.plan import Plan, learning_rate_schedule

    recipe = settings.train
    accelerator = settings.parallel.accelerator
    if accelerator == "gpu" and not torch.cuda.is_available():
        raise UserError("parallel.accelerator=gpu: there is no GPU on this machine")
    sequences = encode(rows, tokenizer, settings.prompt.template, recipe.max_training_seq_length)
    report_cuts(sequences)
    plan = Plan(
        len(sequences),
        recipe.num_train_epochs,
        recipe.per_device_train_batch_size,
        recipe.gradient_accumulation_steps,
        recipe.seed,
    )
    # Parameters are loaded in their dtype: Fabric's "bf16-true" would round the rotary frequencies as well.
    fabric = Fabric(accelerator=accelerator, devices=1, precision="32-true")
    model = models.load_model(
        settings.model.init or settings.model.key, bf16=recipe.bf16, attention=attention(settings.model.attention)
    )
    check_fit(model, sequences, settings)
    model, optimizer = fabric.setup(model, adafactor(model.parameters()))
    return Training(
        fabric,
        model,
        optimizer,
        sequences,
        plan,
        learning_rate_schedule(recipe.lr_scheduler_type, recipe.learning_rate, recipe.warmup_steps, plan.updates),
        pad_token_id=tokenizer.pad_token_id or 0,  # any token will do: padding is masked and weighs nothing
        max_grad_norm=recipe.max_grad_norm,
    )


def report_cuts(sequences: "Sequences") -> None:
    """Say how many rows the length limit touched."""
    if sequences.cut:
        print(f"train: {sequences.cut} of {len(sequences)} rows were cut to max_training_seq_length")
    if sequences.unsupervised:
        print(f"train: {sequences.unsupervised} of these have only prompt left, so nothing is learnt from them")


def check_fit(model: Any, sequences: "Sequences", settings: Train) -> None:
    """Errors: UserError if the rows cannot be learnt by this model."""
    embeddings = model.get_input_embeddings().num_embeddings
    largest = int(sequences.tokens.max())
    if largest >= embeddings:
        raise UserError(
            f"model.key={settings.model.key}: the tokenizer gives token {largest}, the weights embed {embeddings}"
        )
    limit = settings.train.max_training_seq_length
    if sequences.unsupervised == len(sequences):
        raise UserError(f"train.max_training_seq_length={limit}: leaves nothing to learn in any row")
    positions = getattr(model.config, "max_position_embeddings", None) or limit
    longest = max(len(sequences[row]) for row in range(len(sequences)))
    if longest > positions:
        raise UserError(f"train.max_training_seq_length={limit}: the model knows no more than {positions} positions")


def attention(choice: str) -> str:
    """The attention implementation: for `auto` flash-attn where it can run, else PyTorch's own."""
    if choice != "auto":
        return choice
    import importlib.util

    import torch

    return "flash_attention_2" if torch.cuda.is_available() and importlib.util.find_spec("flash_attn") else "sdpa"


def fit(settings: Train, training: "Training", artifact: Artifact) -> None:
    """Carry out every update that the newest checkpoint does not have.

    Errors: Interrupted after a signal, with a checkpoint of the last whole update.
    """
    from magicoder.track import Tracker
    from magicoder.training import checkpoint

    def save(update: int) -> None:
        checkpoint.save(artifact.directory, update, training.model.module, training.optimizer.optimizer)

    start = checkpoint.resume(artifact.directory, training.model.module, training.optimizer.optimizer)
    done, last = start, training.plan.updates
    with stop_request() as stop:
        tracker = Tracker(artifact.directory, settings.track, dataclasses.asdict(settings), resume_after=start)
        try:
            with meter("train", last, start) as progress:
                for report in training.updates(start, lambda: bool(stop)):
                    done = report.update
                    progress.advance(summary(report))
                    if done % settings.train.logging_steps == 0 or done == last:
                        tracker.log(figures(report))
                    if done % settings.train.save_every == 0 or done == last:
                        save(done)
            if stop and done > start:
                save(done)  # ahead of the tracker's end, which may wait for a network
        finally:
            tracker.close()
    if stop.signal_number is not None:
        raise Interrupted(stop.signal_number, f"{done} of {last} updates are kept")


def summary(report: "UpdateReport") -> str:
    """What the progress line says of an update."""
    return f"loss {report.loss:.3f}  lr {report.learning_rate:.2g}  {report.tokens_per_second:,.0f} tokens/s"


def figures(report: "UpdateReport") -> dict[str, Any]:
    """What `metrics.jsonl` and W&B keep of an update."""
    return {**dataclasses.asdict(report), "tokens_per_second": report.tokens_per_second}


def publish(training: "Training", tokenizer: Any, artifact: Artifact) -> None:
    """Write the model's folder and its manifest."""
    names = models.save(training.model.module, tokenizer, artifact.directory)
    sequences, plan = training.sequences, training.plan
    counts = {"in": len(sequences), "cut": sequences.cut, "updates": plan.updates, "loss": last_loss(artifact)}
    artifact.finish(names, counts, rows_without_supervised_tokens=sequences.unsupervised)


def last_loss(artifact: Artifact) -> float:
    """The loss of the last update, which is always noted."""
    from magicoder.track import METRICS

    return round(list(read_rows(artifact.path(METRICS)))[-1]["loss"], 4)
