"""The plan of a training: which rows make which update, and what each supervised token weighs in it.

A pure function of the number of rows, the recipe and the seed. No state: update number 217 is known without the 216
before it, so a run resumes at a number. Nothing here knows of devices: they share out what an update is.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy
from numpy.typing import NDArray


@dataclass(frozen=True)
class Plan:
    """Updates over micro-batches; micro-batches over one permutation of the rows for each epoch.

    rows: number of rows. micro_batch_size: rows in a micro-batch (an epoch's last may have fewer).
    global_batch_size: rows in an update, a multiple of it. seed: of the permutations.
    """

    rows: int
    epochs: int
    micro_batch_size: int
    global_batch_size: int
    seed: int

    @property
    def accumulation(self) -> int:
        """Micro-batches in an update."""
        return self.global_batch_size // self.micro_batch_size

    @property
    def micro_batches_per_epoch(self) -> int:
        """Micro-batches that cover every row once."""
        return math.ceil(self.rows / self.micro_batch_size)

    @property
    def updates(self) -> int:
        """Updates in all; micro-batches left over at the very end make none, but an epoch makes at least one."""
        return self.epochs * max(self.micro_batches_per_epoch // self.accumulation, 1)

    def update(self, number: int) -> list[NDArray[numpy.int64]]:
        """The row numbers of each micro-batch of update `number`, counted from 0.

        Micro-batches left over at an epoch's end open the next epoch's first update. An epoch too short for one update
        is one update by itself.
        """
        if self.micro_batches_per_epoch < self.accumulation:
            return self._micro_batches(number, 0, self.micro_batches_per_epoch)
        first = number * self.accumulation
        epoch, offset = divmod(first, self.micro_batches_per_epoch)
        taken = self._micro_batches(epoch, offset, offset + self.accumulation)
        left = self.accumulation - len(taken)
        return taken + self._micro_batches(epoch + 1, 0, left) if left else taken

    def _micro_batches(self, epoch: int, start: int, stop: int) -> list[NDArray[numpy.int64]]:
        order = _permutation(self.rows, self.seed, epoch)
        size = self.micro_batch_size
        stop = min(stop, self.micro_batches_per_epoch)
        return [order[place * size : (place + 1) * size] for place in range(start, stop)]


@lru_cache(maxsize=2)  # an update may take from two epochs
def _permutation(rows: int, seed: int, epoch: int) -> NDArray[numpy.int64]:
    order = numpy.random.default_rng([seed, epoch]).permutation(rows)
    order.flags.writeable = False
    return order


def token_weights(
    loss: str, micro_batches: list[NDArray[numpy.int64]], supervised: NDArray[numpy.int64]
) -> NDArray[numpy.float64]:
    """What each supervised token of a row weighs in its update; as many weights as the update has rows, in its order.

    loss: `micro_mean` is the mean over a micro-batch's tokens, then over the micro-batches, as documented;
    `token_mean` the mean over all tokens of the update. supervised: tokens that each row has to learn, in this order.
    A row of a micro-batch without any weighs nothing, but the micro-batch counts among the others all the same.
    """
    if loss == "token_mean":
        return numpy.full(len(supervised), 1.0 / max(int(supervised.sum()), 1))
    sizes = [len(rows) for rows in micro_batches]
    starts = numpy.cumsum([0, *sizes[:-1]])
    tokens = numpy.add.reduceat(supervised, starts)
    return numpy.repeat(1.0 / (len(micro_batches) * numpy.maximum(tokens, 1)), sizes)


Schedule = Callable[[int], float]


def learning_rate_schedule(kind: str, peak: float, warmup_steps: int, updates: int) -> Schedule:
    """The learning rate of update k, counted from 0: from 0 up to `peak` in the warmup, then as `kind` says.

    kind: `linear` falls so that it would reach 0 one update after the last, `cosine` does so along half a cosine,
    `constant` stays. Source: `transformers.optimization`, whose name for the last is `constant_with_warmup`.
    """

    def rate(number: int) -> float:
        if number < warmup_steps:
            return peak * number / warmup_steps
        progress = (number - warmup_steps) / max(1, updates - warmup_steps)
        if kind == "cosine":
            return peak * 0.5 * (1.0 + math.cos(math.pi * progress))
        return peak * (1.0 - progress) if kind == "linear" else peak

    return rate
