"""Publish a trained model as a folder that others load: weights, tokenizer, chat template, card, curve, manifest."""

from pathlib import Path
from typing import Any

from magicoder import models
from magicoder.config import TrainConfig
from magicoder.reports.model_card import CARD, LOSS_CURVE, build_model_card, find_finished_stages
from magicoder.reports.plots import plot_loss
from magicoder.storage.artifact import METRICS, REJECTED, Artifact, collect_versions
from magicoder.storage.files import Source, read_rows, write_whole
from magicoder.training import discard_work
from magicoder.training.chat_template import build_chat_template
from magicoder.training.loop import Training
from magicoder.training.sharding import gather_weights


def publish(
    settings: TrainConfig, training: Training, tokenizer: Any, claimed: Artifact | None, inputs: list[Source]
) -> None:
    """Gather the weights from all devices, and write everything in the first process, which has `claimed` the
    directory.

    inputs: files and folders that the training read.
    """
    whole = gather_weights(training.loss_module, keep=training.world.is_first)
    weights = {name.removeprefix("model."): tensor for name, tensor in whole.items()}

    def write() -> None:
        if claimed is not None:
            tokenizer.chat_template = build_chat_template(settings.prompt.template, tokenizer)
            model = models.assemble(training.loss_module.model, weights)
            names = models.save_model(model, tokenizer, claimed.directory)
            counts = count_outcome(training, claimed)
            write_card(settings, claimed, counts, inputs)
            claimed.finish([*names, REJECTED], counts)
            discard_work(claimed.directory)

    training.world.run_on_first(write)


def count_outcome(training: Training, claimed: Artifact) -> dict[str, Any]:
    """Return the counts for the manifest. loss: of the last update, which is always logged."""
    counts = training.sequences.counts
    return {
        "in": counts.rows,
        "cut": counts.cut,
        "rejected": counts.unsupervised,
        "updates": training.plan.updates,
        "loss": round(list(read_rows(claimed.path(METRICS)))[-1]["loss"], 4),
    }


def write_card(settings: TrainConfig, claimed: Artifact, counts: dict[str, Any], inputs: list[Source]) -> None:
    """Write the loss curve and the model card."""
    plot_loss(claimed.path(METRICS), claimed.path(LOSS_CURVE))
    card = build_model_card(
        claimed.directory.name,
        config=claimed.identity["config"],
        inputs=claimed.identity["inputs"],
        counts=counts,
        versions=collect_versions(),
        stages=find_finished_stages(inputs, Path(settings.root)),
    )
    with write_whole(claimed.path(CARD)) as file:
        file.write(card.encode())
