"""Plan a training: the rows of each update (one optimizer step), and the weight of each supervised token in it.

A pure function of the number of rows, the recipe and the seed. It has no state: update number 217 is known without the
216 before it, so a run resumes at a number. Devices do not occur here: they share the work of an update, not its
definition.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy
from numpy.typing import NDArray


@dataclass(frozen=True)
class Plan:
    """Divides one permutation of the rows an epoch into micro-batches, and these into updates.

    rows: number of rows. micro_batch_size: rows of a micro-batch (the last of an epoch may have fewer).
    global_batch_size: rows of an update, a multiple of micro_batch_size. seed: of the permutations.

    Example:
        >>> plan = Plan(rows=75_197, epochs=2, micro_batch_size=2, global_batch_size=512, seed=42)
        >>> plan.updates, len(plan.list_micro_batches(0))
        (292, 256)
    """

    rows: int
    epochs: int
    micro_batch_size: int
    global_batch_size: int
    seed: int

    @property
    def accumulation(self) -> int:
        """Micro-batches of an update."""
        return self.global_batch_size // self.micro_batch_size

    @property
    def micro_batches_per_epoch(self) -> int:
        """Micro-batches that cover every row once."""
        return math.ceil(self.rows / self.micro_batch_size)

    @property
    def updates(self) -> int:
        """Number of updates; micro-batches left over at the end are dropped, but an epoch has at least one update."""
        return self.epochs * max(self.micro_batches_per_epoch // self.accumulation, 1)

    def list_micro_batches(self, number: int) -> list[NDArray[numpy.int64]]:
        """Return the row numbers of each micro-batch of update `number`, counted from 0.

        Micro-batches left over at an epoch's end open the next epoch's first update. An epoch too short for one update
        is one update by itself.
        """
        if self.micro_batches_per_epoch < self.accumulation:
            return self._slice_epoch(number, 0, self.micro_batches_per_epoch)
        first = number * self.accumulation
        epoch, offset = divmod(first, self.micro_batches_per_epoch)
        taken = self._slice_epoch(epoch, offset, offset + self.accumulation)
        left = self.accumulation - len(taken)
        return taken + self._slice_epoch(epoch + 1, 0, left) if left else taken

    def _slice_epoch(self, epoch: int, start: int, stop: int) -> list[NDArray[numpy.int64]]:
        order = _permute(self.rows, self.seed, epoch)
        size = self.micro_batch_size
        stop = min(stop, self.micro_batches_per_epoch)
        return [order[position * size : (position + 1) * size] for position in range(start, stop)]


@lru_cache(maxsize=2)  # an update may span two epochs
def _permute(rows: int, seed: int, epoch: int) -> NDArray[numpy.int64]:
    order = numpy.random.default_rng([seed, epoch]).permutation(rows)
    order.flags.writeable = False
    return order


def compute_token_weights(
    loss: str, micro_batches: list[NDArray[numpy.int64]], supervised: NDArray[numpy.int64]
) -> NDArray[numpy.float64]:
    """Return the weight of each supervised token of a row in its update, float64 [rows], in the update's order.

    loss: `micro_mean` is the mean over a micro-batch's tokens, then over the micro-batches, as documented;
    `token_mean` the mean over all tokens of the update. supervised: int64 [rows], supervised tokens of each row.
    A micro-batch without supervised tokens adds nothing to the loss, but counts in the mean.
    """
    if loss == "token_mean":
        return numpy.full(len(supervised), 1.0 / max(int(supervised.sum()), 1))
    sizes = [len(rows) for rows in micro_batches]
    starts = numpy.cumsum([0, *sizes[:-1]])
    tokens = numpy.add.reduceat(supervised, starts)
    return numpy.repeat(1.0 / (len(micro_batches) * numpy.maximum(tokens, 1)), sizes)


Schedule = Callable[[int], float]


def make_schedule(kind: str, peak: float, warmup_steps: int, updates: int) -> Schedule:
    """Return a function from the number of an update, counted from 0, to its learning rate.

    The rate rises from 0 to `peak` during the warmup. Then, by `kind`: `linear` falls to 0 one update after the last,
    `cosine` along half a cosine, `constant` stays. Source: `transformers.optimization`, which calls the last one
    `constant_with_warmup`.
    """

    def compute_rate(number: int) -> float:
        if number < warmup_steps:
            return peak * number / warmup_steps
        progress = (number - warmup_steps) / max(1, updates - warmup_steps)
        if kind == "cosine":
            return peak * 0.5 * (1.0 + math.cos(math.pi * progress))
        return peak * (1.0 - progress) if kind == "linear" else peak

    return compute_rate
