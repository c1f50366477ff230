"""Send many requests at once, a bounded number in flight, and journal each answer before anything else happens to
it."""

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from magicoder.runtime.console import say
from magicoder.runtime.errors import UserError
from magicoder.runtime.signals import StopRequest, stop_request
from magicoder.teacher.budget import Budget, Reservation, Wallet
from magicoder.teacher.circuit_breaker import CircuitBreaker
from magicoder.teacher.client import SECONDS_TO_FIND_THE_SERVER
from magicoder.teacher.endpoint import Endpoint
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
from magicoder.teacher.recorder import JournalWriter
from magicoder.teacher.records import Answered, Record, Refused, Unanswered
from magicoder.teacher.request_shape import Shaper
from magicoder.teacher.requests import Request

FIRST_WAIT, MAX_WAIT = 0.5, 60.0
"""Seconds before another attempt."""
MAX_TURNED_AWAY = 10
"""After so many rate-limit responses, while others are answered or nobody else is asking, a further one is an
attempt."""
ATTEMPTS_BEFORE_DROPPING = 3
"""After so many attempts a server that cannot be reached any more is dropped, if others are left."""
SECONDS_BETWEEN_LOOKS = 2.0
SECONDS_BETWEEN_LINES = 60.0


@dataclass
class Counts:
    """Counters for the progress line."""

    retries: int = 0
    pauses: int = 0


class HandedOver(Exception):
    """A request goes to another server, because its own is dropped."""


