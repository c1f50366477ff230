"""Many requests at once, a bounded number in flight, each answer in the journal before anything else happens to it."""

import asyncio
import random
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from magicoder.runtime.errors import UserError
from magicoder.runtime.signals import StopRequest, stop_request
from magicoder.teacher.budget import Budget
from magicoder.teacher.charge import Reservation, Wallet
from magicoder.teacher.circuit_breaker import CircuitBreaker
from magicoder.teacher.client import Client
from magicoder.teacher.errors import (
    Cancelled,
    Forbidden,
    RateLimited,
    RequestRejected,
    RetriesExhausted,
    TransientError,
)
from magicoder.teacher.journal import Journal, Record, answered
from magicoder.teacher.prefetcher import Prefetcher
from magicoder.teacher.rate_limits import RateLimits
from magicoder.teacher.recorder import JournalWriter
from magicoder.teacher.requests import Request

FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0
"""Seconds before another attempt."""
SINGLED_OUT = 10
"""So often may a request be turned away, while others are answered or none is there, without this being an attempt."""


@dataclass
class Counts:
    """What a progress line tells of the work under way."""

    retries: int = 0
    pauses: int = 0


class Engine:
    """Asks for everything that it is given, and journals what comes back, in any order. Good for one run of a loop."""

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
        """on_record: called with each record once it is in the journal."""
        self.client, self.limits = client, limits
        self.counts = Counts()
        self._doubts = breaker
        self._writer = JournalWriter(journal)
        self._purse = Wallet(budget, self._writer, lambda: limits.stopping)
        self._max_attempts = max_attempts
        self._on_record = on_record
        self._answers = self._under_way = 0

    async def answer_all(self, requests: Iterable[Request], concurrency: int) -> StopRequest:
        """Send every request and journal what comes back.

        requests: taken one by one, a bounded number ahead of places in flight, so memory does not grow with theirs.
        Returns the stop request: true if a signal ended the work early, after the requests in flight were answered.
        Errors: UserError or whatever went wrong, likewise only after what was in flight, and paid, is kept.
        """
        ahead = Prefetcher(requests, concurrency)
        loop = asyncio.get_running_loop()

        async def work() -> None:
            while not self.limits.stopping and (request := ahead.take()) is not None:
                await self._see_through(request)

        def on_signal() -> None:
            print("finishing the requests in flight; Ctrl-C again to drop them", file=sys.stderr)
            loop.call_soon_threadsafe(self.limits.stop)  # a signal arrives in the middle of anything: the loop does it

        with stop_request(on_signal) as stop:
            async with self.client, ahead:
                endings = await asyncio.gather(*(work() for _ in range(concurrency)), return_exceptions=True)
        failures = [failure for failure in endings if failure is not None]
        if stop or failures:
            await self._writer.write(*self._doubts.unsettled())
        for failure in failures:
            raise failure
        if not stop:
            await self._keep(self._doubts.at_the_end())
            self._doubts.check_left()
        return stop

    async def _see_through(self, request: Request) -> None:
        """Have one request answered and journalled. Whatever goes wrong, the others end what they have in flight."""
        charge = Reservation(self._purse, request)
        is_through, departed = False, self._doubts.seen
        self._under_way += 1
        try:
            record = await self._record(request, charge)
            if "answer" not in record:
                await charge.give_back()
            await self._keep(self._doubts.certain(record, departed))
            self._doubts.check()
            is_through = True
        except Cancelled:
            await charge.give_back()
        except UserError:
            await charge.give_back()
            raise
        finally:
            self._under_way -= 1
            charge.end()  # now that the journal tells what it is charged
            if not is_through:
                self.limits.stop()

    async def _record(self, request: Request, charge: Reservation) -> Record:
        """What became of one request: the server's answer as it came, that it refused to give one, or no answer.

        Errors: Unanswered if the server is not there; Stopped if the work is to end before the next attempt; UserError.
        """
        begun, attempts = time.monotonic(), 0
        turned_away, answers_before = 0, self._answers
        while True:
            try:
                answer = await self._attempt(request, charge, is_singled_out=turned_away >= SINGLED_OUT)
                self._answers += 1
                seconds = round(time.monotonic() - begun, 3)
                return answered(request, attempts + 1, seconds, answer, noted=charge.is_in_journal)
            except RateLimited:
                turned_away += self._answers > answers_before or self._under_way == 1
                answers_before = self._answers
                continue  # the server did not even look at it: this is no attempt
            except RequestRejected as refusal:
                return {"index": request.index, "refused": str(refusal), "code": refusal.code}
            except Forbidden as forbidden:
                if not self._doubts.answered:  # then it is the key
                    raise
                return {"index": request.index, "unanswered": str(forbidden), "attempts": attempts + 1}
            except TransientError as passing:
                attempts, fault = attempts + 1, passing
                self.counts.retries += 1
            if attempts == self._max_attempts:
                return self._unanswered(request, attempts, fault)
            await self.limits.sleep(max(backoff(attempts), fault.wait))

    def _unanswered(self, request: Request, attempts: int, fault: TransientError) -> Record:
        """Errors: Unanswered where it is certain that this is not about the row."""
        told = f"{self.client.base_url}: no answer after {attempts} attempts: {fault}"
        if fault.unreachable:
            raise RetriesExhausted(f"{told}; answers so far are kept, the same command goes on from there")
        return {"index": request.index, "unanswered": told, "attempts": attempts}

    async def _attempt(self, request: Request, charge: Reservation, *, is_singled_out: bool) -> dict[str, Any]:
        """Send the request once it may go. Errors: as `Client.attempt`, each told to limits and budget.

        is_singled_out: being turned away is its own fault then, and no reason for all to wait.
        """
        await charge.hold()  # ahead of a place among those in flight, which may be what others wait for
        ticket = await self.limits.admit(request.prompt_tokens + request.max_tokens)
        try:
            await charge.note()
            answer, headers = await self.client.attempt(request.body)
            self.limits.answered(ticket, headers)
            return answer
        except RateLimited as throttled:
            if is_singled_out:
                raise TransientError(str(throttled), maybe_billed=False, wait=throttled.wait or 0.0) from throttled
            self.counts.pauses += self.limits.throttled(ticket, throttled.wait)
            raise
        except TransientError as passing:
            if passing.timed_out:
                self.limits.timed_out(ticket)
            if passing.maybe_billed:
                charge.end()
            raise
        finally:
            self.limits.returned()

    async def _keep(self, records: list[Record]) -> None:
        if records:
            await self._writer.write(*records)
        for record in records:
            self._on_record(record)


def backoff(attempt: int) -> float:
    """Seconds to wait after the given failed attempt: doubling, with jitter so that requests do not return at once."""
    doubled = FIRST_WAIT * 2 ** min(attempt - 1, 10)  # the exponent is bounded, for a float is
    return min(LONGEST_WAIT, doubled) * random.uniform(0.75, 1.25)
