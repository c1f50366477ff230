"""Run updates one after another, each an exact step of the plan."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy
import torch

from magicoder.training.distributed import World
from magicoder.training.flops import FlopsCounter
from magicoder.training.gradients import Gradients
from magicoder.training.layout import Layout, MicroBatch
from magicoder.training.loss import LossModule
from magicoder.training.memory import measure_peak
from magicoder.training.optimizers import Optimizer
from magicoder.training.plan import Plan, Schedule
from magicoder.training.tokenization import Sequences


@dataclass(frozen=True)
class UpdateReport:
    """The results of one update, over all devices.

    update: its number, counted from 1. loss: the objective, in nats per token. update_norm: L2 norm of the change of
    all parameters. tokens: computed tokens, without padding. supervised_tokens: tokens with a weight in the loss.
    padding: share of computed positions without a token. operations: floating-point operations of the passes, see
    `FlopsCounter`. memory: peak bytes on this device so far. seconds: wall-clock time.
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
        """Tokens without padding per second of wall-clock time."""
        return self.tokens / self.seconds


class NotFinite(Exception):
    """A non-finite loss or change of weights: `value`, and the `rows` where it began, if known."""

    def __init__(self, update: int, value: float, rows: tuple[int, ...]) -> None:
        super().__init__(f"update {update}: the loss or the change of the weights is {value}")
        self.update, self.value, self.rows = update, value, rows


@dataclass(frozen=True)
class Training:
    """Everything that an update needs. max_grad_norm: clip gradients to this L2 norm; 0 or less: do not clip.

    Example:
        for report in training.run_updates(start=0, is_stopping=lambda: False):
            print(report.update, report.loss)
    """

    world: World
    loss_module: LossModule
    optimizer: Optimizer
    gradients: Gradients
    sequences: Sequences
    plan: Plan
    schedule: Schedule
    layout: Layout
    flops: FlopsCounter
    max_grad_norm: float

    def run_updates(self, start: int, is_stopping: Callable[[], bool]) -> Iterator[UpdateReport]:
        """Run the updates from number `start` on, to the plan's end or until `is_stopping` in any process.

        A stop abandons the current update within a micro-batch; the resumed run repeats it from its beginning.
        Errors: NotFinite; the weights are then useless, the last checkpoint is not.
        """
        self.loss_module.train()
        for number in range(start, self.plan.updates):
            report = self._run_update(number, is_stopping)
            if report is None:
                return
            yield report

    def _run_update(self, number: int, is_stopping: Callable[[], bool]) -> UpdateReport | None:
        began = time.monotonic()
        # Dropout depends on update and device alone, so a resumed run draws what an undisturbed one draws.
        torch.manual_seed(((self.plan.seed * 1_000_003 + number) * 65_537 + self.world.rank) % 2**63)
        learning_rate = self.schedule(number)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        batches = self.layout.lay_out(self.sequences, self.plan, number, self.world.rank, self.world.size)
        losses = []
        for position, batch in enumerate(batches):
            if self.world.any(is_stopping())[0]:
                self.gradients.clear()
                return None
            loss = self.loss_module(batch.to(self.world.device))
            self.gradients.add(loss, last=position == len(batches) - 1)
            losses.append(loss.detach())
        if self.max_grad_norm > 0:
            self.gradients.clip(self.max_grad_norm)
        self.optimizer.step()
        self.gradients.clear()
        return self._report(number, learning_rate, batches, torch.stack(losses), began)

    def _report(
        self, number: int, learning_rate: float, batches: list[MicroBatch], losses: torch.Tensor, began: float
    ) -> UpdateReport:
        """Build the report; here alone the host waits for the device, once an update."""
        rows = numpy.concatenate([batch.rows for batch in batches]).astype(numpy.int64)
        lengths, supervised = self.sequences.measure_lengths(rows), self.sequences.count_supervised(rows).sum()
        positions = sum(batch.input_ids.numel() for batch in batches)
        operations = self.flops.count(lengths, supervised)
        counts = torch.tensor([lengths.sum(), supervised, positions, operations], dtype=torch.float64)
        total = self.world.sum(torch.cat([losses.sum(dtype=torch.float64)[None], counts.to(losses.device)]))
        change = self.optimizer.update_norm.double()[None].to(total.device)
        loss, tokens, supervised, positions, operations, update_norm = torch.cat([total, change]).tolist()
        if not math.isfinite(loss + update_norm):
            value = update_norm if math.isfinite(loss) else loss
            raise NotFinite(number + 1, value, self._find_culprits(batches, losses))
        return UpdateReport(
            number + 1,
            loss,
            learning_rate,
            update_norm,
            int(tokens),
            int(supervised),
            1.0 - tokens / positions,
            operations,
            measure_peak(self.world.device),
            time.monotonic() - began,
        )

    def _find_culprits(self, batches: list[MicroBatch], losses: torch.Tensor) -> tuple[int, ...]:
        """Return the rows of the first micro-batch with a non-finite loss, in the first process that has one."""
        here = [batch.rows for batch, loss in zip(batches, losses.tolist(), strict=True) if not math.isfinite(loss)]
        everywhere = self.world.gather(here[0] if here else ())
        return next((rows for rows in everywhere if rows), ())
