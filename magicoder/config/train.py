"""Config of the train stage."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Optional

from omegaconf import MISSING

from magicoder.config.bounds import require_above, require_at_least, require_one_of, require_paths
from magicoder.config.identity import execution, location
from magicoder.config.stage import StageConfig


@dataclass
class ModelConfig:
    """`model`: the architecture and where its weights come from."""

    key: str = MISSING
    init: Optional[str] = location()
    attention: str = execution()

    def check(self) -> Iterator[str]:
        yield from require_one_of(("auto", "eager", "sdpa", "flash_attention_2"), attention=self.attention)


@dataclass
class RecipeConfig:
    """`train`: the documented hyperparameters, and how an update is laid out."""

    name: str = execution()
    datafile_paths: Any = location()
    max_training_seq_length: int = MISSING
    num_train_epochs: int = MISSING
    per_device_train_batch_size: int = MISSING
    # The three keys behind it give the same number, so the number alone bears identity (see `TrainConfig.resolve`).
    global_batch_size: Optional[int] = MISSING
    gradient_accumulation_steps: int = location()
    documented_devices: int = location()
    loss: str = MISSING
    learning_rate: float = MISSING
    lr_scheduler_type: str = MISSING
    warmup_steps: int = MISSING
    optim: str = MISSING
    rounding: str = MISSING
    master_weights: bool = MISSING
    max_grad_norm: float = MISSING
    bf16: bool = MISSING
    seed: int = MISSING
    layout: str = execution()
    tokens_per_device: Optional[int] = execution()
    logits: str = execution()
    compile: bool = execution()
    logging_steps: int = execution()
    save_every: int = execution()
    save_every_minutes: Optional[float] = execution()
    keep_checkpoints: int = execution()

    @property
    def sequences_per_update(self) -> int:
        """Sequences of one update: `global_batch_size`, else the product of the documented flags."""
        if self.global_batch_size is not None:
            return self.global_batch_size
        return self.per_device_train_batch_size * self.gradient_accumulation_steps * self.documented_devices

    def check(self) -> Iterator[str]:
        yield from require_paths(datafile_paths=self.datafile_paths)
        yield from require_at_least(2, max_training_seq_length=self.max_training_seq_length)
        yield from require_at_least(
            1,
            num_train_epochs=self.num_train_epochs,
            per_device_train_batch_size=self.per_device_train_batch_size,
            gradient_accumulation_steps=self.gradient_accumulation_steps,
            documented_devices=self.documented_devices,
            logging_steps=self.logging_steps,
            save_every=self.save_every,
            keep_checkpoints=self.keep_checkpoints,
        )
        if self.global_batch_size is not None:
            yield from require_at_least(1, global_batch_size=self.global_batch_size)
            if self.per_device_train_batch_size > 0 and self.global_batch_size % self.per_device_train_batch_size:
                yield (
                    f"global_batch_size={self.global_batch_size}: must be a multiple of "
                    f"per_device_train_batch_size={self.per_device_train_batch_size}"
                )
        if self.save_every_minutes is not None:
            yield from require_above(0, save_every_minutes=self.save_every_minutes)
        yield from require_at_least(0, warmup_steps=self.warmup_steps, seed=self.seed)
        yield from require_above(0, learning_rate=self.learning_rate)
        yield from self._check_choices()

    def _check_choices(self) -> Iterator[str]:
        yield from require_one_of(("linear", "cosine", "constant"), lr_scheduler_type=self.lr_scheduler_type)
        yield from require_one_of(("micro_mean", "token_mean"), loss=self.loss)
        yield from require_one_of(("nearest", "stochastic"), rounding=self.rounding)
        yield from require_one_of(("whole", "chunked"), logits=self.logits)
        yield from require_one_of(("padded", "packed"), layout=self.layout)
        room = self.max_training_seq_length if self.tokens_per_device is None else self.tokens_per_device
        if self.layout == "packed" and room < self.max_training_seq_length:
            yield (
                f"tokens_per_device={self.tokens_per_device}: must hold the longest sequence, "
                f"max_training_seq_length={self.max_training_seq_length}"
            )


@dataclass
class TrainingPromptConfig:
    """`prompt` of train: the text to train on, with the placeholders `{instruction}` and `{response}`."""

    template: str = MISSING

    def check(self) -> Iterator[str]:
        if "{instruction}" not in self.template:
            yield "template: has no {instruction}"
        if not self.template.endswith("{response}"):
            yield "template: must end with {response}, because the model continues the text before it"


@dataclass
class ParallelConfig:
    """`parallel`: the devices that train, and how the model lies on them."""

    strategy: str = execution()
    accelerator: str = execution()
    devices: str = execution()
    num_nodes: int = execution()
    activation_checkpointing: str = execution()
    reduce_gradients: str = execution()
    cpu_offload: bool = execution()

    def check(self) -> Iterator[str]:
        yield from require_one_of(("auto", "ddp", "fsdp"), strategy=self.strategy)
        yield from require_one_of(("auto", "cpu", "gpu"), accelerator=self.accelerator)
        yield from require_one_of(("auto", "on", "off"), activation_checkpointing=self.activation_checkpointing)
        yield from require_one_of(("auto", "once", "each"), reduce_gradients=self.reduce_gradients)
        yield from require_at_least(1, num_nodes=self.num_nodes)
        if self.devices != "auto" and not (self.devices.isdecimal() and int(self.devices) > 0):
            yield f"devices={self.devices}: must be auto, or how many on each machine"


@dataclass
class TrackConfig:
    """`track`: where the curves go besides `metrics.jsonl`."""

    wandb: bool = execution()
    project: str = execution()
    group: str = execution()
    samples: int = execution()
    sample_tokens: int = execution()

    def check(self) -> Iterator[str]:
        yield from require_at_least(0, samples=self.samples)
        yield from require_at_least(1, sample_tokens=self.sample_tokens)


@dataclass
class TrainConfig(StageConfig):
    """Config of one run of the train stage."""

    stage: ClassVar[str] = "train"

    model: ModelConfig = field(default_factory=ModelConfig)
    train: RecipeConfig = field(default_factory=RecipeConfig)
    prompt: TrainingPromptConfig = field(default_factory=TrainingPromptConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    track: TrackConfig = field(default_factory=TrackConfig)

    def resolve(self) -> "TrainConfig":
        """Return the config with `global_batch_size` filled in, so that equal updates have equal identities."""
        recipe = dataclasses.replace(self.train, global_batch_size=self.train.sequences_per_update)
        return dataclasses.replace(self, train=recipe)
