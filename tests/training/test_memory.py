"""Estimates of memory against what tensors really take, and the way to save it that is chosen by them."""

import itertools
import weakref
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from transformers import AutoModelForCausalLM, GPTBigCodeConfig, LlamaConfig, PretrainedConfig

from magicoder.config import ParallelConfig
from magicoder.training import attention, loss, memory
from magicoder.training.adafactor import Adafactor
from magicoder.training.distributed import launch
from magicoder.training.gradients import Gradients
from magicoder.training.layout import MicroBatch
from magicoder.training.loss import LossModule
from magicoder.training.memory import (
    USABLE_SHARE,
    MemoryModel,
    MemoryPlan,
    choose_plan,
    measure_available,
    measure_peak,
    model_memory,
)

VOCABULARY = 1000
LLAMA = LlamaConfig(
    vocab_size=VOCABULARY,
    hidden_size=64,
    intermediate_size=176,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
)
# On a CPU, dropout within attention keeps tokens times tokens for the backward pass; kernels of GPUs do not.
STARCODER = GPTBigCodeConfig(vocab_size=VOCABULARY, n_embd=64, n_layer=4, n_head=4, n_positions=256, attn_pdrop=0.0)
LENGTHS = [200, 120, 180]


class Tensors(TorchDispatchMode):
    """Counts the bytes of all tensors that operations made and nobody has let go."""

    def __init__(self, there: list[torch.Tensor]) -> None:
        super().__init__()
        self.live = self.most = 0
        self._known: set[int] = set()
        for tensor in there:
            self._note(tensor)

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        made = function(*arguments, **(options or {}))
        for tensor in tree_iter(made):
            if isinstance(tensor, torch.Tensor):
                self._note(tensor)
        return made

    def _note(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        place, size = storage._cdata, storage.nbytes()
        if place not in self._known:
            self._known.add(place)
            self.live += size
            self.most = max(self.most, self.live)
            weakref.finalize(storage, self._forget, place, size)

    def _forget(self, place: int, size: int) -> None:
        self._known.discard(place)
        self.live -= size


def micro_batch(kind: str) -> MicroBatch:
    """Make documents whose every token is supervised, the worst case."""
    packed = kind == "packed"
    sequences, tokens = (1, sum(LENGTHS)) if packed else (len(LENGTHS), max(LENGTHS))
    inputs = torch.randint(VOCABULARY, (sequences, tokens))
    return MicroBatch(
        input_ids=inputs,
        position_ids=torch.cat([torch.arange(length) for length in LENGTHS])[None] if packed else None,
        documents=torch.tensor([0, *numpy.cumsum(LENGTHS)], dtype=torch.int32) if packed else None,
        longest=max(LENGTHS),
        predicting=torch.arange(tokens - 1),
        targets=inputs[:, 1:],
        weights=torch.full((sequences, tokens - 1), 1e-3),
        rows=(0, 1, 2),
    )


def estimate_over_need(
    config: PretrainedConfig, dtype: torch.dtype, kind: str, *, checkpointing: bool, chunked: bool
) -> float:
    """The estimate over the most that tensors took in an update and in the next, which finds the optimizer's state."""
    attention.register()
    implementation = attention.NAME if kind == "packed" else "sdpa"
    model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=implementation)
    if checkpointing:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    loss_module, batch = LossModule(model.train(), chunked=chunked), micro_batch(kind)
    parallel = ParallelConfig(strategy="auto", accelerator="cpu", devices="1", num_nodes=1, cpu_offload=False)
    gradients = Gradients(loss_module, launch(parallel), once=True)
    optimizer = Adafactor(loss_module.parameters(), lr=1e-3, rounding="stochastic", master_weights=True)
    with Tensors(list(model.parameters())) as tensors:
        for micro_batches in (1, 2):
            for place in range(micro_batches):
                gradients.add(loss_module(batch), last=place == micro_batches - 1)
            gradients.clip(1.0)
            optimizer.step()
            gradients.clear()
    shape = model_memory(
        model, tokens=batch.input_ids.numel(), shards=1, chunked=chunked, offloaded=False, master=dtype != torch.float32
    )
    return shape.estimate(MemoryPlan(checkpointing, once=True)).total / tensors.most


