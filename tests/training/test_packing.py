"""Packing: what every packing has to hold, over random lengths, and how well it fills."""

import numpy
import pytest

from magicoder.training.packing import pack


def drawn(seed: int) -> tuple[list[int], int]:
    """Some sequences and a capacity that the longest of them may fill: few or many, alike or very different."""
    generator = numpy.random.default_rng(seed)
    number, longest = int(generator.integers(1, 80)), int(generator.choice([1, 7, 300]))
    lengths = generator.integers(1, longest + 1, number)
    if seed % 2:
        lengths = numpy.minimum(generator.geometric(4 / (longest + 3), number), longest)
    return lengths.tolist(), int(generator.integers(longest, 4 * longest + 1))


def tokens(bins: list[list[int]], lengths: list[int]) -> list[int]:
    return [sum(lengths[place] for place in members) for members in bins]


@pytest.mark.parametrize("devices", [1, 2, 3, 8])
def test_each_sequence_is_in_one_bin_and_none_overflows(devices: int) -> None:
    for seed in range(100):
        lengths, capacity = drawn(seed)
        bins = pack(lengths, capacity, devices)
        assert sorted(place for members in bins for place in members) == list(range(len(lengths))), seed
        assert max(tokens(bins, lengths)) <= capacity, seed
        assert len(bins) % devices == 0, seed
        # Of best-fit bins only one is at most half full; devices may ask for some more.
        assert len(bins) < 2 * sum(lengths) / capacity + 1 + devices, seed
        # Resumed, an update has to lie as it lay.
        assert pack(list(lengths), capacity, devices) == bins, seed


def test_bins_are_filled_evenly() -> None:
    lengths = numpy.random.default_rng(0).integers(20, 600, 256).tolist()
    filled = tokens(pack(lengths, 4096, bins_divisible_by=8), lengths)
    assert max(filled) - min(filled) < 0.02 * max(filled)


def test_tight_packing_is_used_where_even_filling_overflows() -> None:
    # Longest first to the emptiest would make 9 + 8 + 8 and 9 + 8.
    assert sorted(map(sorted, pack([9, 9, 8, 8, 8], 24))) == [[0, 1], [2, 3, 4]]


def test_with_fewer_sequences_than_devices_some_bins_are_empty() -> None:
    assert sorted(pack([5, 4], 8, bins_divisible_by=3)) == [[], [0], [1]]


def test_sequence_as_long_as_a_bin_fits_and_a_longer_does_not() -> None:
    assert sorted(map(sorted, pack([3, 8, 5], 8))) == [[0, 2], [1]]
    with pytest.raises(ValueError, match="a sequence of 9 tokens does not fit into a bin of 8"):
        pack([3, 9], 8)


def test_nothing_is_packed_into_no_bin() -> None:
    assert pack([], 8, 4) == []


def test_many_short_sequences_need_the_fewest_bins() -> None:
    lengths = numpy.random.default_rng(0).integers(50, 1200, 8192).tolist()
    assert len(pack(lengths, 1 << 14, bins_divisible_by=8)) == 8 * -(-sum(lengths) // (8 << 14))
