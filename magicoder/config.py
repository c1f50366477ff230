"""The vocabulary of the config tree: one dataclass a node, one schema a stage.

The values and what each key means stand in `conf/`; here stand their types, their bounds (each `check` yields what is
out of them) and which of them bear on the result. A field made with `execution()` cannot change what a run makes
(devices, logging, concurrency), so it is no part of a run's identity and may differ between two runs of a directory.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Optional

from omegaconf import MISSING

from magicoder.schema import above, at_least, execution, location, one_of, revisable, url_problems

# OmegaConf resolves `Optional[str]`, not yet every spelling of `str | None` inside containers: one spelling throughout.


# --- what is written and where ---------------------------------------------------------------------------------------


@dataclass
class Stage:
    """What every stage has."""

    # The folder under which every stage has a directory of its own.
    root: str = execution("outputs")
    # This stage's own directory.
    out: str = execution()
    # Delete what `out` holds and start anew.
    overwrite: bool = execution(False)


# --- generate --------------------------------------------------------------------------------------------------------


@dataclass
class Evolution:
    """`data.generate.evolve`: which instructions grow harder, and how often."""

    instruction_files: list[str] = location()
    rounds: int = revisable()
    similarity: float = MISSING

    def check(self) -> Iterator[str]:
        yield from at_least(1, rounds=self.rounds)
        if not 0 < self.similarity <= 1:
            yield f"similarity={self.similarity}: must be above 0 and at most 1"
        if not self.instruction_files:
            yield "instruction_files: name at least one file with instructions"


@dataclass
class SeedCode:
    """`data.generate`: what inspires the teacher: snippets of code, or instructions."""

    source: str = MISSING
    dataset_name: Optional[str] = MISSING
    data_dir: Optional[str] = MISSING
    path: Optional[str] = MISSING
    max_considered_data: Optional[int] = MISSING
    chunk_size: int = MISSING
    min_lines: int = MISSING
    max_lines: int = MISSING
    seed: int = MISSING
    seed_code_start_index: int = MISSING
    max_new_data: int = MISSING
    tag: str = MISSING
    continue_from: Optional[str] = MISSING
    unit: str = MISSING
    near_duplicates: bool = MISSING
    licences: Optional[list[str]] = MISSING
    evolve: Optional[Evolution] = MISSING
    parser: str = revisable()

    def check(self) -> Iterator[str]:
        yield from one_of(("hub", "local", "instructions"), source=self.source)
        yield from one_of(("lines", "functions"), unit=self.unit)
        yield from one_of(("strict", "tolerant"), parser=self.parser)
        if self.licences is not None and not self.licences:
            yield "licences: name at least one; null allows whatever there is"
        if self.unit == "functions" and self.source != "local":
            yield "unit=functions: is for source=local"
        if self.source == "instructions" and self.continue_from is not None:
            yield "continue_from: is for snippets of code"
        if (self.source == "instructions") != (self.evolve is not None):
            yield "evolve: goes with source=instructions, and with no other"
        yield from at_least(0, seed_code_start_index=self.seed_code_start_index, seed=self.seed)
        yield from at_least(1, chunk_size=self.chunk_size, max_new_data=self.max_new_data, min_lines=self.min_lines)
        yield from at_least(self.min_lines, max_lines=self.max_lines)
        if self.max_considered_data is not None:
            yield from at_least(1, max_considered_data=self.max_considered_data)
        if not self.tag or "-" in self.tag or "/" in self.tag:
            yield f"tag={self.tag}: must be one word without - or /, for the clean stage reads the language from it"
        if self.source == "hub" and not self.dataset_name:
            yield "dataset_name: name a dataset of the Hugging Face hub or a folder of the same form"


@dataclass
class WorkedExample:
    """One exchange shown to the teacher before the real request."""

    user: str = MISSING
    assistant: str = MISSING


@dataclass
class TeacherPrompt:
    """`prompt` of generate: the messages of a request; `{code}` stands for the snippet."""

    system: str = MISSING
    user: str = MISSING
    examples: list[WorkedExample] = MISSING
    operations: dict[str, str] = MISSING


@dataclass
class Price:
    """Dollars for a million tokens; null where that is not known."""

    input: Optional[float] = MISSING
    output: Optional[float] = MISSING

    def check(self) -> Iterator[str]:
        for name, dollars in (("input", self.input), ("output", self.output)):
            if dollars is not None:
                yield from at_least(0, **{name: dollars})


@dataclass
class Batch:
    """`teacher.batch`: what OpenAI's Batch API takes at once, and for which part of the price."""

    requests: int = MISSING
    megabytes: float = MISSING
    price: float = MISSING
    poll_seconds: float = MISSING

    def check(self) -> Iterator[str]:
        yield from at_least(1, requests=self.requests)
        yield from above(0, megabytes=self.megabytes, poll_seconds=self.poll_seconds)
        yield from at_least(0, price=self.price)


