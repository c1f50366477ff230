"""Stochastic rounding: unbiased, exact where it can be, and a pure function of what is rounded."""

import pytest
import torch

from magicoder.training import rounding
from magicoder.training.rounding import derive_key, draw_bits, round_stochastically


def neighbours(value: float) -> tuple[float, float]:
    """The bfloat16 numbers next to `value`, towards zero and away from it."""
    below = torch.tensor([value]).view(torch.int32).bitwise_and(-0x10000)
    return below.view(torch.float32).item(), (below + 0x10000).view(torch.float32).item()


@pytest.mark.parametrize("value", [1.001, -1.001, 3.14159, -2.7e-5, 1e30, 1e-40, 1.00001])
def test_the_mean_is_the_value_and_each_result_a_neighbour(value: float) -> None:
    count = 200_000
    lower, upper = neighbours(value)
    rounded = round_stochastically(torch.full((count,), value), key=7).double()
    assert set(rounded.tolist()) <= {lower, upper}
    exact = torch.tensor(value, dtype=torch.float32).item()
    carries = (exact - lower) / (upper - lower)
    standard_error = (carries * (1 - carries) / count) ** 0.5
    assert abs((rounded == upper).double().mean().item() - carries) < 4 * standard_error


def test_representable_values_stay() -> None:
    values = torch.randn(10_000).to(torch.bfloat16)
    values[:6] = torch.tensor([0.0, -0.0, 1.0, torch.finfo(torch.bfloat16).max, 1e-40, -1.5])
    rounded = round_stochastically(values.float(), key=1)
    assert torch.equal(rounded.view(torch.int16), values.view(torch.int16))


def test_infinities_and_every_nan_survive() -> None:
    infinities = torch.tensor([torch.inf, -torch.inf]).repeat(1000)
    assert torch.equal(round_stochastically(infinities, key=2).float(), infinities)
    nans = torch.tensor([0x7FC00000, 0x7FFFFFFF, 0x7F800001, -1, -0x7FFFFF], dtype=torch.int32).repeat(1000)
    assert round_stochastically(nans.view(torch.float32), key=2).isnan().all()


def test_a_shard_rounds_as_the_whole_does(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.randn(37, 29)
    whole = round_stochastically(values, key=3)
    for first_row, last_row in [(0, 1), (1, 14), (14, 37), (37, 37)]:
        shard = round_stochastically(values[first_row:last_row], key=3, first=first_row * 29)
        assert torch.equal(shard, whole[first_row:last_row])
    monkeypatch.setattr(rounding, "CHUNK", 101)
    assert torch.equal(round_stochastically(values, key=3), whole)


def test_transposed_values_round_by_position_and_scalars_round() -> None:
    values = torch.randn(8, 5)
    assert torch.equal(round_stochastically(values.t().contiguous().t(), key=4), round_stochastically(values, key=4))
    assert round_stochastically(torch.tensor(1.0), key=4).shape == ()


def test_seed_step_and_parameter_each_make_other_bits() -> None:
    keys = [derive_key(*numbers) for numbers in [(0, 1, 2), (1, 1, 2), (0, 2, 2), (0, 1, 3), (2, 1, 0)]]
    bits = [draw_bits(key, 0, 1000, torch.device("cpu")) for key in keys]
    for number, one in enumerate(bits):
        for other in bits[:number]:
            assert (one == other).sum() < 5
    assert derive_key(0, 1, 2) == keys[0]


def test_bits_are_those_of_splitmix64() -> None:
    # The generator's published output for the seed 1234567 begins with the state after one addition of its constant.
    numbers = draw_bits(1234567, 4, 8, torch.device("cpu")).view(torch.int64).tolist()
    assert [number % 2**64 for number in numbers] == [6457827717110365317, 3203168211198807973]


def test_elements_beyond_32_bits_have_their_own_bits() -> None:
    low, high = (draw_bits(5, first, 1000, torch.device("cpu")) for first in (0, 2**32))
    assert (low == high).sum() < 5
