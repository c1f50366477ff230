"""The inner loop: updates one after another, each an exact step of the plan."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy
import torch

from magicoder.training.adafactor import Adafactor
from magicoder.training.distributed import World
from magicoder.training.flops import FlopsCounter
from magicoder.training.gradients import Gradients
from magicoder.training.layout import Layout, MicroBatch
from magicoder.training.loss import LossModule
from magicoder.training.memory import memory_in_use
from magicoder.training.plan import Plan, Schedule
from magicoder.training.tokenization import Sequences


@dataclass(frozen=True)
class UpdateReport:
    """What one update did, on all devices together.

    update: its number, counted from 1. loss: the objective, in nats per token. update_norm: L2 norm of the change of
    all parameters. tokens: tokens of its sequences that were computed, padding left out. supervised_tokens: those that
    are learnt. padding: share of the computed places that hold no token. operations: floating-point operations of the
    passes, see `Arithmetic`. memory: most bytes in use on this device so far. seconds: wall-clock time.
    """

    update: int
    loss: float
    learning_rate: float
    update_norm: float
    tokens: int
    supervised_tokens: int
    padding: float
    operations: float
    memory: int
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        """Tokens of sequences, padding left out, per second of wall-clock time."""
        return self.tokens / self.seconds


class NotFinite(Exception):
    """An update whose loss or change is no number: `value`, and the `rows` where it began, where that is known."""

    def __init__(self, update: int, value: float, rows: tuple[int, ...]) -> None:
        super().__init__(f"update {update}: the loss or the change of the weights is {value}")
        self.update, self.value, self.rows = update, value, rows


@dataclass(frozen=True)
class Training:
    """All that an update needs. max_grad_norm: gradients are clipped to this norm; 0 or less: not at all."""

    world: World
    loss_module: LossModule
    optimizer: Adafactor
    gradients: Gradients
    sequences: Sequences
    plan: Plan
    schedule: Schedule
    layout: Layout
    arithmetic: FlopsCounter
    max_grad_norm: float

    def updates(self, start: int, stopping: Callable[[], bool]) -> Iterator[UpdateReport]:
        """Carry out the updates from number `start` on, until the plan's end or until `stopping` in any process.

        A stop drops the update under way within a micro-batch: it is done again, whole, by the run that goes on.
        Errors: NotFinite; the weights are then useless, and the last checkpoint is not.
        """
        self.loss_module.train()
        for number in range(start, self.plan.updates):
            report = self._update(number, stopping)
            if report is None:
                return
            yield report

    def _update(self, number: int, stopping: Callable[[], bool]) -> UpdateReport | None:
        begun = time.monotonic()
        # Dropout is a function of update and device, resumed or not.
        torch.manual_seed(((self.plan.seed * 1_000_003 + number) * 65_537 + self.world.rank) % 2**63)
        learning_rate = self.schedule(number)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        batches = self.layout.micro_batches(self.sequences, self.plan, number, self.world.rank, self.world.size)
        losses = []
        for place, batch in enumerate(batches):
            if self.world.any(stopping())[0]:
                self.gradients.forget()
                return None
            loss = self.loss_module(batch.to(self.world.device))
            self.gradients.add(loss, last=place == len(batches) - 1)
            losses.append(loss.detach())
        if self.max_grad_norm > 0:
            self.gradients.clip(self.max_grad_norm)
        self.optimizer.step()
        self.gradients.forget()
        return self._report(number, learning_rate, batches, torch.stack(losses), begun)

    def _report(
        self, number: int, learning_rate: float, batches: list[MicroBatch], losses: torch.Tensor, begun: float
    ) -> UpdateReport:
        """The one place of an update at which the host waits for the device."""
        rows = numpy.concatenate([batch.rows for batch in batches]).astype(numpy.int64)
        lengths, supervised = self.sequences.lengths(rows), self.sequences.supervised(rows).sum()
        places = sum(batch.input_ids.numel() for batch in batches)
        operations = self.arithmetic.operations(lengths, supervised)
        counts = torch.tensor([lengths.sum(), supervised, places, operations], dtype=torch.float64)
        total = self.world.total(torch.cat([losses.sum(dtype=torch.float64)[None], counts.to(losses.device)]))
        change = self.optimizer.update_norm.double()[None].to(total.device)
        loss, tokens, supervised, places, operations, update_norm = torch.cat([total, change]).tolist()
        if not math.isfinite(loss + update_norm):
            value = update_norm if math.isfinite(loss) else loss
            raise NotFinite(number + 1, value, self._culprits(batches, losses))
        return UpdateReport(
            number + 1,
            loss,
            learning_rate,
            update_norm,
            int(tokens),
            int(supervised),
            1.0 - tokens / places,
            operations,
            memory_in_use(self.world.device),
            time.monotonic() - begun,
        )

    def _culprits(self, batches: list[MicroBatch], losses: torch.Tensor) -> tuple[int, ...]:
        """The rows of the first micro-batch whose own loss is no number, in the first process that has one."""
        here = [batch.rows for batch, loss in zip(batches, losses.tolist(), strict=True) if not math.isfinite(loss)]
        everywhere = self.world.gathered(here[0] if here else ())
        return next((rows for rows in everywhere if rows), ())
