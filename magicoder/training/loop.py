"""The inner loop: updates one after another, each an exact step of the plan."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from lightning.fabric import Fabric

from magicoder.errors import UserError
from magicoder.training.encoding import Sequences
from magicoder.training.layout import padded
from magicoder.training.loss import weighted_loss
from magicoder.training.plan import Plan, Schedule


@dataclass(frozen=True)
class UpdateReport:
    """What one update did.

    update: its number, counted from 1. loss: the objective, in nats per token. seconds: wall-clock time.
    tokens: tokens of its sequences, padding left out. supervised_tokens: those that are learnt.
    """

    update: int
    loss: float
    learning_rate: float
    tokens: int
    supervised_tokens: int
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        """Tokens of sequences, padding left out, per second of wall-clock time."""
        return self.tokens / self.seconds


@dataclass(frozen=True)
class Training:
    """All that an update needs."""

    fabric: Fabric
    model: Any
    optimizer: Any
    sequences: Sequences
    plan: Plan
    schedule: Schedule
    pad_token_id: int
    max_grad_norm: float

    def updates(self, start: int, stopping: Callable[[], bool]) -> Iterator[UpdateReport]:
        """Carry out the updates from number `start` on, until the plan's end or until `stopping`.

        A stop drops the update under way: it is done again, whole, by the run that goes on.
        Errors: UserError if the loss is no longer a number.
        """
        self.model.train()
        for number in range(start, self.plan.updates):
            report = self._update(number, stopping)
            if report is None:
                return
            yield report

    def _update(self, number: int, stopping: Callable[[], bool]) -> UpdateReport | None:
        begun = time.monotonic()
        torch.manual_seed(self.plan.seed * 1_000_003 + number)  # dropout is a function of the update, resumed or not
        learning_rate = self.schedule(number)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        rows = self.plan.update(number)
        loss = torch.zeros((), device=self.fabric.device)
        supervised = 0
        for batch in padded(self.sequences, rows, self.pad_token_id):
            if stopping():
                self.optimizer.zero_grad()
                return None
            part = weighted_loss(self.model, batch.to(self.fabric.device))
            self.fabric.backward(part)
            loss += part.detach()
            supervised += batch.supervised
        value = loss.item()
        if not math.isfinite(value):
            raise UserError(f"update {number + 1}: the loss is {value}; the last checkpoint is kept")
        if self.max_grad_norm > 0:
            self.fabric.clip_gradients(self.model, self.optimizer, max_norm=self.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        tokens = sum(len(self.sequences[row]) for micro_batch in rows for row in micro_batch)
        return UpdateReport(number + 1, value, learning_rate, tokens, supervised, time.monotonic() - begun)