@dataclass
class Teacher:
    """`teacher`: the model that writes, and how it is asked."""

    model: str = MISSING
    temperature: float = MISSING
    max_new_tokens: int = revisable()
    model_max_tokens: int = MISSING
    tokenizer: str = MISSING
    serve: Optional[str] = MISSING
    base_url: Optional[str] = execution()
    api_key_env: Optional[str] = execution()
    mode: str = execution()
    concurrency: int = execution()
    requests_per_minute: Optional[float] = execution()
    tokens_per_minute: Optional[float] = execution()
    max_attempts: int = execution()
    give_up: bool = execution()
    timeout: float = execution()
    max_cost: Optional[float] = execution()
    price: Price = field(default_factory=Price, metadata={"identity": False})
    prices: dict[str, Price] = execution()
    batch: Batch = field(default_factory=Batch, metadata={"identity": False})
    results: Optional[str] = execution()

    @property
    def known_price(self) -> Optional[tuple[float, float]]:
        """Dollars for a million tokens of requests and of answers, asked live; None where the config does not say."""
        for price in (self.price, self.prices.get(self.model, self.price)):
            if price.input is not None and price.output is not None:
                return price.input, price.output
        return None

    def check(self) -> Iterator[str]:
        yield from at_least(0, temperature=self.temperature)
        yield from self._check_limits()
        yield from at_least(1, max_new_tokens=self.max_new_tokens, model_max_tokens=self.model_max_tokens)
        yield from one_of(("live", "batch", "file"), mode=self.mode)
        if self.serve is not None and self.mode != "live":
            yield f"mode={self.mode}: a model that this run serves itself is asked live"
        if self.base_url is not None:
            yield from (f"base_url: {problem}" for problem in url_problems(self.base_url))
        if self.serve is not None and (self.model.startswith("/") or ".." in self.model.split("/")):
            yield f"model={self.model}: is the name of a folder here, so it can be no absolute path and hold no .."

    def _check_limits(self) -> Iterator[str]:
        yield from at_least(1, concurrency=self.concurrency, max_attempts=self.max_attempts)
        yield from above(0, timeout=self.timeout)
        rates = {"requests_per_minute": self.requests_per_minute, "tokens_per_minute": self.tokens_per_minute}
        for name, rate in rates.items():
            if rate is not None:
                yield from above(0, **{name: rate})
        if self.max_cost is not None:
            yield from above(0, max_cost=self.max_cost)
            if self.mode == "file":
                yield f"max_cost={self.max_cost:g}: cannot bound mode=file, where others ask; dry_run=true tells it"
            if self.known_price is None:
                yield (
                    f"max_cost={self.max_cost:g}: the price of {self.model} is not known; say what a million tokens "
                    "cost: 'teacher.price={input: 1.0, output: 2.0}'"
                )


@dataclass
class GenerateData:
    generate: SeedCode = field(default_factory=SeedCode)


@dataclass
class Generate(Stage):
    data: GenerateData = field(default_factory=GenerateData)
    prompt: TeacherPrompt = field(default_factory=TeacherPrompt)
    teacher: Teacher = field(default_factory=Teacher)
    # Show what would be asked and what it would cost, and ask nothing.
    dry_run: bool = execution(False)

    def check(self) -> Iterator[str]:
        evolves = self.data.generate.source == "instructions"
        for placeholder in ("{instruction}", "{operation}") if evolves else ("{code}",):
            if placeholder not in self.prompt.user:
                yield f"prompt.user: has no {placeholder}, so none would reach the teacher"
        if evolves and not self.prompt.operations:
            yield "prompt.operations: name at least one way to make an instruction harder"