class Engine:
    """Sends every request that it is given and journals the results, in any order. Use one engine per event loop.

    Example:
        client = Client(resolve_address("http://localhost:8000/v1"), Key(None), timeout=600.0)
        endpoints = [Endpoint(client, RateLimits(32, None, None, 600.0))]
        engine = Engine(endpoints, budget, breaker, journal, 8, on_record=print, shaper=Shaper(RequestShape()))
        stop = asyncio.run(engine.send_all(requests))
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        budget: Budget,
        breaker: CircuitBreaker,
        journal: Journal,
        max_attempts: int,
        on_record: Callable[[Record], None],
        shaper: Shaper,
    ) -> None:
        """endpoints: servers of the same model, which share the work as each has capacity.

        on_record: called with each record after it is in the journal. shaper: gives each request the form that the
        servers take.
        """
        self.endpoints = list(endpoints)
        self.counts = Counts()
        self._breaker, self._shaper = breaker, shaper
        self._writer = JournalWriter(journal)
        self._is_stopping = False
        self._wallet = Wallet(budget, self._writer.write, lambda: self._is_stopping)
        self._max_attempts = max_attempts
        self._on_record = on_record
        self._answers = self._open = 0
        self._ended_one = asyncio.Event()

    @property
    def in_flight(self) -> int:
        """Number of requests that the servers work on."""
        return sum(endpoint.limits.in_flight for endpoint in self.endpoints)

    async def send_all(self, requests: Iterable[Request]) -> StopRequest:
        """Send every request and journal what comes back.

        requests: consumed a bounded number ahead of free slots, so memory does not grow with their number.
        Returns the stop request: true if a signal ended the work early, after the requests in flight were answered.
        Errors: UserError or any other failure, likewise only after everything in flight, and paid for, is journaled.
        """
        # Workers pull from one stream: a slow answer occupies one worker and holds up nobody else, and a fast server
        # gets more of the work.
        places = [endpoint for endpoint in self.endpoints for _ in range(endpoint.limits.max_in_flight)]
        prefetcher = Prefetcher(requests, len(places))
        loop = asyncio.get_running_loop()

        def on_signal() -> None:
            say("finishing the requests in flight; Ctrl-C again to drop them", error=True)
            # A signal may interrupt the loop between any two instructions, so the loop itself must do the rest.
            loop.call_soon_threadsafe(self._stop)

        with stop_request(on_signal) as stop:
            async with AsyncExitStack() as stack:
                for endpoint in self.endpoints:
                    await stack.enter_async_context(endpoint.client)
                await stack.enter_async_context(prefetcher)
                announcing = asyncio.create_task(announce_waits(self.endpoints))
                # return_exceptions: one failed worker must not cancel requests of the others, which are paid for.
                results = await asyncio.gather(
                    *(self._work(endpoint, prefetcher) for endpoint in places), return_exceptions=True
                )
                announcing.cancel()
        await self._finish(stop, [failure for failure in results if failure is not None])
        return stop

    async def _finish(self, stop: StopRequest, failures: list[BaseException]) -> None:
        """Journal what the breaker holds back. Errors: the worst of the failures."""
        if stop or failures:
            # Whether the row or the server is at fault stays open: the next run asks these rows again.
            await self._writer.write(*self._breaker.list_unsettled())
        if failures:
            # A defect or a full disk first: a refusal of the server would hide it.
            raise min(failures, key=lambda failure: isinstance(failure, UserError))
        if not stop:
            await self._record_all(self._breaker.finish())
            self._breaker.raise_if_left()

    def _stop(self) -> None:
        """Send no further request."""
        self._is_stopping = True
        for endpoint in self.endpoints:
            endpoint.limits.stop()
        self._ended_one.set()

    async def _work(self, endpoint: Endpoint, prefetcher: Prefetcher) -> None:
        """Send one request after another to a server, until none is left."""
        request: Request | None = None
        while not self._is_stopping and not endpoint.is_dropped:
            is_alone = await endpoint.enter()
            try:
                request = None if endpoint.is_dropped else await self._take(prefetcher)
                if request is None:
                    return
                await self._process(request, endpoint)
            except HandedOver:
                assert request is not None
                prefetcher.put_back(request)
            finally:
                if is_alone:
                    endpoint.leave()
                self._ended_one.set()

    async def _take(self, prefetcher: Prefetcher) -> Request | None:
        """Return the next request; None after the last, once no other server can hand one over."""
        while (request := prefetcher.take()) is None and self._open and len(self.endpoints) > 1:
            self._ended_one.clear()
            await self._ended_one.wait()
            if self._is_stopping:
                return None
        return request

    async def _process(self, request: Request, endpoint: Endpoint) -> None:
        """Send one request and journal its outcome. If anything fails, the others finish what they have in flight.

        Errors: HandedOver if another server is to be asked.
        """
        reservation = Reservation(self._wallet, request)
        # Remembered before it is sent: only an answer to a later request proves that the server was well meanwhile.
        is_done, seen_before = False, self._breaker.seen
        self._open += 1
        record: Record | None = None
        try:
            record = await self._fetch_record(request, reservation, endpoint)
            if not isinstance(record, Answered):
                # Before the record that settles the row: a kill in between must leave it open, never billed for good.
                await reservation.cancel()
            await self._record_all(self._breaker.settle(record, seen_before))
            self._breaker.raise_if_open()
            is_done = True
        except Cancelled:
            await reservation.cancel()
            if endpoint.is_dropped and not self._is_stopping:
                is_done = True
                raise HandedOver from None
        except UserError:
            if record is None:  # otherwise its cost is settled, and the breaker speaks of the others
                await reservation.cancel()
            raise
        finally:
            self._open -= 1
            # Only now: before the journal has the actual cost, the maximum must stay reserved.
            reservation.end()
            if not is_done:
                self._stop()

    async def _fetch_record(self, request: Request, reservation: Reservation, endpoint: Endpoint) -> Record:
        """Send a request until its outcome is known: the answer, a refusal, or no answer on all attempts.

        Errors: RetriesExhausted if the server is unreachable; Cancelled if the work is to end or the server is dropped;
        UserError.
        """
        began, attempts = time.monotonic(), 0
        turned_away, answers_before, answers_at_first = 0, self._answers, endpoint.answers
        while True:
            shape = self._shaper.shape
            try:
                answer = await self._try_once(request, reservation, endpoint, turned_away >= MAX_TURNED_AWAY)
                self._answers += 1
                endpoint.answers += 1
                endpoint.open()
                seconds = round(time.monotonic() - began, 3)
                return make_answered(request, attempts + 1, seconds, answer, noted=reservation.is_recorded)
            except RateLimited:
                # Counted while others get through, or nobody else asks: a server that is busy for all costs no attempt.
                # One that has never answered is busy for all.
                may_count = endpoint.is_open or self._breaker.answered
                turned_away += may_count and (self._answers > answers_before or self._open == 1)
                answers_before = self._answers
                continue  # the server did not look at the request, so this is not an attempt
            except RequestRejected as rejection:
                # Only while requests go alone: later the server has shown that it takes their form.
                if not endpoint.is_open and self._shaper.adapt(shape, rejection, request.body):
                    continue
                return Refused(request.index, str(rejection), rejection.code, max_tokens=request.max_tokens)
            except AccessDenied as denial:
                if not self._breaker.answered:  # nobody was ever answered: the key is wrong
                    raise
                return Unanswered(request.index, str(denial), attempts + 1)
            except TransientError as error:
                attempts, failure = attempts + 1, error
                self.counts.retries += 1
            wait = max(compute_backoff(attempts), failure.wait)
            if self._is_hopeless(endpoint, failure, attempts, time.monotonic() - began + wait):
                return self._give_up(
                    request, attempts, failure, endpoint, has_answered=endpoint.answers > answers_at_first
                )
            await endpoint.limits.sleep(wait)

    def _is_hopeless(self, endpoint: Endpoint, failure: TransientError, attempts: int, seconds: float) -> bool:
        """Return whether no further attempt is to be made. seconds: from the first attempt to the next one."""
        if failure.unreachable and not endpoint.client.was_reached:
            if attempts == 1:
                say(f"{endpoint.client.base_url}: {failure}; trying for {SECONDS_TO_FIND_THE_SERVER:.0f} s", error=True)
            return seconds > SECONDS_TO_FIND_THE_SERVER
        if failure.unreachable and self._has_others(endpoint):
            return attempts >= ATTEMPTS_BEFORE_DROPPING
        return attempts >= self._max_attempts

    def _has_others(self, endpoint: Endpoint) -> bool:
        return any(not other.is_dropped for other in self.endpoints if other is not endpoint)

    def _give_up(
        self, request: Request, attempts: int, failure: TransientError, endpoint: Endpoint, *, has_answered: bool
    ) -> Record:
        """Return the record of a row without an answer, or drop the server if others are left.

        has_answered: the server answered others meanwhile. Errors: RetriesExhausted if the only server is unreachable;
        Cancelled if the server is dropped.
        """
        message = f"{endpoint.client.base_url}: no answer after {attempts} attempts: {failure}"
        if self._has_others(endpoint) and (failure.unreachable or not has_answered):
            if not endpoint.is_dropped:
                endpoint.is_dropped = True
                say(f"{message}; this address is dropped, the others go on", error=True)
                endpoint.limits.stop()
            raise Cancelled
        if failure.unreachable:
            hint = "" if endpoint.client.was_reached else "; is the server running, and teacher.base_url right?"
            raise RetriesExhausted(f"{message}{hint}; answers so far are kept, the same command resumes")
        if not failure.is_rate_limit:
            endpoint.open()  # it is no mistake of the config that keeps this server from answering
        return Unanswered(request.index, message, attempts)

    async def _try_once(
        self, request: Request, reservation: Reservation, endpoint: Endpoint, is_singled_out: bool
    ) -> dict[str, Any]:
        """Send the request as soon as money and limits allow. Errors: as `Client.send`; limits and budget learn of
        each.

        is_singled_out: a rate-limit response is this request's own problem and does not pause the others.
        """
        limits = endpoint.limits
        # Money before a slot: a request that waits for money inside a slot would block those whose end frees money.
        await reservation.hold()
        ticket = await limits.admit(request.prompt_tokens + request.max_tokens)
        try:
            await reservation.note()
            answer, headers = await endpoint.client.send(self._shaper.shape.apply(request.body))
            limits.record_answer(ticket, headers)
            return answer
        except RateLimited as limited:
            if is_singled_out:
                wait = limited.wait or 0.0
                raise TransientError(str(limited), maybe_billed=False, wait=wait, is_rate_limit=True) from limited
            self.counts.pauses += limits.record_rejection(ticket, limited.wait, limited.headers, str(limited))
            raise
        except TransientError as error:
            if error.timed_out:
                # A slow server gets slower with more in flight; asking again at once would only lengthen its queue.
                limits.record_timeout(ticket)
            if error.maybe_billed:
                reservation.end()  # it stays in the journal as sent: nobody knows, so it counts
            raise
        finally:
            limits.release()

    async def _record_all(self, records: list[Record]) -> None:
        if records:
            # On disk first, so the progress line never shows what a crash can lose.
            await self._writer.write(*records)
        for record in records:
            self._on_record(record)


async def announce_waits(endpoints: Sequence[Endpoint]) -> None:
    """Say why nothing happens while every server makes all requests wait: one line a minute."""
    next_line = 0.0
    while True:
        await asyncio.sleep(SECONDS_BETWEEN_LOOKS)
        active = [endpoint for endpoint in endpoints if not endpoint.is_dropped]
        waits = [endpoint.limits.describe_wait() for endpoint in active]
        if all(waits) and time.monotonic() >= next_line:
            next_line = time.monotonic() + SECONDS_BETWEEN_LINES
            for endpoint, wait in zip(active, waits, strict=True):
                place = endpoint.client.base_url
                say(wait if place in wait else f"{place}: {wait}", error=True)


def compute_backoff(attempt: int) -> float:
    """Return the seconds to wait after failed attempt number `attempt`: doubled each time, with jitter.

    Without jitter all requests that failed together would return together.
    """
    doubled = FIRST_WAIT * 2 ** min(attempt - 1, 10)  # bounded: 2.0**1024 overflows
    return min(MAX_WAIT, doubled) * random.uniform(0.75, 1.25)
