"""Pack sequences into bins of a bounded number of tokens."""

import heapq
import math
from bisect import insort


def pack(lengths: list[int], capacity: int, bins_divisible_by: int = 1) -> list[list[int]]:
    """Spread sequences over bins of at most `capacity` tokens; return the positions in `lengths` of each bin.

    The number of bins is a multiple of `bins_divisible_by` (devices that must run equally many). Bins are filled
    evenly, because nothing is padded: the time of an update is that of the fullest bin of each round. Best fit, longest
    first, finds how few bins suffice; longest to emptiest bin then evens them out.
    Errors: ValueError if a sequence is longer than `capacity`.

    Example:
        >>> pack([3, 5, 2, 4], capacity=8)
        [[1, 2], [3, 0]]
    """
    if max(lengths, default=0) > capacity:
        raise ValueError(f"a sequence of {max(lengths)} tokens does not fit into a bin of {capacity}")
    fitted = _pack_best_fit(lengths, capacity)
    number = math.ceil(len(fitted) / bins_divisible_by) * bins_divisible_by
    even = _fill_emptiest(lengths, number)
    if all(sum(lengths[position] for position in members) <= capacity for members in even):
        return even
    return fitted + [[] for _ in range(number - len(fitted))]


def _pack_best_fit(lengths: list[int], capacity: int) -> list[list[int]]:
    """Put each sequence, longest first, into the fullest bin with room for it."""
    bins: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens left, bin), ascending
    for position in _sort_longest_first(lengths):
        best = next((entry for entry in room if entry[0] >= lengths[position]), None)
        if best is None:
            best = (capacity, len(bins))
            bins.append([])
        else:
            room.remove(best)
        bins[best[1]].append(position)
        insort(room, (best[0] - lengths[position], best[1]))
    return bins


def _fill_emptiest(lengths: list[int], number: int) -> list[list[int]]:
    """Put each sequence, longest first, into the bin with the fewest tokens."""
    bins: list[list[int]] = [[] for _ in range(number)]
    filled = [(0, position) for position in range(number)]
    for position in _sort_longest_first(lengths):
        tokens, emptiest = heapq.heappop(filled)
        bins[emptiest].append(position)
        heapq.heappush(filled, (tokens + lengths[position], emptiest))
    return bins


def _sort_longest_first(lengths: list[int]) -> list[int]:
    return sorted(range(len(lengths)), key=lambda position: -lengths[position])
