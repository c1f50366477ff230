"""Round float32 to bfloat16 stochastically, with random bits that depend on the element, not on device or time.

The bits of an element are a pure function of a key and of its index in the whole tensor, so a shard rounds like the
whole tensor, and a resumed run like an undisturbed one.
"""

import numpy
import torch
from torch import Tensor

# Elements rounded at a time: bounds temporaries to about 60 MB.
CHUNK = 2**22

# One 64-bit number provides the bits of four elements.
ELEMENTS_PER_NUMBER = 4

# SplitMix64's constants, as two's complement for int64.
GOLDEN_GAMMA = 0x9E3779B97F4A7C15 - 2**64
FIRST_MULTIPLIER = 0xBF58476D1CE4E5B9 - 2**64
SECOND_MULTIPLIER = 0x94D049BB133111EB - 2**64


def derive_key(seed: int, step: int, parameter: int) -> int:
    """Return a signed 64-bit key for the rounding of one parameter in one step. No argument may be negative.

    Source: numpy's `SeedSequence`, which decorrelates nearby numbers.
    """
    return int(numpy.random.SeedSequence([seed, step, parameter]).generate_state(1, numpy.uint64).view(numpy.int64)[0])


def round_stochastically(values: Tensor, key: int, first: int = 0) -> Tensor:
    """Round to one of the two bfloat16 neighbors, with probabilities that make the mean equal to the value.

    values: float32 of any shape. first: index of the first of them in the whole tensor, in row-major order.
    Representable values, infinities and NaN stay. Returns bfloat16 of the same shape.
    """
    flat = values.reshape(-1)
    rounded = torch.empty_like(flat, dtype=torch.bfloat16)
    for start in range(0, flat.numel(), CHUNK):
        chunk = flat[start : start + CHUNK]
        bits = draw_bits(key, first + start, chunk.numel(), values.device)
        rounded[start : start + CHUNK] = _round_with(chunk, bits)
    return rounded.view(values.shape)


def draw_bits(key: int, first: int, count: int, device: torch.device) -> Tensor:
    """Return 16 random bits for each of the elements `first` to `first + count`: int16 [count].

    Source: SplitMix64, of Steele, Lea and Flood, 2014, https://doi.org/10.1145/2660193.2660195: number i of the
    generator seeded with `key` mixes key + i * GOLDEN_GAMMA.
    """
    start, skipped = divmod(first, ELEMENTS_PER_NUMBER)
    stop = -(-(first + count) // ELEMENTS_PER_NUMBER)
    numbers = torch.arange(start, stop, device=device).mul_(GOLDEN_GAMMA).add_(key)
    numbers.bitwise_xor_(_shift_right(numbers, 30)).mul_(FIRST_MULTIPLIER)
    numbers.bitwise_xor_(_shift_right(numbers, 27)).mul_(SECOND_MULTIPLIER)
    numbers.bitwise_xor_(_shift_right(numbers, 31))
    return numbers.view(torch.int16)[skipped : skipped + count]


def _shift_right(numbers: Tensor, places: int) -> Tensor:
    # torch shifts in the sign bit, the generator needs zeros.
    return (numbers >> places).bitwise_and_(2 ** (64 - places) - 1)


def _round_with(values: Tensor, bits: Tensor) -> Tensor:
    # A bfloat16 is the upper half of a float32. Adding 16 random bits carries into the upper half with probability
    # lower half / 2**16, which is the distance to the lower neighbor; truncation is then exact.
    carried = bits.to(torch.int32).bitwise_and_(0xFFFF).add_(values.view(torch.int32))
    cut = carried.bitwise_and_(-0x10000).view(torch.float32)
    # A carry can turn a NaN into a number.
    return torch.where(values.isnan(), values, cut).to(torch.bfloat16)
