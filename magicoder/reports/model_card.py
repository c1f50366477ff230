"""The `README.md` of a trained model: what it is, how and from what it was made, how to ask it."""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from magicoder.storage.artifact import MANIFEST, describe, owner
from magicoder.storage.files import read_json

CARD = "README.md"
LOSS_CURVE = "loss_curve.png"  # the picture that the card shows, beside it
WEIGHTS = "model.init"  # the name that the weights which training starts from have among its inputs
HUB = "hub:"  # stands ahead of their id where they come from the hub

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
    """A finished stage: its directory's name and its manifest."""

    name: str
    manifest: dict[str, Any]

    def made(self, input_name: str, digest: str) -> bool:
        """Whether the input that another stage notes under this name, with this digest, is a result of this one."""
        outputs = self.manifest["outputs"]
        if input_name == WEIGHTS:
            return digest == json.dumps(outputs, sort_keys=True)
        name = input_name.removesuffix(" (again)")
        return any(digest == made and name in (output, f"{self.name}/{output}") for output, made in outputs.items())


def model_card(
    name: str,
    *,
    config: dict[str, Any],
    inputs: dict[str, str],
    counts: dict[str, Any],
    versions: dict[str, str],
    stages: list[Finished],
) -> str:
    """The card, in the form of the Hugging Face hub; it shows the picture `LOSS_CURVE` that lies beside it.

    name: the model's. config, inputs, counts and versions: as in the manifest of the train stage. stages: those that
    may have made an input, or an input of such a one, in whatever order.
    """
    parts = [
        front_matter(base_model(inputs, stages)),
        f"# {code(name)}",
        f"A causal language model for code: {code(without_place(config['model']['key']))}, fine-tuned on pairs of "
        "instruction and response by the recipe of Magicoder ([arXiv 2312.02120](https://arxiv.org/abs/2312.02120)).",
        "## How to ask it",
        fenced("python", USAGE),
        "The chat template puts a message into the text that the model was trained on:",
        fenced("text", config["prompt"]["template"]),
        "## How it was trained",
        table(("setting", "value"), recipe(config["train"], counts)),
        f"![The loss over the updates of training]({LOSS_CURVE})",
        "## What it was made from",
        "Each input with its digest (SHA-256), and below it what that was made from in turn.",
        "\n".join(lineage(inputs, stages)),
        "## Versions",
        ", ".join(f"{package} {code(version)}" for package, version in versions.items()),
    ]
    return "\n\n".join(parts) + "\n"


def finished_stages(inputs: Iterable[Path], root: Path) -> list[Finished]:
    """The finished stages in whose directories `inputs` lie, or which are such directories, and all below `root`."""
    directories = [path if path.is_dir() else path.parent for path in inputs]
    manifests = [*(directory / MANIFEST for directory in directories), *sorted(root.rglob(MANIFEST))]
    paths = dict.fromkeys(path.resolve() for path in manifests)
    return [Finished(path.parent.name, read_json(path)) for path in paths if owner(path) is not None]


def base_model(inputs: dict[str, str], stages: list[Finished]) -> str | None:
    """The hub id of the weights where training began, be it an earlier training; None if they are not of the hub."""
    digest = inputs[WEIGHTS]
    if digest.startswith(HUB):
        return digest.removeprefix(HUB)
    maker = made_by(WEIGHTS, digest, stages)
    return base_model(maker.manifest["inputs"], without(maker, stages)) if maker else None


def made_by(name: str, digest: str, stages: list[Finished]) -> Finished | None:
    """The first stage that made this input; others have the very same result."""
    return next((stage for stage in stages if stage.made(name, digest)), None)


def without(maker: Finished, stages: list[Finished]) -> list[Finished]:
    """The other stages: one whose result equals its input is not its own maker."""
    return [stage for stage in stages if stage is not maker]


def front_matter(base: str | None) -> str:
    """What the hub and its programs read of a card."""
    from huggingface_hub import ModelCardData

    data = ModelCardData(
        library_name="transformers", pipeline_tag="text-generation", base_model=base, tags=["code", "magicoder"]
    )
    return f"---\n{data.to_yaml()}\n---"


def recipe(train: dict[str, Any], counts: dict[str, Any]) -> list[tuple[str, str]]:
    """What was done, a line each."""
    return [
        ("rows", f"{counts['in']}, of which {counts['cut']} cut to the sequence limit"),
        ("sequence limit", f"{train['max_training_seq_length']} tokens"),
        ("epochs", f"{train['num_train_epochs']}"),
        ("sequences per update", f"{train['global_batch_size']}"),
        ("updates", f"{counts['updates']}"),
        ("loss", LOSSES[train["loss"]].format(micro_batch=train["per_device_train_batch_size"])),
        ("optimizer", code(train["optim"])),
        ("learning rate", f"{train['learning_rate']:g}"),
        ("schedule", f"{code(train['lr_scheduler_type'])} after {train['warmup_steps']} updates of warmup"),
        ("gradient clipping", f"norm {train['max_grad_norm']:g}" if train["max_grad_norm"] > 0 else "none"),
        ("parameters", precision(train)),
        ("seed", f"{train['seed']}"),
        ("loss of the last update", f"{counts['loss']:.4f} nats per token"),
    ]


def precision(train: dict[str, Any]) -> str:
    """In what the parameters are kept, and how they get there."""
    if not train["bf16"]:
        return "float32"
    kept = " from a float32 copy" if train["master_weights"] else ""
    return f"bfloat16, rounded{kept}: {code(train['rounding'])}"


def lineage(inputs: dict[str, str], stages: list[Finished], depth: int = 0) -> Iterator[str]:
    """The lines of a nested list: each input, below it the stage that made it, below that the stage's inputs."""
    indent = "  " * depth
    for name, digest in inputs.items():
        yield f"{indent}- {code(name)}: {readable(digest)}"
        maker = made_by(name, digest, stages)
        if maker is not None:
            stage, counts = maker.manifest["stage"], describe(maker.manifest["counts"])
            yield f"{indent}  - made by the stage {code(stage)}: {counts}"
            yield from lineage(maker.manifest["inputs"], without(maker, stages), depth + 2)


def readable(digest: str) -> str:
    """A SHA-256 or a hub id, or of a model's folder the digests of the files with its weights."""
    if not digest.startswith("{"):
        return code(digest)
    files = json.loads(digest).items()
    return ", ".join(f"{code(name)} {code(made)}" for name, made in files if name.endswith((".safetensors", ".bin")))


def without_place(model: str) -> str:
    """The name of a model, of a folder on this machine the last part alone."""
    return Path(model).name if Path(model).is_absolute() else model


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A Markdown table; cells are Markdown themselves."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def code(text: str) -> str:
    """A text of others on one line of Markdown, wherever it stands: in a list, in a table's cell, in a heading.

    A pipe would end a cell even between backticks. So what may be a sign of Markdown or HTML is given by its number.
    """
    one_line = " ".join(text.split())
    shown = re.sub(r"[^\w .,=+/:-]|(?<![^\W_])_|_(?![^\W_])", lambda sign: f"&#{ord(sign[0])};", one_line)
    return f"<code>{shown}</code>"


def fenced(language: str, text: str) -> str:
    """A block of code, between fences longer than any that the text holds."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    end = "" if text.endswith("\n") else "\n"
    return f"{fence}{language}\n{text}{end}{fence}"
