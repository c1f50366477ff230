"""The objective: the weighted cross entropy of what is learnt, however its logits are made."""

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer, GPTBigCodeConfig, GraniteConfig, GraniteForCausalLM

from magicoder.runtime.errors import UserError
from magicoder.training import attention, loss
from magicoder.training.layout import Layout, MicroBatch
from magicoder.training.loss import LossModule
from magicoder.training.plan import Plan
from magicoder.training.tokenization import Sequences, tokenize_rows

LIMIT = 60
PLAN = Plan(rows=8, epochs=1, micro_batch_size=2, global_batch_size=8, seed=0)
KINDS = ["padded", "packed"]
PIECE = 11


@pytest.fixture(scope="module")
def sequences(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Sequences:
    """Make rows whose prompt is half of the tokens on average, and all of them in one row."""
    sizes = [*numpy.random.default_rng(0).integers(1, 16, (7, 2)).tolist(), [70, 1]]
    rows = [{"instruction": "wrap " * words, "response": "text\n" * lines} for words, lines in sizes]
    folder = tmp_path_factory.mktemp("loss") / "sequences"
    return tokenize_rows(rows, AutoTokenizer.from_pretrained(tiny_model), "{instruction}: {response}", LIMIT, folder)


def batches(sequences: Sequences, kind: str) -> list[MicroBatch]:
    return Layout(kind, 2 * LIMIT, "micro_mean", pad_token_id=1).lay_out(sequences, PLAN, 0)


def loss_module(folder: Path, dtype: torch.dtype = torch.float32, *, chunked: bool = False) -> LossModule:
    attention.register()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation=attention.NAME)
    return LossModule(model, chunked=chunked)


def backwards(loss_module: LossModule, batch: MicroBatch) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The loss, and its gradients."""
    value = loss_module(batch)
    return value, list(torch.autograd.grad(value, list(loss_module.parameters())))


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_update_loss_is_the_mean_of_micro_batch_losses(
    tiny_model: Path, sequences: Sequences, kind: str, chunked: bool
) -> None:
    ours = loss_module(tiny_model, chunked=chunked)
    expected = 0.0
    for rows in PLAN.list_micro_batches(0):
        losses = []
        for row in rows:
            tokens = torch.tensor(sequences[row].tolist())
            logits = ours.model(tokens[None]).logits[0, :-1].detach()
            prompt = int(sequences.prompt_lengths[row])
            losses.append(cross_entropy(logits, tokens[1:], reduction="none")[prompt - 1 :])
        expected += torch.cat(losses).mean().item() / len(PLAN.list_micro_batches(0))
    with torch.no_grad():
        total = sum(ours(batch).item() for batch in batches(sequences, kind))
    assert total == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("chunked", [False, True])
def test_learned_positions_restart_in_each_document(sequences: Sequences, chunked: bool) -> None:
    # Rotary positions are relative: where a document begins makes no difference to them.
    attention.register()
    config = GPTBigCodeConfig(vocab_size=400, n_embd=32, n_layer=2, n_head=4, initializer_range=0.2)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention.NAME).eval()
    ours = LossModule(model, chunked=chunked)
    with torch.no_grad():
        padded, packed = (sum(ours(batch).item() for batch in batches(sequences, kind)) for kind in KINDS)
    assert packed == pytest.approx(padded, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_chunked_logits_give_the_same_loss_and_gradients(
    tiny_model: Path, sequences: Sequences, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "CHUNK_PREDICTIONS", PIECE)
    whole, chunked = loss_module(tiny_model), loss_module(tiny_model, chunked=True)
    for batch in batches(sequences, kind):
        (one, gradients), (other, expected) = backwards(chunked, batch), backwards(whole, batch)
        assert one.item() == pytest.approx(other.item(), rel=1e-6)
        for ours, theirs in zip(gradients, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_cover_supervised_positions_chunk_by_chunk(
    tiny_model: Path, sequences: Sequences, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "CHUNK_PREDICTIONS", PIECE)
    batch = batches(sequences, kind)[0]
    count, places = batch.targets.numel(), batch.input_ids.numel()
    assert PIECE < count < places - 1

    def made(ours: LossModule) -> list[int]:
        sizes: list[int] = []

        def note(module: torch.nn.Module, inputs: Any, logits: torch.Tensor) -> None:
            assert logits.shape[-1] == ours.model.config.vocab_size
            sizes.append(logits.numel() // logits.shape[-1])

        ours.model.get_output_embeddings().register_forward_hook(note)
        backwards(ours, batch)
        return sizes

    assert made(loss_module(tiny_model)) == [count]
    pieces = made(loss_module(tiny_model, chunked=True))
    assert max(pieces) == PIECE
    assert sum(pieces) == 2 * count  # forwards, and once more backwards


def test_unsupervised_micro_batch_has_no_loss_and_no_gradient(tiny_model: Path, sequences: Sequences) -> None:
    (empty,) = Layout("packed", LIMIT, "micro_mean", pad_token_id=1).lay_out(sequences, PLAN, 0, 7, 8)
    assert not empty.rows
    value, gradients = backwards(loss_module(tiny_model), empty)
    assert value.item() == 0.0
    assert not any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("chunked", [False, True])
def test_the_loss_of_a_bfloat16_model_is_summed_in_float32(
    tiny_model: Path, sequences: Sequences, chunked: bool
) -> None:
    batch = batches(sequences, "packed")[0]
    rounded = loss_module(tiny_model, torch.bfloat16, chunked=chunked)
    value = rounded(batch)
    with torch.no_grad():
        position_ids, documents = batch.position_ids, batch.documents
        states = rounded.model(batch.input_ids, position_ids=position_ids, documents=documents, longest=batch.longest)
    logits = states.logits[0, batch.predicting].double()
    expected = (cross_entropy(logits, batch.targets[0], reduction="none") * batch.weights[0]).sum().item()
    assert value.dtype == torch.float32
    # In bfloat16 it would be wrong by some 0.4 %.
    assert value.item() == pytest.approx(expected, rel=1e-5)


def test_chunked_logits_are_refused_if_the_model_alters_them() -> None:
    shape = GraniteConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
    shape.logits_scaling = 8.0
    granite = GraniteForCausalLM(shape)
    LossModule(granite)
    with pytest.raises(UserError, match="this model has logits_scaling"):
        LossModule(granite, chunked=True)
