"""The plan of updates: which rows, how often, at which learning rate; what each supervised token weighs."""

import time
from collections import Counter

import numpy
import pytest
import torch
from numpy.typing import NDArray
from transformers import get_scheduler

from magicoder.training.plan import Plan, compute_token_weights, make_schedule


def rows_seen(plan: Plan) -> list[int]:
    return [int(row) for number in range(plan.updates) for micro in plan.list_micro_batches(number) for row in micro]


@pytest.mark.parametrize(("rows", "updates"), [(75_197, 292), (111_183, 434)])
def test_documented_data_sets_give_the_documented_updates(rows: int, updates: int) -> None:
    assert Plan(rows, epochs=2, micro_batch_size=2, global_batch_size=512, seed=42).updates == updates


def test_every_update_has_the_global_batch_size() -> None:
    for micro_batch_size in (1, 2, 8, 64):
        plan = Plan(1024, epochs=2, micro_batch_size=micro_batch_size, global_batch_size=64, seed=42)
        assert plan.updates == 32
        for number in range(plan.updates):
            assert [len(micro) for micro in plan.list_micro_batches(number)] == [micro_batch_size] * (
                64 // micro_batch_size
            )


def test_a_million_rows_are_planned_in_a_moment() -> None:
    plan = Plan(1_000_000, epochs=2, micro_batch_size=2, global_batch_size=512, seed=42)
    begun = time.perf_counter()
    rows = sum(len(micro) for number in range(plan.updates) for micro in plan.list_micro_batches(number))
    assert time.perf_counter() - begun < 5
    # 500,000 micro-batches an epoch are 1953 updates of 256, and 32 left over; those of the first epoch are done.
    assert rows == 2 * 1953 * 512


def test_each_epoch_sees_each_row_once_in_an_order_of_its_own() -> None:
    plan = Plan(rows=40, epochs=2, micro_batch_size=2, global_batch_size=10, seed=1)
    seen = rows_seen(plan)
    first, second = seen[:40], seen[40:]
    assert sorted(first) == sorted(second) == list(range(40))
    assert first != second


def test_leftover_micro_batches_open_the_next_epoch() -> None:
    # 7 micro-batches an epoch, 3 an update: 2 updates an epoch; update 2 takes 1 left over and 2 of the next epoch.
    plan = Plan(rows=13, epochs=2, micro_batch_size=2, global_batch_size=6, seed=1)
    assert plan.updates == 4
    third = plan.list_micro_batches(2)
    assert len(third) == 3
    last_of_first_epoch = numpy.random.default_rng([1, 0]).permutation(13)[12:]
    assert third[0].tolist() == last_of_first_epoch.tolist()
    assert Counter(rows_seen(plan)[:13]) == Counter(range(13))


def test_short_epoch_is_one_update_of_everything() -> None:
    plan = Plan(rows=5, epochs=3, micro_batch_size=2, global_batch_size=256, seed=1)
    assert plan.updates == 3
    for number in range(3):
        assert sorted(row for micro in plan.list_micro_batches(number) for row in micro) == list(range(5))
        assert [len(micro) for micro in plan.list_micro_batches(number)] == [2, 2, 1]


def test_update_does_not_depend_on_earlier_calls() -> None:
    plan = Plan(rows=1000, epochs=2, micro_batch_size=2, global_batch_size=32, seed=7)
    late = [micro.tolist() for micro in plan.list_micro_batches(40)]
    again = Plan(rows=1000, epochs=2, micro_batch_size=2, global_batch_size=32, seed=7)
    for number in range(41):
        walked = again.list_micro_batches(number)
    assert [micro.tolist() for micro in walked] == late


def test_another_seed_gives_another_order() -> None:
    orders = [rows_seen(Plan(100, 1, 2, 8, seed)) for seed in (1, 2)]
    assert orders[0] != orders[1]


def micro_batches(*sizes: int) -> list[NDArray[numpy.int64]]:
    """Rows counted on from one micro-batch to the next: what a weight is does not depend on which they are."""
    return numpy.split(numpy.arange(sum(sizes)), numpy.cumsum(sizes)[:-1])


def test_micro_mean_is_the_mean_of_micro_batch_means() -> None:
    # The third has nothing to learn; its mean of nothing counts as 0 among the four.
    supervised = numpy.array([3, 5, 2, 0, 0, 0, 7])
    weights = compute_token_weights("micro_mean", micro_batches(2, 2, 2, 1), supervised)
    expected = [1 / (4 * 8), 1 / (4 * 8), 1 / (4 * 2), 1 / (4 * 2), 1 / 4, 1 / 4, 1 / (4 * 7)]
    has_tokens = supervised > 0
    assert weights[has_tokens].tolist() == pytest.approx(numpy.array(expected)[has_tokens].tolist())
    assert numpy.isfinite(weights).all()
    assert (weights * supervised).sum() == pytest.approx(3 / 4)


def test_token_mean_weighs_every_token_of_an_update_alike() -> None:
    supervised = numpy.array([3, 5, 2, 0, 0, 0, 7])
    weights = compute_token_weights("token_mean", micro_batches(2, 2, 2, 1), supervised)
    assert weights.tolist() == pytest.approx([1 / 17] * 7)


@pytest.mark.parametrize("loss", ["micro_mean", "token_mean"])
def test_unsupervised_update_has_only_finite_weights(loss: str) -> None:
    assert numpy.isfinite(compute_token_weights(loss, micro_batches(2, 1), numpy.zeros(3, numpy.int64))).all()


@pytest.mark.parametrize("kind", ["linear", "cosine", "constant"])
def test_learning_rate_equals_that_of_transformers(kind: str) -> None:
    updates, warmup, peak = 292, 15, 5e-5
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    name = "constant_with_warmup" if kind == "constant" else kind
    scheduler = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=updates)
    rate = make_schedule(kind, peak, warmup, updates)
    for number in range(updates):
        assert rate(number) == pytest.approx(scheduler.get_last_lr()[0], rel=1e-12, abs=1e-20)
        optimizer.step()
        scheduler.step()


def test_first_rate_is_zero_and_the_sixteenth_the_peak() -> None:
    rate = make_schedule("linear", 5e-5, 15, 292)
    assert rate(0) == 0.0
    assert rate(15) == 5e-5


def test_training_without_warmup_starts_at_the_peak() -> None:
    assert make_schedule("linear", 1e-3, 0, 10)(0) == 1e-3
