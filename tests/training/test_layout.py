"""Layout: whatever the layout and the number of devices, an update learns the same tokens in the same contexts."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy
import pytest
import torch
from transformers import AutoTokenizer

from magicoder.training.layout import Layout, MicroBatch
from magicoder.training.plan import Plan
from magicoder.training.tokenization import Sequences, tokenize_rows

LIMIT, ROWS, PAD = 40, 50, 1
PLAN = Plan(ROWS, epochs=1, micro_batch_size=3, global_batch_size=24, seed=3)
LAYOUTS = ["padded", "packed"]
LOSSES = ["micro_mean", "token_mean"]

Learnt = Counter[tuple[tuple[int, ...], int, numpy.float32]]
"""How often which tokens are followed by which, and what that weighs."""


@pytest.fixture(scope="module")
def sequences(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Sequences:
    """Rows of many lengths; some are cut, and of some the prompt leaves nothing to learn."""
    sizes = numpy.random.default_rng(0).integers(1, 30, (ROWS, 2)).tolist()
    rows = [{"instruction": "wrap " * words, "response": "text\n" * lines} for words, lines in sizes]
    folder = tmp_path_factory.mktemp("layout") / "sequences"
    made = tokenize_rows(rows, AutoTokenizer.from_pretrained(tiny_model), "{instruction}: {response}", LIMIT, folder)
    assert 0 < made.counts.unsupervised < made.counts.cut < ROWS
    return made


def laid_out(sequences: Sequences, kind: str, loss: str, devices: int, update: int = 0) -> list[list[MicroBatch]]:
    """What each of the devices does."""
    layout = Layout(kind, 2 * LIMIT, loss, PAD)
    return [layout.lay_out(sequences, PLAN, update, device, devices) for device in range(devices)]


def learnt(batch: MicroBatch) -> Iterator[tuple[tuple[int, ...], int, numpy.float32]]:
    """What a model that sees each document's tokens up to a place, and no others, would learn there."""
    begins = [0] if batch.documents is None else batch.documents.tolist()
    for sequence, targets, weights in zip(batch.input_ids, batch.targets, batch.weights, strict=True):
        for place, target, weight in zip(batch.predicting.tolist(), targets.tolist(), weights.numpy(), strict=True):
            if weight:
                begin = max(begin for begin in begins if begin <= place)
                yield tuple(sequence[begin : place + 1].tolist()), target, weight


def planned(sequences: Sequences, loss: str, update: int, plan: Plan = PLAN) -> Learnt:
    """The same, read from the plan."""
    micro_batches = plan.list_micro_batches(update)
    tokens = [sum(len(sequences[row]) - sequences.prompt_lengths[row] for row in rows) for rows in micro_batches]
    expected: Learnt = Counter()
    for place, rows in enumerate(micro_batches):
        weight = 1 / sum(tokens) if loss == "token_mean" else 1 / max(tokens[place], 1) / len(micro_batches)
        for row in rows:
            sequence, prompt = sequences[row].tolist(), int(sequences.prompt_lengths[row])
            for end in range(prompt, len(sequence)):
                expected[tuple(sequence[:end]), sequence[end], numpy.float32(weight)] += 1
    return expected


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("devices", [1, 2, 3, 5])
def test_update_is_the_planned_one_on_any_number_of_devices(
    sequences: Sequences, kind: str, loss: str, devices: int
) -> None:
    for update in range(PLAN.updates):
        batches = [batch for batches in laid_out(sequences, kind, loss, devices, update) for batch in batches]
        assert Counter(entry for batch in batches for entry in learnt(batch)) == planned(sequences, loss, update)


@pytest.mark.parametrize("kind", LAYOUTS)
def test_row_twice_in_an_update_has_each_positions_weight(sequences: Sequences, kind: str) -> None:
    """An update that opens an epoch ends another, and both may have the same row there."""
    twice = 0
    for seed in range(12):
        plan = Plan(13, 2, 2, 6, seed)
        rows = numpy.concatenate(plan.list_micro_batches(2))
        twice += len(set(rows.tolist())) < len(rows)
        batches = Layout(kind, 2 * LIMIT, "micro_mean", PAD).lay_out(sequences, plan, 2)
        learned = Counter(entry for batch in batches for entry in learnt(batch))
        assert learned == planned(sequences, "micro_mean", 2, plan)
    assert twice


