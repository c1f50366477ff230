"""Sequences into bins of a bounded number of tokens."""

import heapq
import math
from bisect import insort


def pack(lengths: list[int], capacity: int, bins_divisible_by: int = 1) -> list[list[int]]:
    """Spread sequences over bins that hold at most `capacity` tokens; return the places in `lengths` that each holds.

    The number of bins is a multiple of `bins_divisible_by` (devices that must do equally many), and bins are filled
    evenly, for nothing is padded: the time of an update is that of the fullest bin of each round. Best fit, longest
    first, tells how few bins will do; the longest to the emptiest bin then evens them out.
    Errors: ValueError if a sequence is longer than `capacity`.
    """
    if max(lengths, default=0) > capacity:
        raise ValueError(f"a sequence of {max(lengths)} tokens does not fit into a bin of {capacity}")
    fitted = _best_fit(lengths, capacity)
    number = math.ceil(len(fitted) / bins_divisible_by) * bins_divisible_by
    even = _emptiest_first(lengths, number)
    if all(sum(lengths[place] for place in members) <= capacity for members in even):
        return even
    return fitted + [[] for _ in range(number - len(fitted))]


def _best_fit(lengths: list[int], capacity: int) -> list[list[int]]:
    """Each sequence, longest first, into the fullest bin that still has room for it."""
    bins: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens left, bin), ascending
    for place in _longest_first(lengths):
        best = next((entry for entry in room if entry[0] >= lengths[place]), None)
        if best is None:
            best = (capacity, len(bins))
            bins.append([])
        else:
            room.remove(best)
        bins[best[1]].append(place)
        insort(room, (best[0] - lengths[place], best[1]))
    return bins


def _emptiest_first(lengths: list[int], number: int) -> list[list[int]]:
    """Each sequence, longest first, into the bin that has the fewest tokens."""
    bins: list[list[int]] = [[] for _ in range(number)]
    filled = [(0, place) for place in range(number)]
    for place in _longest_first(lengths):
        tokens, emptiest = heapq.heappop(filled)
        bins[emptiest].append(place)
        heapq.heappush(filled, (tokens + lengths[place], emptiest))
    return bins


def _longest_first(lengths: list[int]) -> list[int]:
    return sorted(range(len(lengths)), key=lambda place: -lengths[place])
