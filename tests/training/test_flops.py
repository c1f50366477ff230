"""The arithmetic that a training needs, against PyTorch's own count of the operations that it carries out."""

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, AutoTokenizer, GPTBigCodeConfig

from magicoder.training import attention
from magicoder.training.flops import FlopsCounter, find_peak
from magicoder.training.layout import Layout
from magicoder.training.loss import LossModule
from magicoder.training.plan import Plan
from magicoder.training.tokenization import Sequences, tokenize_rows

# Micro-batches of one row, which has no padding.
PLAN = Plan(rows=6, epochs=1, micro_batch_size=1, global_batch_size=6, seed=0)


@pytest.fixture(scope="module")
def sequences(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Sequences:
    sizes = numpy.random.default_rng(0).integers(2, 40, (PLAN.rows, 2)).tolist()
    rows = [{"instruction": "wrap " * words, "response": "text\n" * lines} for words, lines in sizes]
    folder = tmp_path_factory.mktemp("flops") / "sequences"
    return tokenize_rows(rows, AutoTokenizer.from_pretrained(tiny_model), "{instruction}: {response}", 100, folder)


def counted(model: Any, sequences: Sequences, kind: str) -> dict[str, int]:
    """Operations of an update by the kind of matrix product: of `batches`, as attention has them, and of others."""
    loss_module = LossModule(model)
    with FlopCounterMode(display=False) as counter:
        for batch in Layout(kind, 1000, "micro_mean", pad_token_id=1).lay_out(sequences, PLAN, 0):
            loss_module(batch).backward()
    counts = {str(operator): number for operator, number in counter.get_flop_counts()["Global"].items()}
    batches = sum(counts.get(f"aten.{operator}", 0) for operator in ("bmm", "baddbmm"))
    return {"batches": batches, "others": sum(counts.values()) - batches}


def model(tiny_model: Path, family: str, implementation: str) -> Any:
    if family == "llama":
        return AutoModelForCausalLM.from_pretrained(tiny_model, attn_implementation=implementation)
    config = GPTBigCodeConfig(vocab_size=400, n_embd=32, n_layer=2, n_head=4)
    return AutoModelForCausalLM.from_config(config, attn_implementation=implementation)


@pytest.mark.parametrize("family", ["llama", "starcoder"])
def test_operations_are_all_matrix_products_and_half_attention(
    tiny_model: Path, sequences: Sequences, family: str
) -> None:
    # Eager attention computes the half of the scores that causal attention throws away.
    eager = model(tiny_model, family, "eager")
    counts = counted(eager, sequences, "padded")
    rows = numpy.arange(PLAN.rows)
    lengths, supervised = sequences.measure_lengths(rows), sequences.count_supervised(rows)
    expected = counts["others"] + counts["batches"] / 2
    assert FlopsCounter(eager).count(lengths, supervised.sum()) == expected


def test_packed_documents_need_no_more_operations_than_alone(tiny_model: Path, sequences: Sequences) -> None:
    attention.register()
    alone = counted(model(tiny_model, "llama", "eager"), sequences, "padded")
    packed = counted(model(tiny_model, "llama", attention.NAME), sequences, "packed")
    assert packed["others"] == alone["others"]


def test_a_sharded_or_empty_model_needs_what_the_loaded_one_does(tiny_model: Path) -> None:
    loaded = model(tiny_model, "llama", "sdpa")
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(loaded.config)
    lengths = numpy.array([7, 30])
    assert FlopsCounter(empty).count(lengths, 20) == FlopsCounter(loaded).count(lengths, 20)


@pytest.mark.parametrize(
    ("name", "operations"),
    [
        ("NVIDIA H200", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A10G", 125e12),
        ("NVIDIA GeForce RTX 4090", 165e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("Something else", None),
    ],
)
def test_the_peak_is_that_of_the_device_by_its_name(
    monkeypatch: pytest.MonkeyPatch, name: str, operations: float | None
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert find_peak(torch.device("cuda"), torch.bfloat16) == operations
    assert find_peak(torch.device("cuda"), torch.float32) is None
    assert find_peak(torch.device("cpu"), torch.bfloat16) is None