@pytest.mark.parametrize(
    ("config", "dtype"),
    [(LLAMA, torch.float32), (LLAMA, torch.bfloat16), (STARCODER, torch.bfloat16)],
    ids=["llama-float32", "llama-bfloat16", "starcoder-bfloat16"],
)
@pytest.mark.parametrize("kind", ["padded", "packed"])
def test_the_estimate_is_near_what_a_training_needs(
    config: PretrainedConfig, dtype: torch.dtype, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (loss, memory):
        monkeypatch.setattr(module, "CHUNK_PREDICTIONS", 50)
    for checkpointing, chunked in itertools.product([False, True], repeat=2):
        ratio = estimate_over_need(config, dtype, kind, checkpointing=checkpointing, chunked=chunked)
        assert 0.9 < ratio < 2, (checkpointing, chunked)


SHARDED = MemoryModel(
    hidden=4096,
    intermediate=11_008,
    key_value=4096,
    layers=32,
    vocabulary=32_000,
    elements=6_738_000_000,
    element_bytes=2,
    layer_elements=202_000_000,
    tokens=8192,
    shards=8,
    chunked=True,
    offloaded=False,
    master=False,
)
FASTEST_FIRST = [MemoryPlan(False, True), MemoryPlan(False, False), MemoryPlan(True, True), MemoryPlan(True, False)]


@pytest.mark.parametrize("place", range(4))
def test_the_fastest_way_that_fits_is_chosen(place: int) -> None:
    way = FASTEST_FIRST[place]
    room = SHARDED.estimate(way).total / USABLE_SHARE + 1
    assert choose_plan(SHARDED, room, "auto", "auto") == way
    # With less, it is one that needs less.
    less = choose_plan(SHARDED, room - 2, "auto", "auto")
    assert less in FASTEST_FIRST[place + 1 :] or less == way == FASTEST_FIRST[-1]


def test_where_nothing_fits_the_most_frugal_way_is_tried() -> None:
    assert choose_plan(SHARDED, 1.0, "auto", "auto") == MemoryPlan(checkpointing=True, once=False)
    frugal = [SHARDED.estimate(way).total for way in FASTEST_FIRST]
    assert min(frugal) == frugal[-1]


def test_what_is_asked_for_is_done_whether_it_fits_or_not() -> None:
    for room in (1.0, 1e15):
        assert choose_plan(SHARDED, room, "on", "once") == MemoryPlan(checkpointing=True, once=True)
        assert choose_plan(SHARDED, room, "off", "each") == MemoryPlan(checkpointing=False, once=False)
    assert choose_plan(SHARDED, 1e15, "on", "auto") == MemoryPlan(checkpointing=True, once=True)
    assert choose_plan(SHARDED, 1.0, "auto", "once") == MemoryPlan(checkpointing=True, once=True)


def test_the_need_of_a_model_without_weights_is_known(tiny_model: Path) -> None:
    # The processes that do not load it have it so.
    facts: dict[str, Any] = {"tokens": 100, "shards": 2, "chunked": False, "offloaded": False, "master": True}
    loaded = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16)
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(loaded.config, dtype=torch.bfloat16)
    assert model_memory(empty, **facts) == model_memory(loaded, **facts)
    assert model_memory(empty, **facts).elements == sum(tensor.numel() for tensor in loaded.parameters())


def test_measured_memory_equals_that_of_the_system() -> None:
    def kibibytes(path: str, name: str) -> int:
        (line,) = [line for line in Path(path).read_text().splitlines() if line.startswith(f"{name}:")]
        return int(line.split()[1])

    device = torch.device("cpu")
    assert measure_available(device, 1) == pytest.approx(1024 * kibibytes("/proc/meminfo", "MemTotal"), rel=0.01)
    assert measure_available(device, 4) == measure_available(device, 1) / 4
    assert measure_peak(device) == pytest.approx(1024 * kibibytes("/proc/self/status", "VmHWM"), rel=0.02)
