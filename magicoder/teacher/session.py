"""Ask one teacher in all passes of a run: live, in batches or through files, within one budget."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicoder import models
from magicoder.config import GenerateConfig
from magicoder.runtime.console import say
from magicoder.runtime.errors import Interrupted, Unfinished, UserError
from magicoder.runtime.progress import Meter, show_meter
from magicoder.runtime.signals import StopRequest
from magicoder.runtime.text import make_encodable
from magicoder.storage.rejected import Rejection
from magicoder.teacher.address import resolve_address
from magicoder.teacher.api_key import read_api_key
from magicoder.teacher.batch_state import BatchState, list_batch_states
from magicoder.teacher.budget import Budget
from magicoder.teacher.circuit_breaker import MAX_FAILURES_IN_A_ROW, CircuitBreaker
from magicoder.teacher.journal import Journal
from magicoder.teacher.records import Answered, Record, Usage
from magicoder.teacher.request_shape import RequestShape, Shaper
from magicoder.teacher.requests import Request

if TYPE_CHECKING:
    from magicoder.teacher.client import Client
    from magicoder.teacher.engine import Engine


REASONS_SHOWN = 2
"""In the progress line."""


class TeacherSession:
    """Asks the teacher of `settings` and keeps its answers in journals below `directory`. Use it in a `with` block.

    Example:
        with TeacherSession(settings, directory) as session:
            journal = session.open_journal("journal.jsonl", range(100))
            session.ask("generate", requests, journal, done=len(journal), total=100, verdict=lambda record: None)
    """

    def __init__(self, settings: GenerateConfig, directory: Path) -> None:
        """Prepare the budget. Nothing is asked or started before the first `ask`."""
        self._settings, self._directory = settings, directory
        self._journals: list[Journal] = []
        self._stack = ExitStack()
        self._base_url: str | None = None
        teacher = settings.teacher
        self.budget = Budget(
            teacher.known_price,
            teacher.max_cost,
            lambda: [journal.totals for journal in self._journals],
            batch_discount=teacher.batch.price,
            by_batch=teacher.mode == "batch",
        )
        self._shapers: dict[str, Shaper] = {}

    def describe_shapes(self) -> dict[str, Any]:
        """Return the form of the requests, with what refusals have taught; by address where servers differ."""
        shapes = {place: asdict(shaper.shape) for place, shaper in self._shapers.items()}
        forms = list(shapes.values()) or [asdict(RequestShape.from_config(self._settings.teacher.request))]
        return forms[0] if all(form == forms[0] for form in forms) else shapes

    def _get_shaper(self, place: str) -> Shaper:
        """Return the shaper of a server, the same for all passes of the run."""
        if place not in self._shapers:
            configured = RequestShape.from_config(self._settings.teacher.request)
            self._shapers[place] = Shaper(configured, self._directory, place)
        return self._shapers[place]

    def __enter__(self) -> "TeacherSession":
        """Return the session itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the journals, and stop the server that the session started."""
        self._stack.close()

    def open_journal(self, name: str, indices: range) -> Journal:
        """Open the journal `name` of this run, for rows with these indices; its records count in the budget."""
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
        verdict: Callable[[Record], Rejection | None],
    ) -> None:
        """Journal the outcome of every request; `done` of `total` rows are settled.

        If all are, nothing is asked, nor consumed from `requests`, unless batches of theirs are still in progress.
        verdict: returns the rejection of a record's row, None if the row will be kept; for the progress line.
        Errors: Interrupted after a signal; UserError if the teacher is unusable or the budget is spent; Unfinished if
        somebody else must answer first. The journal keeps every answer.
        """
        waiting = list_batch_states(self._directory)
        if done >= total and not any(BatchState.read(path).journal == journal.name for path in waiting):
            return
        if waiting and self._settings.teacher.mode != "batch":
            raise UserError(
                f"teacher.mode={self._settings.teacher.mode}: {len(waiting)} batches of this run are in progress and "
                "would be paid twice; collect them with teacher.mode=batch first"
            )
        ask = {"live": self._ask_live, "batch": self._ask_in_batches, "file": self._ask_by_file}[
            self._settings.teacher.mode
        ]
        if preview := self._settings.preview:
            # Whoever looks a second time pays nothing.
            requests = islice(requests, preview - len(journal.list_settled(preview)))
        with show_meter(description, total, done) as progress:
            ask(requests, journal, ProgressReporter(progress, self.budget, self._journals, total, done, verdict))
        if preview:
            self._end_preview(journal, journal.list_settled(preview), verdict)

    def _end_preview(self, journal: Journal, indices: list[int], verdict: Callable[[Record], Rejection | None]) -> None:
        """Show the answers in full. Errors: Unfinished, always."""
        for index in indices:
            record = journal[index]
            rejection = verdict(record)
            fate = "would be kept" if rejection is None else f"would be rejected: {rejection.reason}"
            say(f"--- row {index}, {fate} ---")
            if isinstance(record, Answered):
                words = record.message
                say(make_encodable("\n".join(filter(None, (words.reasoning, words.text)))))
        say("---")
        kept = "1 answer is" if len(indices) == 1 else f"{len(indices)} answers are"
        cost = "" if self.budget.spent is None else f" for ${self.budget.spent:.4f}"
        raise Unfinished(f"{kept} kept{cost}; the same command without preview asks for the others")

    def sum_usage(self) -> dict[str, float]:
        """Return requests, tokens and, if the price is known, dollars of all journals."""
        billed = sum((journal.totals.sum_live() + journal.totals.sum_batch() for journal in self._journals), Usage())
        used: dict[str, float] = {
            "requests": sum(journal.totals.requests for journal in self._journals),
            "prompt_tokens": billed.prompt,
            "completion_tokens": billed.completion,
        }
        return used if self.budget.spent is None else {**used, "dollars": round(self.budget.spent, 6)}

    @property
    def has_answers(self) -> bool:
        """Whether the journals hold an answer."""
        return any(journal.totals.answers for journal in self._journals)

    def count_finish_reasons(self) -> Counter[str]:
        """Count the answers by finish_reason."""
        return sum((journal.totals.finish_reasons for journal in self._journals), Counter())

    def _ask_live(self, requests: Iterable[Request], journal: Journal, reporter: "ProgressReporter") -> None:
        stop = asyncio.run(self._run_engine(self._connect(), requests, journal, reporter))
        if stop.signal_number is not None:
            raise Interrupted(stop.signal_number, "every answer is kept")

    async def _run_engine(
        self, clients: list["Client"], requests: Iterable[Request], journal: Journal, reporter: "ProgressReporter"
    ) -> StopRequest:
        from magicoder.teacher.endpoint import Endpoint
        from magicoder.teacher.engine import Engine
        from magicoder.teacher.rate_limits import RateLimits

        teacher = self._settings.teacher
        rates = (teacher.concurrency, teacher.requests_per_minute, teacher.tokens_per_minute, teacher.timeout)
        endpoints = [
            Endpoint(client, RateLimits(*rates, patience=teacher.max_wait), self._get_shaper(client.base_url))
            for client in clients
        ]
        engine = Engine(
            endpoints,
            self.budget,
            self._make_breaker(journal, MAX_FAILURES_IN_A_ROW),
            journal,
            teacher.max_attempts,
            lambda record: reporter.show_live(record, engine),
        )
        return await engine.send_all(requests)

    def _connect(self) -> list["Client"]:
        """Return a client of each address. Errors: UserError for a missing key or an unusable address."""
        from magicoder.teacher.client import Client

        teacher, own_server = self._settings.teacher, self._find_own_server()
        key = read_api_key(teacher)
        return [
            Client(
                resolve_address(url),
                key,
                teacher.timeout,
                key_header=teacher.key_header,
                extra_headers=teacher.request.extra_headers,
                may_use_proxy=own_server is None,
            )
            for url in ([own_server] if own_server is not None else teacher.base_urls)
        ]

    def _make_breaker(self, journal: Journal, at_most: int | None) -> CircuitBreaker:
        return CircuitBreaker(
            answered=self.has_answers,
            reject_failed_rows=self._settings.teacher.reject_failed_rows,
            failed_before=frozenset(journal.left),
            at_most=at_most,
        )

    def _ask_in_batches(self, requests: Iterable[Request], journal: Journal, reporter: "ProgressReporter") -> None:
        from magicoder.teacher.batch import answer_in_batches

        teacher, breaker = self._settings.teacher, self._make_breaker(journal, at_most=None)
        shape = self._get_shaper(resolve_address(teacher.base_urls[0]).base).shape
        stop = answer_in_batches(
            teacher, requests, journal, self.budget, self._directory, breaker, reporter.show, shape
        )
        if stop.signal_number is not None:
            raise Interrupted(stop.signal_number, "every answer is kept, and the batches continue")

    def _ask_by_file(self, requests: Iterable[Request], journal: Journal, reporter: "ProgressReporter") -> None:
        from magicoder.teacher.request_file import answer_from_file

        breaker = self._make_breaker(journal, at_most=None)
        shape = RequestShape.from_config(self._settings.teacher.request)  # nothing says which server will answer
        answer_from_file(self._settings.teacher, requests, journal, self._directory, breaker, reporter.show, shape)

    def _find_own_server(self) -> str | None:
        """Return the URL of the teacher that this run serves, started on first use; None if the teacher runs
        elsewhere."""
        if self._settings.teacher.serve_model is None:
            return None
        if self._base_url is None:
            from magicoder.teacher.local_server import serve_model

            folder = models.convert_to_folder(self._settings.teacher.serve_model, Path(self._settings.root) / "models")
            server = serve_model(folder, self._settings.teacher.model, self._directory / "server.log")
            self._base_url = self._stack.enter_context(server)
        return self._base_url


def shorten_number(number: int) -> str:
    """Return a number with three digits and a letter: 1.23k, 45.6M."""
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return str(number)


class ProgressReporter:
    """Fills the progress line: rate, requests in flight, retries, tokens, money, rejected rows."""

    def __init__(
        self,
        progress: Meter,
        budget: Budget,
        journals: Iterable[Journal],
        total: int,
        done: int,
        verdict: Callable[[Record], Rejection | None],
    ) -> None:
        """journals: those of the whole run. verdict: returns the rejection of a record's row, if any."""
        self._progress, self._budget, self._journals, self._verdict = progress, budget, list(journals), verdict
        self._total, self._done = total, done
        self._rejected: Counter[str] = Counter()
        self._began = time.monotonic()
        self._spent_before = budget.spent or 0.0
        self._done_before = done

    def show_live(self, record: Record, engine: "Engine") -> None:
        """Show a record that the engine has journaled."""
        parts = [f"{engine.endpoints.in_flight} in flight"]
        if engine.counts.retries or engine.counts.pauses:
            parts.append(f"{engine.counts.retries} retries, {engine.counts.pauses} pauses")
        self._count(record)
        self._advance(*parts, self._format_tokens(), self._format_money())

    def show(self, record: Record) -> None:
        """Show a record of a batch or file. Its cost is known only at the end."""
        self._count(record)
        self._advance()

    def _count(self, record: Record) -> None:
        self._done += 1
        rejection = self._verdict(record)
        if rejection is not None:
            self._rejected[rejection.reason] += 1

    def _advance(self, *parts: str) -> None:
        rate = (self._done - self._done_before) / max(time.monotonic() - self._began, 1e-3)
        self._progress.advance("  ".join(part for part in (f"{rate:.3g}/s", *parts, self._format_rejected()) if part))

    def _format_rejected(self) -> str:
        """Return the number of rejected rows with the most frequent reasons."""
        reasons = ", ".join(f"{reason} {count}" for reason, count in self._rejected.most_common(REASONS_SHOWN))
        return f"rejected: {self._rejected.total()} ({reasons})" if reasons else ""

    def _format_tokens(self) -> str:
        usage = sum((journal.totals.sum_live() for journal in self._journals), Usage())
        return f"{shorten_number(usage.prompt)} + {shorten_number(usage.completion)} tokens"

    def _format_money(self) -> str:
        spent = self._budget.spent
        if spent is None:
            return ""
        done = self._done - self._done_before
        projected = spent + (spent - self._spent_before) / done * (self._total - self._done)
        bound = f" of {self._budget.max_cost:g}" if self._budget.max_cost is not None else ""
        return f"${spent:.2f}{bound}, ${projected:.2f} projected"
