"""Write the `README.md` of a trained model: its use, its training, and its lineage."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from magicoder.reports.markdown import format_table, quote_block, quote_code
from magicoder.storage.artifact import MANIFEST, describe, find_owner
from magicoder.storage.files import Source, read_json

CARD = "README.md"
LOSS_CURVE = "loss_curve.png"  # the plot that the card shows, in the same folder
WEIGHTS = "model.init"  # name of the initial weights among the inputs
HUB = "hub:"  # prefix of the id of weights from the hub

LOSSES = {
    "micro_mean": "mean over micro-batches of {micro_batch} sequences of the mean over their supervised tokens",
    "token_mean": "mean over the supervised tokens of the update",
}

USAGE = """\
from transformers import pipeline

generator = pipeline("text-generation", model=".")  # "." is the folder of this file
messages = [{"role": "user", "content": "Write a Python function that reverses a string."}]
print(generator(messages, max_new_tokens=512, do_sample=False)[0]["generated_text"][-1]["content"])
"""


@dataclass(frozen=True)
class Finished:
    """A finished stage: the name of its directory, and its manifest."""

    name: str
    manifest: dict[str, Any]

    def has_made(self, input_name: str, digest: str) -> bool:
        """Return whether an input of another stage, with this name and digest, is a result of this stage."""
        outputs = self.manifest["outputs"]
        if input_name == WEIGHTS:
            return digest == json.dumps(outputs, sort_keys=True)
        name = input_name.removesuffix(" (again)")
        return any(digest == made and name in (output, f"{self.name}/{output}") for output, made in outputs.items())


def build_model_card(
    name: str,
    *,
    config: dict[str, Any],
    inputs: dict[str, str],
    counts: dict[str, Any],
    versions: dict[str, str],
    stages: list[Finished],
) -> str:
    """Build the card in the form of the Hugging Face hub; it shows the plot `LOSS_CURVE` in the same folder.

    name: of the model. config, inputs, counts, versions: as in the manifest of the train stage. stages: candidates for
    the makers of the inputs, and of their inputs, in any order.
    """
    parts = [
        build_front_matter(find_base_model(inputs, stages)),
        f"# {quote_code(name)}",
        f"A causal language model for code: {quote_code(shorten_path(config['model']['key']))}, fine-tuned on pairs of "
        "instruction and response by the recipe of Magicoder ([arXiv 2312.02120](https://arxiv.org/abs/2312.02120)).",
        "## Usage",
        quote_block("python", USAGE),
        "The chat template inserts a message into the prompt of the training:",
        quote_block("text", config["prompt"]["template"]),
        "## Training",
        format_table(("setting", "value"), describe_recipe(config["train"], counts)),
        f"![The loss over the updates of training]({LOSS_CURVE})",
        "## Lineage",
        "Each input with its digest (SHA-256), and below it the inputs of the stage that made it.",
        "\n".join(format_lineage(inputs, stages)),
        "## Versions",
        ", ".join(f"{package} {quote_code(version)}" for package, version in versions.items()),
    ]
    return "\n\n".join(parts) + "\n"


def find_finished_stages(inputs: Iterable[Source], root: Path) -> list[Finished]:
    """Return the finished stages whose directories are or contain `inputs`, and all below `root`."""
    directories = [path if path.is_dir() else path.parent for path in inputs if isinstance(path, Path)]
    manifests = [*(directory / MANIFEST for directory in directories), *sorted(root.rglob(MANIFEST))]
    paths = dict.fromkeys(path.resolve() for path in manifests)
    return [Finished(path.parent.name, read_json(path)) for path in paths if find_owner(path) is not None]


def find_base_model(inputs: dict[str, str], stages: list[Finished]) -> str | None:
    """Return the hub id of the original weights, through all earlier trainings; None if they are not from the hub."""
    digest = inputs[WEIGHTS]
    if digest.startswith(HUB):
        return digest.removeprefix(HUB)
    maker = find_maker(WEIGHTS, digest, stages)
    return find_base_model(maker.manifest["inputs"], exclude(maker, stages)) if maker else None


def find_maker(name: str, digest: str, stages: list[Finished]) -> Finished | None:
    """Return the first stage that made this input; others have the same result."""
    return next((stage for stage in stages if stage.has_made(name, digest)), None)


def exclude(maker: Finished, stages: list[Finished]) -> list[Finished]:
    """Return the other stages: a stage whose result equals its input must not be its own maker."""
    return [stage for stage in stages if stage is not maker]


def build_front_matter(base: str | None) -> str:
    """Return the metadata that the hub and its programs read."""
    from huggingface_hub import ModelCardData

    data = ModelCardData(
        library_name="transformers", pipeline_tag="text-generation", base_model=base, tags=["code", "magicoder"]
    )
    return f"---\n{data.to_yaml()}\n---"


def describe_recipe(train: dict[str, Any], counts: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the settings of the training, a row each."""
    return [
        ("rows", f"{counts['in']}, {counts['cut']} of them truncated to the sequence limit"),
        ("sequence limit", f"{train['max_training_seq_length']} tokens"),
        ("epochs", f"{train['num_train_epochs']}"),
        ("sequences per update", f"{train['global_batch_size']}"),
        ("updates", f"{counts['updates']}"),
        ("loss", LOSSES[train["loss"]].format(micro_batch=train["per_device_train_batch_size"])),
        ("optimizer", quote_code(train["optim"])),
        ("learning rate", f"{train['learning_rate']:g}"),
        ("schedule", f"{quote_code(train['lr_scheduler_type'])} after {train['warmup_steps']} updates of warmup"),
        ("gradient clipping", f"norm {train['max_grad_norm']:g}" if train["max_grad_norm"] > 0 else "none"),
        ("parameters", describe_precision(train)),
        ("seed", f"{train['seed']}"),
        ("loss of the last update", f"{counts['loss']:.4f} nats per token"),
    ]


def describe_precision(train: dict[str, Any]) -> str:
    """Describe the dtype of the parameters and their rounding."""
    if not train["bf16"]:
        return "float32"
    kept = " from a float32 copy" if train["master_weights"] else ""
    return f"bfloat16, rounded{kept}: {quote_code(train['rounding'])}"


def format_lineage(inputs: dict[str, str], stages: list[Finished], depth: int = 0) -> Iterator[str]:
    """Yield the lines of a nested list: each input, below it the stage that made it, below that the stage's inputs."""
    indent = "  " * depth
    for name, digest in inputs.items():
        yield f"{indent}- {quote_code(name)}: {format_digest(digest)}"
        maker = find_maker(name, digest, stages)
        if maker is not None:
            stage, counts = maker.manifest["stage"], describe(maker.manifest["counts"])
            yield f"{indent}  - made by the stage {quote_code(stage)}: {counts}"
            yield from format_lineage(maker.manifest["inputs"], exclude(maker, stages), depth + 2)


def format_digest(digest: str) -> str:
    """Format a SHA-256 or a hub id; of a model's folder the digests of the files with weights."""
    if not digest.startswith("{"):
        return quote_code(digest)
    files = json.loads(digest).items()
    return ", ".join(
        f"{quote_code(name)} {quote_code(made)}" for name, made in files if name.endswith((".safetensors", ".bin"))
    )


def shorten_path(model: str) -> str:
    """Return the name of a model; of an absolute path the last part alone."""
    return Path(model).name if Path(model).is_absolute() else model
