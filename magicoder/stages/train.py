"""Fine-tune a causal language model on instruction pairs by the documented recipe."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicoder import models
from magicoder.config import TrainConfig
from magicoder.reports.model_card import LOSS_CURVE
from magicoder.runtime.errors import UserError
from magicoder.runtime.ranks import find_launched_processes, is_first
from magicoder.storage import artifact
from magicoder.storage.artifact import Artifact
from magicoder.storage.files import Source
from magicoder.storage.inputs import digest_inputs, resolve_inputs
from magicoder.training import discard_work, list_checkpoints
from magicoder.training.optimizers import OPTIMIZERS

if TYPE_CHECKING:
    from magicoder.training.distributed import World


def validate(settings: TrainConfig) -> list[str]:
    """List missing rows, missing weights, and options that cannot run."""
    return [*_check_inputs(settings), *_check_options(settings)]


def _check_inputs(settings: TrainConfig) -> Iterator[str]:
    try:
        resolve_inputs(settings.train.datafile_paths, made_by="preprocess")
    except UserError as error:
        yield from error.problems
    for key, name in (("model.init", settings.model.init), ("model.key", settings.model.key)):
        try:
            if name is not None:
                models.find_source(name)
        except UserError as error:
            yield from (f"{key}={problem}" for problem in error.problems)


def _check_options(settings: TrainConfig) -> Iterator[str]:
    if settings.train.optim not in OPTIMIZERS:
        yield f"train.optim={settings.train.optim}: choose one of {', '.join(OPTIMIZERS)}"
    if settings.model.attention == "flash_attention_2" and importlib.util.find_spec("flash_attn") is None:
        yield "model.attention=flash_attention_2: needs flash-attn (pip install -e '.[flash]'); or use auto"
    if settings.train.layout == "packed" and settings.model.attention in ("eager", "sdpa"):
        yield (
            f"model.attention={settings.model.attention}: would let the sequences of a bin see each other; "
            "use auto, or train.layout=padded"
        )


def validate_sweep(settings: TrainConfig) -> list[str]:
    """List what keeps a job from being one of a sweep."""
    from magicoder.training.distributed import count_devices

    if find_launched_processes() is None and count_devices(settings.parallel) != (1, 1):
        return [
            "-m: each process that this program starts for a device would start the whole sweep; "
            "start them with torchrun --nproc-per-node N main.py -m ..., or choose parallel.devices=1"
        ]
    return []


def run(settings: TrainConfig) -> None:
    """Claim the directory, prepare rows and model, fit, publish."""
    settings = settings.resolve()
    files = resolve_inputs(settings.train.datafile_paths, made_by="preprocess", stage="train")
    weights = settings.model.init or settings.model.key
    inputs = {**digest_inputs(files), "model.init": models.compute_fingerprint(weights)}
    # Every process asks, so that none waits for others that have nothing to do.
    if artifact.is_complete(settings, inputs):
        if is_first():
            artifact.announce_complete("train", Path(settings.out))
            discard_work(Path(settings.out))  # a run may have been killed between its manifest and this
        return
    check_architecture(settings)

    from magicoder.training import distributed, fit
    from magicoder.training.build import build_training
    from magicoder.training.publish import publish
    from magicoder.training.rows import prepare_sequences

    world = distributed.launch(settings.parallel)
    reads = [*files, Path(weights)]
    with claim(settings, inputs, reads, world) as claimed:
        tokenizer = models.load_tokenizer(choose_tokenizer(settings))
        sequences = prepare_sequences(settings, files, tokenizer, world)
        training, checkpoints = build_training(settings, sequences, tokenizer, world)
        start = checkpoints.resume()
        fit.announce_resume(start, training)
        with fit.open_tracker(settings, start, world) as tracker:
            if start == 0:
                fit.sample_answers("before", settings, training, tokenizer, files)
            with fit.explain_failures(files, world):
                fit.fit(settings, training, checkpoints, tracker, start)
            samples = fit.sample_answers("after", settings, training, tokenizer, files)
            publish(settings, training, tokenizer, claimed, reads)
            if tracker is not None:
                tracker.show(samples, Path(settings.out) / LOSS_CURVE)


@contextmanager
def claim(
    settings: TrainConfig, inputs: dict[str, str], reads: list[Source], world: "World"
) -> Iterator[Artifact | None]:
    """Claim the run's directory in the first process for all; yield None in the others."""
    claimed: list[Artifact] = []

    def claim_in_first() -> None:
        claimed.append(
            Artifact(settings, inputs, reads=reads, has_progress=lambda directory: bool(list_checkpoints(directory)))
        )

    world.run_on_first(claim_in_first)
    with claimed[0] if claimed else nullcontext() as held:
        yield held


def check_architecture(settings: TrainConfig) -> None:
    """Errors: UserError if the initial weights have another architecture than the model."""
    if settings.model.init is None:
        return
    key, init = models.read_architecture(settings.model.key), models.read_architecture(settings.model.init)
    if key is not None and init is not None and key != init:
        differences = ", ".join(
            f"{name} {init[name]} instead of {key[name]}" for name in key if key[name] != init[name]
        )
        raise UserError(
            f"model.init={settings.model.init}: is another model than model.key={settings.model.key}: {differences}"
        )


def choose_tokenizer(settings: TrainConfig) -> Any:
    """Return the folder of the initial weights if it has a tokenizer, else the model's key."""
    init = settings.model.init
    has_tokenizer = init is not None and (Path(init) / "tokenizer_config.json").exists()
    return init if init is not None and has_tokenizer else settings.model.key
