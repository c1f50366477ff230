"""The loop against a plain PyTorch loop that follows the documented recipe literally."""

import dataclasses
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.optimization import Adafactor as HuggingFaceAdafactor

from magicoder.training import attention
from magicoder.training.adafactor import Adafactor
from magicoder.training.checkpoint import Checkpoints
from magicoder.training.distributed import World
from magicoder.training.flops import FlopsCounter
from magicoder.training.gradients import Gradients
from magicoder.training.layout import Layout
from magicoder.training.loop import NotFinite, Training, UpdateReport
from magicoder.training.loss import LossModule
from magicoder.training.plan import Plan, make_schedule
from magicoder.training.tokenization import Sequences, tokenize_rows

TEMPLATE = "Q: {instruction} A: {response}"
LIMIT = 48
# The third row's prompt fills the limit: alone in a micro-batch it leaves nothing to learn there.
ROWS = [
    {"instruction": f"task {number} " * (40 if number == 2 else 1 + number % 3), "response": f"def f{number}(): pass"}
    for number in range(11)
]
PEAK, WARMUP, EPOCHS, MICRO, GLOBAL, SEED = 1e-3, 3, 3, 2, 4, 5
PLAN = Plan(len(ROWS), EPOCHS, MICRO, GLOBAL, SEED)
KINDS = ["padded", "packed"]


@pytest.fixture(scope="module")
def sequences(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Sequences:
    folder = tmp_path_factory.mktemp("loop") / "sequences"
    return tokenize_rows(ROWS, AutoTokenizer.from_pretrained(tiny_model), TEMPLATE, LIMIT, folder)


@pytest.fixture
def begun(tiny_model: Path, sequences: Sequences, world: World) -> Any:
    """A training at its beginning; options are those of the model, beside what the function names."""

    def begin(
        kind: str = "padded", *, plan: Plan = PLAN, dtype: torch.dtype = torch.float32, **options: Any
    ) -> Training:
        attention.register()
        implementation = attention.NAME if kind == "packed" else "sdpa"
        model = AutoModelForCausalLM.from_pretrained(
            tiny_model, dtype=dtype, attn_implementation=implementation, **options
        )
        loss_module = LossModule(model)
        optimizer = Adafactor(loss_module.parameters(), seed=plan.seed)
        return Training(
            world,
            loss_module,
            optimizer,
            Gradients(loss_module, world, once=True),
            sequences,
            plan,
            make_schedule("linear", PEAK, WARMUP, plan.updates),
            Layout(kind, 2 * LIMIT, "micro_mean", pad_token_id=1),
            FlopsCounter(model),
            max_grad_norm=-1.0,
        )

    return begin


def carried_out(training: Training, start: int = 0, updates: int = 100) -> list[UpdateReport]:
    torch.rand(start + updates)  # wherever the generator stands
    return list(islice(training.run_updates(start, lambda: False), updates))


def losses(training: Training, start: int = 0, updates: int = 100) -> list[float]:
    return [report.loss for report in carried_out(training, start, updates)]


def weights(training: Training) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in training.loss_module.parameters()]


