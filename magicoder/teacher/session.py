"""One teacher for all passes of a run: live, by batches or by files, within one budget."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from magicoder import models
from magicoder.config import GenerateConfig
from magicoder.runtime.errors import Interrupted, UserError
from magicoder.runtime.progress import Meter, meter
from magicoder.runtime.signals import StopRequest
from magicoder.teacher.batch_state import BatchState, under_way
from magicoder.teacher.budget import Budget
from magicoder.teacher.circuit_breaker import IN_A_ROW, CircuitBreaker
from magicoder.teacher.journal import Journal, Record
from magicoder.teacher.requests import Request

if TYPE_CHECKING:
    from magicoder.teacher.client import Client
    from magicoder.teacher.engine import Engine


REASONS_SHOWN = 2
"""In the progress line."""


class TeacherSession:
    """Asks the teacher of `settings`, keeping its answers in journals below `directory`. Use it in a `with` block."""

    def __init__(self, settings: GenerateConfig, directory: Path) -> None:
        """Nothing is asked or started before the first `ask`."""
        self._settings, self._directory = settings, directory
        self._journals: list[Journal] = []
        self._stack = ExitStack()
        self._base_url: str | None = None
        teacher = settings.teacher
        self.budget = Budget(
            teacher.known_price,
            teacher.max_cost,
            lambda: [journal.totals for journal in self._journals],
            part_by_batch=teacher.batch.price,
            by_batch=teacher.mode == "batch",
        )

    def __enter__(self) -> "TeacherSession":
        """The teaching itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the journals, and stop a server of our own."""
        self._stack.close()

    def journal(self, name: str, indices: range) -> Journal:
        """The journal `name` of this run, for rows with these indices; what it holds counts in the budget."""
        journal = self._stack.enter_context(Journal(self._directory / name, indices))
        self._journals.append(journal)
        return journal

    def ask(
        self,
        description: str,
        requests: Iterable[Request],
        journal: Journal,
        done: int,
        total: int,
        verdict: Callable[[Record], str | None],
    ) -> None:
        """Journal what becomes of every request; of `total` rows so many are done.

        If all are, nothing is asked, nor taken from `requests`, unless batches of theirs are under way still.
        verdict: why the row of a record will be rejected, None if it will be kept; for the progress line.
        Errors: Interrupted after a signal, UserError if the teacher cannot be had or the budget is spent, Unfinished
        where somebody else must answer first. The journal keeps what was answered.
        """
        waiting = under_way(self._directory)
        if done >= total and not any(BatchState.read(note).journal == journal.name for note in waiting):
            return
        if waiting and self._settings.teacher.mode != "batch":
            raise UserError(
                f"teacher.mode={self._settings.teacher.mode}: {len(waiting)} batches of this run are under way, and "
                "would be paid beside it; take them with teacher.mode=batch first"
            )
        mode = {"live": self._live, "batch": self._batch, "file": self._file}[self._settings.teacher.mode]
        with meter(description, total, done) as progress:
            mode(requests, journal, ProgressReporter(progress, self.budget, total, done, verdict))

    def usage(self) -> dict[str, float]:
        """Requests, tokens and, where the price is known, dollars that all journals come to."""
        charged = [journal.totals.charged(by_batch) for journal in self._journals for by_batch in (False, True)]
        used: dict[str, float] = {
            "requests": sum(journal.totals.requests for journal in self._journals),
            "prompt_tokens": sum(prompt_tokens for prompt_tokens, _ in charged),
            "completion_tokens": sum(completion_tokens for _, completion_tokens in charged),
        }
        return used if self.budget.spent is None else {**used, "dollars": round(self.budget.spent, 6)}

    def finish_reasons(self) -> Counter[str]:
        """How often answers ended in which way."""
        return sum((journal.totals.finish_reasons for journal in self._journals), Counter())

    def _live(self, requests: Iterable[Request], journal: Journal, shown: "ProgressReporter") -> None:
        from magicoder.teacher.client import Client

        client = Client(self._settings.teacher, self._served())
        stop = asyncio.run(self._ask_live(client, requests, journal, shown))
        if stop.signal_number is not None:
            raise Interrupted(stop.signal_number, "every answer that came is kept")

    async def _ask_live(
        self, client: "Client", requests: Iterable[Request], journal: Journal, shown: "ProgressReporter"
    ) -> StopRequest:
        from magicoder.teacher.engine import Engine
        from magicoder.teacher.rate_limits import RateLimits

        teacher = self._settings.teacher
        limits = RateLimits(
            teacher.concurrency, teacher.requests_per_minute, teacher.tokens_per_minute, teacher.timeout
        )
        engine = Engine(
            client,
            limits,
            self.budget,
            self._doubts(journal, IN_A_ROW),
            journal,
            teacher.max_attempts,
            lambda record: shown.live(record, engine),
        )
        return await engine.answer_all(requests, teacher.concurrency)

    def _doubts(self, journal: Journal, at_most: int | None) -> CircuitBreaker:
        answered = any(each.totals.answers for each in self._journals)
        give_up = self._settings.teacher.give_up
        return CircuitBreaker(
            answered=answered, give_up=give_up, failed_before=frozenset(journal.left), at_most=at_most
        )

    def _batch(self, requests: Iterable[Request], journal: Journal, shown: "ProgressReporter") -> None:
        from magicoder.teacher.batch import answer_in_batches

        teacher, breaker = self._settings.teacher, self._doubts(journal, at_most=None)
        stop = answer_in_batches(teacher, requests, journal, self.budget, self._directory, breaker, shown.record)
        if stop.signal_number is not None:
            raise Interrupted(stop.signal_number, "every answer that came is kept, and the batches go on")

    def _file(self, requests: Iterable[Request], journal: Journal, shown: "ProgressReporter") -> None:
        from magicoder.teacher.request_file import answer_from_file

        breaker = self._doubts(journal, at_most=None)
        answer_from_file(self._settings.teacher, requests, journal, self._directory, breaker, shown.record)

    def _served(self) -> str | None:
        """The URL of the teacher that this run serves itself; None where it asks one that runs already."""
        if self._settings.teacher.serve is None:
            return None
        if self._base_url is None:
            from magicoder.teacher.local_server import serving

            folder = models.as_folder(self._settings.teacher.serve, Path(self._settings.root) / "models")
            server = serving(folder, self._settings.teacher.model, self._directory / "server.log")
            self._base_url = self._stack.enter_context(server)
        return self._base_url


class ProgressReporter:
    """What the progress line tells beside the count: rate, in flight, retries, rejected rows, money."""

    def __init__(
        self, progress: Meter, budget: Budget, total: int, done: int, verdict: Callable[[Record], str | None]
    ) -> None:
        self._progress, self._budget, self._verdict = progress, budget, verdict
        self._total, self._done = total, done
        self._rejected: Counter[str] = Counter()
        self._begun = time.monotonic()
        self._spent_before = budget.spent or 0.0
        self._done_before = done

    def live(self, record: Record, engine: "Engine") -> None:
        """A record of the engine is in the journal."""
        parts = [f"{engine.limits.in_flight} in flight"]
        if engine.counts.retries or engine.counts.pauses:
            parts.append(f"{engine.counts.retries} retries, {engine.counts.pauses} pauses")
        self._count(record)
        self._show(*parts, self._money())

    def record(self, record: Record) -> None:
        """A record of batches or files is in the journal. What they cost is known when all are through."""
        self._count(record)
        self._show()

    def _count(self, record: Record) -> None:
        self._done += 1
        reason = self._verdict(record)
        if reason is not None:
            self._rejected[reason] += 1

    def _show(self, *parts: str) -> None:
        rate = (self._done - self._done_before) / max(time.monotonic() - self._begun, 1e-3)
        self._progress.advance("  ".join(part for part in (f"{rate:.3g}/s", *parts, self._told_rejected()) if part))

    def _told_rejected(self) -> str:
        """How many rows are rejected, and for which reasons most."""
        reasons = ", ".join(f"{reason} {count}" for reason, count in self._rejected.most_common(REASONS_SHOWN))
        return f"rejected: {self._rejected.total()} ({reasons})" if reasons else ""

    def _money(self) -> str:
        spent = self._budget.spent
        if spent is None:
            return ""
        done = self._done - self._done_before
        projected = spent + (spent - self._spent_before) / done * (self._total - self._done)
        bound = f" of {self._budget.max_cost:g}" if self._budget.max_cost is not None else ""
        return f"${spent:.2f}{bound}, ${projected:.2f} in the end"