# --- clean, decontaminate, preprocess --------------------------------------------------------------------------------


@dataclass
class Cleaning:
    """`data.clean`: which files are joined, shuffled and rid of duplicates."""

    data_files: list[str] = location()
    seed: int = MISSING
    no_filter: bool = MISSING


@dataclass
class CleanData:
    clean: Cleaning = field(default_factory=Cleaning)


@dataclass
class Clean(Stage):
    data: CleanData = field(default_factory=CleanData)


@dataclass
class Benchmark:
    """Where one benchmark is read; it bears identity by its content, or by the name of what is fetched."""

    path: str = location()


@dataclass
class Decontamination:
    """`data.decontaminate`: rows that contain a benchmark's text are taken out."""

    data_files: list[str] = location()
    columns: list[str] = MISSING
    benchmarks: dict[str, Benchmark] = MISSING
    apps_solutions: bool = MISSING
    cache: Optional[str] = location()

    def check(self) -> Iterator[str]:
        known = ("mbpp", "human_eval", "apps", "gsm8k", "ds_1000")
        for name in self.benchmarks:
            if name not in known:
                yield f"benchmarks.{name}: no such benchmark; known are {', '.join(known)}"
        if not self.benchmarks:
            yield "benchmarks: name at least one"
        if not self.columns:
            yield "columns: name at least one"
        if self.apps_solutions and "apps" not in self.benchmarks:
            yield "apps_solutions=true: needs benchmarks.apps"


@dataclass
class DecontaminateData:
    decontaminate: Decontamination = field(default_factory=Decontamination)


@dataclass
class Decontaminate(Stage):
    data: DecontaminateData = field(default_factory=DecontaminateData)


PREPROCESS_KEYS = ("src-instruct", "evol-instruct", "codealpaca", "combine")


@dataclass
class Preprocessing:
    """`data.preprocess`: rows of one form become instruction and response."""

    key: str = MISSING
    data_files: Optional[list[str]] = location()

    def check(self) -> Iterator[str]:
        yield from one_of(PREPROCESS_KEYS, key=self.key)


@dataclass
class PreprocessData:
    preprocess: Preprocessing = field(default_factory=Preprocessing)


@dataclass
class InstructionPrompt:
    """`prompt` of preprocess: what is put around a problem; `{problem}` stands for it."""

    instruction: str = MISSING

    def check(self) -> Iterator[str]:
        if "{problem}" not in self.instruction:
            yield "instruction: has no {problem}"


@dataclass
class Preprocess(Stage):
    data: PreprocessData = field(default_factory=PreprocessData)
    prompt: InstructionPrompt = field(default_factory=InstructionPrompt)


# --- train -----------------------------------------------------------------------------------------------------------


@dataclass
class Model:
    """`model`: the architecture and where its weights come from."""

    key: str = MISSING
    init: Optional[str] = location()
    attention: str = execution()

    def check(self) -> Iterator[str]:
        yield from one_of(("auto", "eager", "sdpa", "flash_attention_2"), attention=self.attention)


