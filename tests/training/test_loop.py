"""The loop against a plain PyTorch loop that follows the documented recipe literally."""

from itertools import islice
from pathlib import Path

import pytest
import torch
from lightning.fabric import Fabric
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.optimization import Adafactor

from magicoder.errors import UserError
from magicoder.training import checkpoint
from magicoder.training.encoding import Sequences, encode
from magicoder.training.loop import Training
from magicoder.training.optimizer import adafactor
from magicoder.training.plan import Plan, learning_rate_schedule

TEMPLATE = "Q: {instruction} A: {response}"
LIMIT = 48
# The third row's prompt fills the limit: alone in a micro-batch it leaves nothing to learn there.
ROWS = [
    {"instruction": f"task {number} " * (40 if number == 2 else 1 + number % 3), "response": f"def f{number}(): pass"}
    for number in range(11)
]
PEAK, WARMUP, EPOCHS, MICRO, ACCUMULATION, SEED = 1e-3, 3, 3, 2, 2, 5


def load(folder: Path, dtype: torch.dtype) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)


@pytest.fixture(scope="module")
def sequences(tiny_model: Path) -> Sequences:
    return encode(ROWS, AutoTokenizer.from_pretrained(tiny_model), TEMPLATE, LIMIT)


def train(folder: Path, sequences: Sequences, dtype: torch.dtype, micro: int = MICRO) -> tuple[list, torch.nn.Module]:
    plan = Plan(len(sequences), EPOCHS, micro, ACCUMULATION, SEED)
    fabric = Fabric(accelerator="cpu", devices=1)
    model = load(folder, dtype)
    model, optimizer = fabric.setup(model, adafactor(model.parameters()))
    schedule = learning_rate_schedule("linear", PEAK, WARMUP, plan.updates)
    training = Training(fabric, model, optimizer, sequences, plan, schedule, pad_token_id=0, max_grad_norm=-1.0)
    return list(training.updates(0, stopping=lambda: False)), model.module


def plain_loop(
    folder: Path, sequences: Sequences, dtype: torch.dtype
) -> tuple[list[tuple[float, float]], torch.nn.Module]:
    """The model's own mean loss of each micro-batch divided by their number, Hugging Face's optimizer, its schedule."""
    plan = Plan(len(sequences), EPOCHS, MICRO, ACCUMULATION, SEED)
    model = load(folder, dtype).train()
    optimizer = Adafactor(model.parameters(), lr=PEAK, scale_parameter=False, relative_step=False)
    curve = []
    for number in range(plan.updates):
        rate = PEAK * number / WARMUP if number < WARMUP else PEAK * (plan.updates - number) / (plan.updates - WARMUP)
        optimizer.param_groups[0]["lr"] = rate
        total = 0.0
        micro_batches = plan.update(number)
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


def test_loss_learning_rate_and_weights_equal_those_of_a_plain_loop(tiny_model: Path, sequences: Sequences) -> None:
    reports, model = train(tiny_model, sequences, torch.float32)
    curve, reference = plain_loop(tiny_model, sequences, torch.float32)
    assert [report.update for report in reports] == list(range(1, 10))
    assert [(report.loss, report.learning_rate) for report in reports] == [
        (pytest.approx(loss, rel=1e-5), pytest.approx(rate)) for loss, rate in curve
    ]
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert reports[-1].loss < reports[0].loss


def test_bfloat16_parameters_follow_the_same_curve_to_rounding(tiny_model: Path, sequences: Sequences) -> None:
    reports, model = train(tiny_model, sequences, torch.bfloat16)
    curve, _ = plain_loop(tiny_model, sequences, torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert [report.loss for report in reports] == [pytest.approx(loss, rel=2e-2) for loss, _ in curve]


def test_the_first_update_has_learning_rate_zero_and_changes_no_weight(tiny_model: Path, sequences: Sequences) -> None:
    plan = Plan(len(sequences), 1, MICRO, ACCUMULATION, SEED)
    fabric = Fabric(accelerator="cpu", devices=1)
    model = load(tiny_model, torch.float32)
    before = [parameter.clone() for parameter in model.parameters()]
    model, optimizer = fabric.setup(model, adafactor(model.parameters()))
    schedule = learning_rate_schedule("linear", PEAK, WARMUP, plan.updates)
    next(Training(fabric, model, optimizer, sequences, plan, schedule, 0, -1.0).updates(0, lambda: False))
    for former, parameter in zip(before, model.parameters(), strict=True):
        assert torch.equal(former, parameter)


def test_a_micro_batch_without_supervised_tokens_gives_no_gradient_and_no_nan(
    tiny_model: Path, sequences: Sequences
) -> None:
    reports, model = train(tiny_model, sequences, torch.float32, micro=1)
    assert all(report.loss == report.loss for report in reports)
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


def test_dropout_is_the_same_whether_a_training_is_repeated_or_resumed(
    tiny_model: Path, sequences: Sequences, tmp_path: Path
) -> None:
    def training(dropout: float) -> Training:
        plan = Plan(len(sequences), EPOCHS, MICRO, ACCUMULATION, SEED)
        fabric = Fabric(accelerator="cpu", devices=1)
        model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32, attention_dropout=dropout)
        model, optimizer = fabric.setup(model, adafactor(model.parameters()))
        schedule = learning_rate_schedule("linear", PEAK, WARMUP, plan.updates)
        return Training(fabric, model, optimizer, sequences, plan, schedule, pad_token_id=0, max_grad_norm=-1.0)

    def losses(run: Training, start: int = 0, updates: int = 100) -> list[float]:
        torch.rand(start + updates)  # wherever the generator stands
        return [report.loss for report in islice(run.updates(start, lambda: False), updates)]

    undisturbed = losses(training(0.5))
    assert undisturbed != losses(training(0.0)), "there is to be dropout"
    stopped = training(0.5)
    assert losses(stopped, updates=4) == undisturbed[:4]
    checkpoint.save(tmp_path, 4, stopped.model.module, stopped.optimizer.optimizer)
    resumed = training(0.5)
    assert checkpoint.resume(tmp_path, resumed.model.module, resumed.optimizer.optimizer) == 4
    assert losses(resumed, start=4) == undisturbed[4:]


def test_a_loss_that_is_no_number_stops_the_training(tiny_model: Path, sequences: Sequences) -> None:
    plan = Plan(len(sequences), 1, MICRO, ACCUMULATION, SEED)
    fabric = Fabric(accelerator="cpu", devices=1)
    model = load(tiny_model, torch.float32)
    with torch.no_grad():
        model.get_input_embeddings().weight.fill_(float("nan"))
    model, optimizer = fabric.setup(model, adafactor(model.parameters()))
    schedule = learning_rate_schedule("linear", PEAK, WARMUP, plan.updates)
    with pytest.raises(UserError, match="update 1: the loss is nan"):
        list(Training(fabric, model, optimizer, sequences, plan, schedule, 0, -1.0).updates(0, lambda: False))