def plain_loop(
    folder: Path, sequences: Sequences, dtype: torch.dtype
) -> tuple[list[tuple[float, float]], torch.nn.Module]:
    """The model's own mean loss of each micro-batch divided by their number, Hugging Face's optimizer, its schedule."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).train()
    optimizer = HuggingFaceAdafactor(model.parameters(), lr=PEAK, scale_parameter=False, relative_step=False)
    curve = []
    for number in range(PLAN.updates):
        rate = PEAK * number / WARMUP if number < WARMUP else PEAK * (PLAN.updates - number) / (PLAN.updates - WARMUP)
        optimizer.param_groups[0]["lr"] = rate
        total = 0.0
        micro_batches = PLAN.list_micro_batches(number)
        for rows in micro_batches:
            longest = max(len(sequences[row]) for row in rows)
            inputs = torch.zeros(len(rows), longest, dtype=torch.long)
            mask = torch.zeros_like(inputs)
            labels = torch.full_like(inputs, -100)
            for place, row in enumerate(rows):
                tokens = torch.tensor(sequences[row].tolist())
                inputs[place, : len(tokens)] = tokens
                mask[place, : len(tokens)] = 1
                prompt = int(sequences.prompt_lengths[row])
                labels[place, prompt : len(tokens)] = tokens[prompt:]
            if (labels != -100).any():
                loss = model(input_ids=inputs, attention_mask=mask, labels=labels).loss / len(micro_batches)
                loss.backward()
                total += loss.item()
        optimizer.step()
        optimizer.zero_grad()
        curve.append((total, rate))
    return curve, model


@pytest.mark.parametrize("kind", KINDS)
def test_loss_rate_and_weights_equal_a_plain_loop(
    tiny_model: Path, sequences: Sequences, begun: Any, kind: str
) -> None:
    training = begun(kind)
    reports = carried_out(training)
    curve, reference = plain_loop(tiny_model, sequences, torch.float32)
    assert [report.update for report in reports] == list(range(1, 10))
    assert [(report.loss, report.learning_rate) for report in reports] == [
        (pytest.approx(loss, rel=1e-5), pytest.approx(rate)) for loss, rate in curve
    ]
    for ours, theirs in zip(training.loss_module.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert reports[-1].loss < reports[0].loss


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_parameters_follow_the_same_curve_to_rounding(
    tiny_model: Path, sequences: Sequences, begun: Any, kind: str
) -> None:
    training = begun(kind, dtype=torch.bfloat16)
    reports = carried_out(training)
    curve, _ = plain_loop(tiny_model, sequences, torch.bfloat16)
    assert {parameter.dtype for parameter in training.loss_module.parameters()} == {torch.bfloat16}
    assert [report.loss for report in reports] == [pytest.approx(loss, rel=2e-2) for loss, _ in curve]


def test_first_update_has_rate_zero_and_changes_no_weight(begun: Any) -> None:
    training = begun()
    before = weights(training)
    (report,) = carried_out(training, updates=1)
    assert (report.learning_rate, report.update_norm) == (0.0, 0.0)
    assert all(map(torch.equal, before, weights(training)))


def test_update_norm_is_the_distance_of_all_weights(begun: Any) -> None:
    training = begun()
    carried_out(training, updates=2)
    before = weights(training)
    (report,) = carried_out(training, start=2, updates=1)
    change = [(one - other).square().sum().item() for one, other in zip(before, weights(training), strict=True)]
    assert report.update_norm == pytest.approx(sum(change) ** 0.5, rel=1e-4)


def test_unsupervised_micro_batch_gives_no_gradient_and_no_nan(begun: Any) -> None:
    training = begun(plan=replace(PLAN, micro_batch_size=1))
    assert numpy.isfinite(losses(training)).all()
    assert all(torch.isfinite(parameter).all() for parameter in weights(training))


@pytest.mark.parametrize("kind", KINDS)
def test_a_report_counts_what_was_computed(sequences: Sequences, begun: Any, kind: str) -> None:
    for number, report in enumerate(carried_out(begun(kind))):
        micro_batches = [rows.tolist() for rows in PLAN.list_micro_batches(number)]
        rows = [row for rows in micro_batches for row in rows]
        learnt = {row: len(sequences[row]) - int(sequences.prompt_lengths[row]) for row in rows}
        longest = [max(len(sequences[row]) for row in rows) for rows in micro_batches]
        if kind == "packed":
            rows = [row for row in rows if learnt[row]]
        tokens = sum(len(sequences[row]) for row in rows)
        places = sum(len(part) * size for part, size in zip(micro_batches, longest, strict=True))
        assert report.tokens == tokens
        assert report.supervised_tokens == sum(learnt.values())
        assert report.padding == pytest.approx(0.0 if kind == "packed" else 1 - tokens / places)
        assert report.tokens_per_second == pytest.approx(tokens / report.seconds)


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_is_equal_in_repeated_and_resumed_trainings(
    world: World, begun: Any, tmp_path: Path, kind: str
) -> None:
    def checkpoints(training: Training) -> Checkpoints:
        return Checkpoints(tmp_path, 1, world, training.loss_module, training.optimizer)

    undisturbed = losses(begun(kind, attention_dropout=0.5))
    assert undisturbed != losses(begun(kind)), "there is to be dropout"
    stopped = begun(kind, attention_dropout=0.5)
    assert losses(stopped, updates=4) == undisturbed[:4]
    kept = checkpoints(stopped)
    kept.save(4)
    kept.finish()
    resumed = begun(kind, attention_dropout=0.5)
    assert checkpoints(resumed).resume() == 4
    assert losses(resumed, start=4) == undisturbed[4:]


def test_each_update_drops_out_otherwise(begun: Any) -> None:
    # The same row every time, and weights that stay.
    plan = Plan(rows=1, epochs=4, micro_batch_size=1, global_batch_size=1, seed=SEED)
    for dropout, different in ((0.5, 4), (0.0, 1)):
        training = replace(begun(plan=plan, attention_dropout=dropout), schedule=lambda number: 0.0)
        assert len(set(losses(training))) == different


@pytest.mark.parametrize("kind", KINDS)
def test_checkpointing_of_activations_changes_nothing(begun: Any, kind: str) -> None:
    saving = begun(kind, attention_dropout=0.5)
    saving.loss_module.model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    assert losses(saving) == losses(begun(kind, attention_dropout=0.5))


def test_stop_within_an_update_keeps_the_last_whole_one(begun: Any) -> None:
    stopped, undisturbed = begun(), begun()
    asked = iter(range(100))
    # An update has two micro-batches, and each is asked before: the fourth update is left between its two.
    reports = list(stopped.run_updates(0, lambda: next(asked) == 7))
    assert [report.update for report in reports] == [1, 2, 3]
    expected = losses(undisturbed, updates=3)
    assert all(map(torch.equal, weights(stopped), weights(undisturbed)))
    assert [report.loss for report in reports] == expected
    assert losses(stopped, start=3) == losses(undisturbed, start=3)


POISON = "@"


@pytest.mark.parametrize("kind", KINDS)
def test_non_finite_loss_stops_the_training_and_names_the_rows(
    tiny_model: Path, begun: Any, tmp_path: Path, kind: str
) -> None:
    # One row holds a token with a NaN embedding; the row is in the second micro-batch of the first update.
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    row = int(PLAN.list_micro_batches(0)[1][0])
    poisoned = [{**ROWS[number], "instruction": POISON} if number == row else ROWS[number] for number in range(11)]
    sequences = tokenize_rows(poisoned, tokenizer, TEMPLATE, LIMIT, tmp_path / "sequences")
    # Bins of one long sequence, so that they are several.
    layout = Layout(kind, LIMIT, "micro_mean", pad_token_id=1)
    training = replace(begun(kind, tie_word_embeddings=False), sequences=sequences, layout=layout)
    (token,) = tokenizer(POISON, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        training.loss_module.model.get_input_embeddings().weight[token] = torch.nan
    with pytest.raises(NotFinite, match="update 1: the loss or the change of the weights is nan") as stop:
        carried_out(training)
    (expected,) = [
        batch.rows for batch in layout.lay_out(sequences, PLAN, 0) if token in batch.input_ids.flatten().tolist()
    ]
    assert stop.value.rows == expected
    assert row in expected
    assert len(expected) < GLOBAL


def test_non_finite_change_stops_the_training_without_rows(begun: Any) -> None:
    training = begun()
    next(training.loss_module.parameters()).register_hook(lambda gradient: gradient * torch.nan)
    run = training.run_updates(0, lambda: False)
    with pytest.raises(NotFinite) as stop:
        next(run)
    assert stop.value.update == 1
    assert stop.value.rows == ()


@pytest.mark.parametrize("max_norm", [0.05, 0.75])
def test_gradients_are_clipped_to_norms_below_one(begun: Any, max_norm: float) -> None:
    """0 switches clipping off, and every norm above it is one."""
    training = dataclasses.replace(begun(), max_grad_norm=max_norm)
    norms = []
    step = training.optimizer.step

    def note_norm() -> Any:
        gradients = [parameter.grad for parameter in training.loss_module.parameters() if parameter.grad is not None]
        norms.append(torch.nn.utils.get_total_norm(gradients).item())
        return step()

    training.optimizer.step = note_norm  # type: ignore[method-assign]
    carried_out(training, updates=2)
    assert norms == pytest.approx([max_norm] * 2, rel=1e-4)