@dataclass
class Recipe:
    """`train`: the documented hyperparameters, and how an update is laid out."""

    name: str = execution()
    datafile_paths: list[str] = location()
    max_training_seq_length: int = MISSING
    num_train_epochs: int = MISSING
    per_device_train_batch_size: int = MISSING
    global_batch_size: int = MISSING
    # Another way to say `global_batch_size`, which bears identity in its place.
    gradient_accumulation_steps: Optional[int] = location()
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

    def check(self) -> Iterator[str]:
        yield from at_least(2, max_training_seq_length=self.max_training_seq_length)
        yield from at_least(
            1,
            num_train_epochs=self.num_train_epochs,
            per_device_train_batch_size=self.per_device_train_batch_size,
            global_batch_size=self.global_batch_size,
            logging_steps=self.logging_steps,
            save_every=self.save_every,
            keep_checkpoints=self.keep_checkpoints,
        )
        if self.gradient_accumulation_steps is not None:
            yield from at_least(1, gradient_accumulation_steps=self.gradient_accumulation_steps)
        elif self.per_device_train_batch_size > 0 and self.global_batch_size % self.per_device_train_batch_size:
            yield (
                f"global_batch_size={self.global_batch_size}: must be a multiple of "
                f"per_device_train_batch_size={self.per_device_train_batch_size}"
            )
        if self.save_every_minutes is not None:
            yield from above(0, save_every_minutes=self.save_every_minutes)
        yield from at_least(0, warmup_steps=self.warmup_steps, seed=self.seed)
        yield from above(0, learning_rate=self.learning_rate)
        yield from self._check_choices()

    def _check_choices(self) -> Iterator[str]:
        yield from one_of(("linear", "cosine", "constant"), lr_scheduler_type=self.lr_scheduler_type)
        yield from one_of(("adafactor",), optim=self.optim)
        yield from one_of(("micro_mean", "token_mean"), loss=self.loss)
        yield from one_of(("nearest", "stochastic"), rounding=self.rounding)
        yield from one_of(("whole", "chunked"), logits=self.logits)
        yield from one_of(("padded", "packed"), layout=self.layout)
        room = self.max_training_seq_length if self.tokens_per_device is None else self.tokens_per_device
        if self.layout == "packed" and room < self.max_training_seq_length:
            yield (
                f"tokens_per_device={self.tokens_per_device}: must hold the longest sequence, "
                f"max_training_seq_length={self.max_training_seq_length}"
            )


@dataclass
class TrainingPrompt:
    """`prompt` of train: the text a model is trained on; `{instruction}` and `{response}` stand for a row's sides."""

    template: str = MISSING

    def check(self) -> Iterator[str]:
        if "{instruction}" not in self.template:
            yield "template: has no {instruction}"
        if not self.template.endswith("{response}"):
            yield "template: must end with {response}, because the model goes on from the text before it"


@dataclass
class Parallel:
    """`parallel`: the devices that train, and how the model lies on them."""

    strategy: str = execution()
    accelerator: str = execution()
    devices: str = execution()
    nodes: int = execution()
    activation_checkpointing: str = execution()
    reduce_gradients: str = execution()
    cpu_offload: bool = execution()

    def check(self) -> Iterator[str]:
        yield from one_of(("auto", "ddp", "fsdp"), strategy=self.strategy)
        yield from one_of(("auto", "cpu", "gpu"), accelerator=self.accelerator)
        yield from one_of(("auto", "on", "off"), activation_checkpointing=self.activation_checkpointing)
        yield from one_of(("auto", "once", "each"), reduce_gradients=self.reduce_gradients)
        yield from at_least(1, nodes=self.nodes)
        if self.devices != "auto" and not (self.devices.isdecimal() and int(self.devices) > 0):
            yield f"devices={self.devices}: must be auto, or how many on each machine"


@dataclass
class Track:
    """`track`: where the curves go besides `metrics.jsonl`."""

    wandb: bool = execution()
    project: str = execution()
    group: str = execution()
    samples: int = execution()
    sample_tokens: int = execution()

    def check(self) -> Iterator[str]:
        yield from at_least(0, samples=self.samples)
        yield from at_least(1, sample_tokens=self.sample_tokens)


@dataclass
class Train(Stage):
    model: Model = field(default_factory=Model)
    train: Recipe = field(default_factory=Recipe)
    prompt: TrainingPrompt = field(default_factory=TrainingPrompt)
    parallel: Parallel = field(default_factory=Parallel)
    track: Track = field(default_factory=Track)


STAGES: dict[str, type[Stage]] = {
    "generate": Generate,
    "clean": Clean,
    "decontaminate": Decontaminate,
    "preprocess": Preprocess,
    "train": Train,
}


def register_schemas() -> None:
    """Give Hydra the schema of each stage, so that a key that a stage does not have is an error."""
    from hydra.core.config_store import ConfigStore

    for name, schema in STAGES.items():
        ConfigStore.instance().store(group="schema", name=name, node=schema, package="_global_")
