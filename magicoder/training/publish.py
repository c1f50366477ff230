"""A trained model as a folder that others load: weights, tokenizer, chat template, card, curve, manifest."""

from pathlib import Path
from typing import Any

from magicoder import models
from magicoder.config import TrainConfig
from magicoder.reports.model_card import CARD, LOSS_CURVE, finished_stages, model_card
from magicoder.reports.plots import loss_curve
from magicoder.storage.artifact import METRICS, REJECTED, Artifact, versions
from magicoder.storage.files import read_rows, written_whole
from magicoder.training import discard_work
from magicoder.training.chat_template import chat_template
from magicoder.training.loop import Training
from magicoder.training.sharding import gathered


def publish(
    settings: TrainConfig, training: Training, tokenizer: Any, claimed: Artifact | None, inputs: list[Path]
) -> None:
    """Gather the weights from all devices and let the first process, which has `claimed` the directory, write it all.

    inputs: the files and folders that the training read.
    """
    whole = gathered(training.loss_module, keep=training.world.is_first)
    weights = {name.removeprefix("model."): tensor for name, tensor in whole.items()}

    def write() -> None:
        if claimed is not None:
            tokenizer.chat_template = chat_template(settings.prompt.template, tokenizer)
            model = models.assembled(training.loss_module.model, weights)
            names = models.save(model, tokenizer, claimed.directory)
            counts = outcome(training, claimed)
            describe(settings, claimed, counts, inputs)
            claimed.finish([*names, REJECTED], counts)
            discard_work(claimed.directory)

    training.world.on_first(write)


def outcome(training: Training, claimed: Artifact) -> dict[str, Any]:
    """What went in and what came out; the loss is that of the last update, which is always noted."""
    counts = training.sequences.counts
    return {
        "in": counts.rows,
        "cut": counts.cut,
        "rejected": counts.unsupervised,
        "updates": training.plan.updates,
        "loss": round(list(read_rows(claimed.path(METRICS)))[-1]["loss"], 4),
    }


def describe(settings: TrainConfig, claimed: Artifact, counts: dict[str, Any], inputs: list[Path]) -> None:
    """Write the loss curve and the model card."""
    loss_curve(claimed.path(METRICS), claimed.path(LOSS_CURVE))
    card = model_card(
        claimed.directory.name,
        config=claimed.identity["config"],
        inputs=claimed.identity["inputs"],
        counts=counts,
        versions=versions(),
        stages=finished_stages(inputs, Path(settings.root)),
    )
    with written_whole(claimed.path(CARD)) as file:
        file.write(card.encode())
