"""Send many requests at once, a bounded number in flight, and journal each answer before anything else happens to
it."""

import asyncio
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from magicoder.runtime.console import say
from magicoder.runtime.errors import UserError
from magicoder.runtime.signals import StopRequest, stop_request
from magicoder.teacher.budget import Budget, Reservation, Wallet
from magicoder.teacher.circuit_breaker import CircuitBreaker
from magicoder.teacher.client import Client
from magicoder.teacher.errors import (
    AccessDenied,
    Cancelled,
    RateLimited,
    RequestRejected,
    RetriesExhausted,
    TransientError,
)
from magicoder.teacher.journal import Journal, make_answered
from magicoder.teacher.prefetcher import Prefetcher
from magicoder.teacher.rate_limits import RateLimits
from magicoder.teacher.recorder import JournalWriter
from magicoder.teacher.records import Answered, Record, Refused, Unanswered
from magicoder.teacher.requests import Request

FIRST_WAIT, MAX_WAIT = 0.5, 60.0
"""Seconds before another attempt."""
MAX_TURNED_AWAY = 10
"""After so many rate-limit responses, while others are answered or nobody else is asking, a further one is an
attempt."""


@dataclass
class Counts:
    """Counters for the progress line."""

    retries: int = 0
    pauses: int = 0