@pytest.mark.parametrize(("kind", "devices"), [("padded", 3), ("padded", 40), ("packed", 40)])
def test_devices_have_equal_micro_batches_empty_weigh_nothing(sequences: Sequences, kind: str, devices: int) -> None:
    everywhere = laid_out(sequences, kind, "micro_mean", devices)
    assert len({len(batches) for batches in everywhere}) == 1
    assert min(len(batches) for batches in everywhere) > 0
    empty = [batch for batches in everywhere for batch in batches if not batch.rows]
    assert empty
    for batch in empty:
        assert batch.input_ids.shape == (1, 1)
        assert batch.predicting.tolist() == [0]
        assert batch.weights.tolist() == [[0.0]]


def test_padded_micro_batch_is_the_planned_one_padded_right(sequences: Sequences) -> None:
    (batches,) = laid_out(sequences, "padded", "micro_mean", 1)
    for batch, rows in zip(batches, PLAN.list_micro_batches(0), strict=True):
        assert batch.rows == tuple(rows)
        assert batch.position_ids is batch.documents is None
        assert batch.input_ids.shape == (3, batch.longest)
        assert batch.longest == max(len(sequences[row]) for row in rows)
        for sequence, row in zip(batch.input_ids.tolist(), rows, strict=True):
            tokens = sequences[row].tolist()
            assert sequence == tokens + [PAD] * (batch.longest - len(tokens))


def test_positions_restart_in_every_document_of_a_bin(sequences: Sequences) -> None:
    (batches,) = laid_out(sequences, "packed", "micro_mean", 1)
    for batch in batches:
        documents = [sequences[row].tolist() for row in batch.rows]
        assert batch.input_ids.tolist() == [[token for document in documents for token in document]]
        assert batch.input_ids.shape[1] <= 2 * LIMIT
        assert batch.position_ids is not None
        assert batch.position_ids.tolist() == [[place for document in documents for place in range(len(document))]]
        assert batch.documents is not None
        assert batch.documents.dtype == torch.int32
        assert batch.documents.tolist() == [0, *numpy.cumsum([len(document) for document in documents])]
        assert batch.longest == max(len(document) for document in documents)


@pytest.mark.parametrize("devices", [1, 2])
def test_rows_with_nothing_to_learn_are_in_no_bin(sequences: Sequences, devices: int) -> None:
    rows = numpy.concatenate(PLAN.list_micro_batches(0))
    supervised = rows[sequences.count_supervised(rows) > 0]
    assert len(supervised) < len(rows)
    packed = [
        row for batches in laid_out(sequences, "packed", "micro_mean", devices) for b in batches for row in b.rows
    ]
    assert sorted(packed) == sorted(supervised.tolist())


def test_logits_are_asked_for_only_where_something_is_learnt(sequences: Sequences) -> None:
    for kind in LAYOUTS:
        for batch in laid_out(sequences, kind, "micro_mean", 1)[0]:
            assert (batch.weights > 0).any(dim=0).all()


@pytest.mark.parametrize("kind", LAYOUTS)
def test_unsupervised_update_is_a_weightless_pass_everywhere(tiny_model: Path, tmp_path: Path, kind: str) -> None:
    # With sharded parameters, a device that made no pass would leave the others waiting for it.
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    rows = [{"instruction": "wrap " * 30, "response": "text"}] * 2
    prompts = tokenize_rows(rows, tokenizer, "{instruction}{response}", 20, tmp_path / "sequences")
    plan = Plan(2, epochs=1, micro_batch_size=2, global_batch_size=2, seed=0)
    for device in range(2):
        (batch,) = Layout(kind, 20, "micro_mean", PAD).lay_out(prompts, plan, 0, device, 2)
        assert batch.targets.shape == batch.weights.shape == (len(batch.input_ids), 1)
        assert not batch.weights.any()