class Engine:
    """Sends every request that it is given and journals the results, in any order. Use one engine per event loop.

    Example:
        engine = Engine(client, RateLimits(32, None, None, 600.0), budget, breaker, journal, 8, on_record=print)
        stop = asyncio.run(engine.send_all(requests, concurrency=32))
    """

    def __init__(
        self,
        client: Client,
        limits: RateLimits,
        budget: Budget,
        breaker: CircuitBreaker,
        journal: Journal,
        max_attempts: int,
        on_record: Callable[[Record], None],
    ) -> None:
        """on_record: called with each record after it is in the journal."""
        self.client, self.limits = client, limits
        self.counts = Counts()
        self._breaker = breaker
        self._writer = JournalWriter(journal)
        self._wallet = Wallet(budget, self._writer.write, lambda: limits.stopping)
        self._max_attempts = max_attempts
        self._on_record = on_record
        self._answers = self._open = 0

    async def send_all(self, requests: Iterable[Request], concurrency: int) -> StopRequest:
        """Send every request and journal what comes back.

        requests: consumed a bounded number ahead of free slots, so memory does not grow with their number.
        Returns the stop request: true if a signal ended the work early, after the requests in flight were answered.
        Errors: UserError or any other failure, likewise only after everything in flight, and paid for, is journaled.
        """
        # Workers pull from one stream: a slow answer occupies one worker and holds up nobody else.
        prefetcher = Prefetcher(requests, concurrency)
        loop = asyncio.get_running_loop()

        async def work() -> None:
            while not self.limits.stopping and (request := prefetcher.take()) is not None:
                await self._process(request)

        def on_signal() -> None:
            say("finishing the requests in flight; Ctrl-C again to drop them", error=True)
            # A signal may interrupt the loop between any two instructions, so the loop itself must do the rest.
            loop.call_soon_threadsafe(self.limits.stop)

        with stop_request(on_signal) as stop:
            async with self.client, prefetcher:
                # return_exceptions: one failed worker must not cancel requests of the others, which are paid for.
                results = await asyncio.gather(*(work() for _ in range(concurrency)), return_exceptions=True)
        failures = [failure for failure in results if failure is not None]
        if stop or failures:
            # Whether the row or the server is at fault stays open: the next run asks these rows again.
            await self._writer.write(*self._breaker.list_unsettled())
        if failures:
            # A defect or a full disk first: a refusal of the server would hide it.
            raise min(failures, key=lambda failure: isinstance(failure, UserError))
        if not stop:
            await self._record_all(self._breaker.finish())
            self._breaker.raise_if_left()
        return stop

    async def _process(self, request: Request) -> None:
        """Send one request and journal its outcome. If anything fails, the others finish what they have in flight."""
        reservation = Reservation(self._wallet, request)
        # Remembered before it is sent: only an answer to a later request proves that the server was well meanwhile.
        is_done, seen_before = False, self._breaker.seen
        self._open += 1
        record: Record | None = None
        try:
            record = await self._fetch_record(request, reservation)
            if not isinstance(record, Answered):
                # Before the record that settles the row: a kill in between must leave it open, never billed for good.
                await reservation.cancel()
            await self._record_all(self._breaker.settle(record, seen_before))
            self._breaker.raise_if_open()
            is_done = True
        except Cancelled:
            await reservation.cancel()
        except UserError:
            if record is None:  # otherwise its cost is settled, and the breaker speaks of the others
                await reservation.cancel()
            raise
        finally:
            self._open -= 1
            # Only now: before the journal has the actual cost, the maximum must stay reserved.
            reservation.end()
            if not is_done:
                self.limits.stop()

    async def _fetch_record(self, request: Request, reservation: Reservation) -> Record:
        """Send a request until its outcome is known: the answer, a refusal, or no answer on all attempts.

        Errors: RetriesExhausted if the server is unreachable; Cancelled if the work is to end; UserError.
        """
        began, attempts = time.monotonic(), 0
        turned_away, answers_before = 0, self._answers
        while True:
            try:
                answer = await self._try_once(request, reservation, is_singled_out=turned_away >= MAX_TURNED_AWAY)
                self._answers += 1
                seconds = round(time.monotonic() - began, 3)
                return make_answered(request, attempts + 1, seconds, answer, noted=reservation.is_recorded)
            except RateLimited:
                # Counted while others get through, or nobody else asks: a server that is busy for all costs no attempt.
                turned_away += self._answers > answers_before or self._open == 1
                answers_before = self._answers
                continue  # the server did not look at the request, so this is not an attempt
            except RequestRejected as rejection:
                return Refused(request.index, str(rejection), rejection.code)
            except AccessDenied as denial:
                if not self._breaker.answered:  # nobody was ever answered: the key is wrong
                    raise
                return Unanswered(request.index, str(denial), attempts + 1)
            except TransientError as error:
                attempts, failure = attempts + 1, error
                self.counts.retries += 1
            if attempts == self._max_attempts:
                return self._give_up(request, attempts, failure)
            await self.limits.sleep(max(compute_backoff(attempts), failure.wait))

    def _give_up(self, request: Request, attempts: int, failure: TransientError) -> Record:
        """Return the record of a row without an answer. Errors: RetriesExhausted if the server is unreachable."""
        message = f"{self.client.base_url}: no answer after {attempts} attempts: {failure}"
        if failure.unreachable:
            raise RetriesExhausted(f"{message}; answers so far are kept, the same command resumes")
        return Unanswered(request.index, message, attempts)

    async def _try_once(self, request: Request, reservation: Reservation, *, is_singled_out: bool) -> dict[str, Any]:
        """Send the request as soon as money and limits allow. Errors: as `Client.send`; limits and budget learn of
        each.

        is_singled_out: a rate-limit response is this request's own problem and does not pause the others.
        """
        # Money before a slot: a request that waits for money inside a slot would block those whose end frees money.
        await reservation.hold()
        ticket = await self.limits.admit(request.prompt_tokens + request.max_tokens)
        try:
            await reservation.note()
            answer, headers = await self.client.send(request.body)
            self.limits.record_answer(ticket, headers)
            return answer
        except RateLimited as limited:
            if is_singled_out:
                raise TransientError(str(limited), maybe_billed=False, wait=limited.wait or 0.0) from limited
            self.counts.pauses += self.limits.record_rejection(ticket, limited.wait)
            raise
        except TransientError as error:
            if error.timed_out:
                # A slow server gets slower with more in flight; asking again at once would only lengthen its queue.
                self.limits.record_timeout(ticket)
            if error.maybe_billed:
                reservation.end()  # it stays in the journal as sent: nobody knows, so it counts
            raise
        finally:
            self.limits.release()

    async def _record_all(self, records: list[Record]) -> None:
        if records:
            # On disk first, so the progress line never shows what a crash can lose.
            await self._writer.write(*records)
        for record in records:
            self._on_record(record)


def compute_backoff(attempt: int) -> float:
    """Return the seconds to wait after failed attempt number `attempt`: doubled each time, with jitter.

    Without jitter all requests that failed together would return together.
    """
    doubled = FIRST_WAIT * 2 ** min(attempt - 1, 10)  # bounded: 2.0**1024 overflows
    return min(MAX_WAIT, doubled) * random.uniform(0.75, 1.25)
