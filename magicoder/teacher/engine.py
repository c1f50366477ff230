"""Send many requests at once, a bounded number in flight, and journal each answer before anything else happens to
it."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from magicoder.runtime.console import say
from magicoder.runtime.errors import UserError
from magicoder.runtime.signals import StopRequest, stop_request
from magicoder.teacher.budget import Budget, Reservation, Wallet
from magicoder.teacher.circuit_breaker import CODES_ABOUT_CONTENT, CircuitBreaker
from magicoder.teacher.client import SECONDS_TO_FIND_THE_SERVER
from magicoder.teacher.endpoint import Endpoint, Endpoints
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
from magicoder.teacher.requests import Request

FIRST_WAIT, MAX_WAIT = 0.5, 60.0
"""Seconds before another attempt."""
MAX_TURNED_AWAY = 10
"""After so many rate-limit responses, while others are answered or nobody else is asking, a further one is an
attempt."""
ATTEMPTS_BEFORE_DROPPING = 3
"""After so many attempts a server that cannot be reached any more is dropped, if others are left."""
SECONDS_BETWEEN_CHECKS = 0.25
SECONDS_BETWEEN_LOOKS = 2.0
SECONDS_BETWEEN_LINES = 60.0


@dataclass
class Counts:
    """Counters for the progress line."""

    retries: int = 0
    pauses: int = 0


class HandedOver(Exception):
    """A request goes to another server. to: this one; None: whichever is free first."""

    def __init__(self, to: Endpoint | None = None) -> None:
        self.to = to
        super().__init__()


class Engine:
    """Sends every request that it is given and journals the results, in any order. Use one engine per event loop.

    Example:
        client = Client(resolve_address("http://localhost:8000/v1"), Key(None), timeout=600.0)
        endpoint = Endpoint(client, RateLimits(32, None, None, 600.0), Shaper(RequestShape()))
        engine = Engine([endpoint], budget, breaker, journal, 8, on_record=print)
        stop = asyncio.run(engine.send_all(requests))
    """

    def __init__(
        self,
        endpoints: Iterable[Endpoint],
        budget: Budget,
        breaker: CircuitBreaker,
        journal: Journal,
        max_attempts: int,
        on_record: Callable[[Record], None],
    ) -> None:
        """endpoints: servers of the same model, which share the work as each has capacity.

        on_record: called with each record after it is in the journal.
        """
        self.endpoints = Endpoints(endpoints)
        self.counts = Counts()
        self._breaker = breaker
        self._writer = JournalWriter(journal)
        self._is_stopping = False
        self._wallet = Wallet(budget, self._writer.write, lambda: self._is_stopping)
        self._max_attempts = max_attempts
        self._on_record = on_record
        self._answers = self._open = 0
        self._turned_away: Counter[int] = Counter()
        self._ended_one = asyncio.Event()

    async def send_all(self, requests: Iterable[Request]) -> StopRequest:
        """Send every request and journal what comes back.

        requests: consumed a bounded number ahead of free slots, so memory does not grow with their number.
        Returns the stop request: true if a signal ended the work early, after the requests in flight were answered.
        Errors: UserError or any other failure, likewise only after everything in flight, and paid for, is journaled.
        """
        # Workers pull from one stream: a slow answer occupies one worker and holds up nobody else, and a fast server
        # gets more of the work.
        places = [endpoint for endpoint in self.endpoints.all for _ in range(endpoint.limits.max_in_flight)]
        prefetcher = Prefetcher(requests, len(places))
        loop = asyncio.get_running_loop()

        def on_signal() -> None:
            say("finishing the requests in flight; Ctrl-C again to drop them", error=True)
            # A signal may interrupt the loop between any two instructions, so the loop itself must do the rest.
            loop.call_soon_threadsafe(self._stop)

        with stop_request(on_signal) as stop:
            async with AsyncExitStack() as stack:
                for endpoint in self.endpoints.all:
                    await stack.enter_async_context(endpoint.client)
                await stack.enter_async_context(prefetcher)
                announcing = asyncio.create_task(announce_waits(self.endpoints.all))
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
        self.endpoints.stop()
        self._ended_one.set()

    async def _work(self, endpoint: Endpoint, prefetcher: Prefetcher) -> None:
        """Send one request after another to a server, until none is left."""
        while True:
            is_alone = await endpoint.enter()
            try:
                request = await self._take(endpoint, prefetcher)
                if request is None:
                    return
                await self._process(request, endpoint)
            except HandedOver as handed:
                assert request is not None
                if handed.to is None or handed.to.is_dropped:
                    prefetcher.put_back(request)
                else:
                    handed.to.waiting.append(request)
            finally:
                if is_alone:
                    endpoint.leave()
                self._ended_one.set()

    async def _take(self, endpoint: Endpoint, prefetcher: Prefetcher) -> Request | None:
        """Return the next request for a server; None after the last, once no other server can hand one over."""
        if len(self.endpoints.all) == 1:
            return None if self._is_stopping else prefetcher.take()
        while not (self._is_stopping or endpoint.is_dropped):
            # A server that has asked for a pause holds no request that others could answer meanwhile.
            pause = endpoint.limits.pause_left if self.endpoints.list_others(endpoint) else 0.0
            if not pause:
                request = endpoint.waiting.popleft() if endpoint.waiting else prefetcher.take()
                if request is not None:
                    return request
            if not self._open and not self.endpoints.has_waiting and prefetcher.is_empty():
                return None
            if pause:
                await asyncio.sleep(min(pause, SECONDS_BETWEEN_CHECKS))
            else:
                self._ended_one.clear()
                await self._ended_one.wait()
        return None

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
        except (Cancelled, HandedOver) as ended:
            await reservation.cancel()
            if isinstance(ended, HandedOver) or (endpoint.is_dropped and not self._is_stopping):
                is_done = True
                raise (ended if isinstance(ended, HandedOver) else HandedOver()) from None
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

        Errors: RetriesExhausted if the server is unreachable; Cancelled if the work is to end; HandedOver; UserError.
        """
        began, attempts, answers_before = time.monotonic(), 0, self._answers
        while True:
            try:
                answer = await self._try_once(request, reservation, endpoint)
                self._answers += 1
                endpoint.record_answer()
                seconds = round(time.monotonic() - began, 3)
                return make_answered(request, attempts + 1, seconds, answer, noted=reservation.is_recorded)
            except RateLimited:
                # Counted while others get through, or nobody else asks: a server that is busy for all costs no attempt.
                # One that has never answered is busy for all.
                may_count = endpoint.is_open or self._breaker.answered
                self._turned_away[request.index] += may_count and (self._answers > answers_before or self._open == 1)
                answers_before = self._answers
                if self.endpoints.list_others(endpoint):
                    raise HandedOver from None
                continue  # the server did not look at the request, so this is not an attempt
            except RequestRejected as rejection:
                # Only while requests go alone: later the server has shown that it takes their form.
                if not endpoint.is_open and endpoint.shaper.adapt(rejection, request.body):
                    continue
                if rejection.code not in CODES_ABOUT_CONTENT:
                    self._hand_over_refused(request, endpoint, str(rejection))
                return Refused(request.index, str(rejection), rejection.code, max_tokens=request.max_tokens)
            except AccessDenied as denial:
                self._hand_over_refused(request, endpoint, str(denial))
                if not self._breaker.answered:  # nobody was ever answered: the key is wrong
                    raise
                return Unanswered(request.index, str(denial), attempts + 1)
            except TransientError as error:
                attempts, failure = attempts + 1, error
                self.counts.retries += 1
            wait = max(compute_backoff(attempts), failure.wait)
            if self._is_hopeless(endpoint, failure, attempts, time.monotonic() - began + wait):
                return self._give_up(request, attempts, failure, endpoint)
            await endpoint.limits.sleep(wait)

    def _hand_over_refused(self, request: Request, endpoint: Endpoint, message: str) -> None:
        """Errors: HandedOver if another server has not refused the request: what one refuses another may answer."""
        if (other := self.endpoints.find_untried(request.index, endpoint)) is not None:
            self.endpoints.record_refusal(endpoint, message)
            raise HandedOver(other) from None

    def _is_hopeless(self, endpoint: Endpoint, failure: TransientError, attempts: int, seconds: float) -> bool:
        """Return whether no further attempt is to be made. seconds: from the first attempt to the next one."""
        if failure.unreachable and not endpoint.client.was_reached:
            if attempts == 1:
                say(f"{endpoint.client.base_url}: {failure}; trying for {SECONDS_TO_FIND_THE_SERVER:.0f} s", error=True)
            return seconds > SECONDS_TO_FIND_THE_SERVER
        if failure.unreachable and self.endpoints.list_others(endpoint):
            return attempts >= ATTEMPTS_BEFORE_DROPPING
        return attempts >= self._max_attempts

    def _give_up(self, request: Request, attempts: int, failure: TransientError, endpoint: Endpoint) -> Record:
        """Return the record of a row without an answer.

        Errors: HandedOver if another server is left; RetriesExhausted if the only one is unreachable.
        """
        message = f"{endpoint.client.base_url}: no answer after {attempts} attempts: {failure}"
        if self.endpoints.list_others(endpoint):
            if failure.unreachable or not endpoint.answers:
                self.endpoints.drop(endpoint, message)
                raise HandedOver
            if (other := self.endpoints.find_untried(request.index, endpoint)) is not None:
                raise HandedOver(other)
        if failure.unreachable:
            hint = "" if endpoint.client.was_reached else "; is the server running, and teacher.base_url right?"
            raise RetriesExhausted(f"{message}{hint}; answers so far are kept, the same command resumes")
        # It is no mistake of the config that keeps this server from answering, unless it turns everything away.
        endpoint.is_open = endpoint.is_open or not failure.is_rate_limit
        return Unanswered(request.index, message, attempts)

    async def _try_once(self, request: Request, reservation: Reservation, endpoint: Endpoint) -> dict[str, Any]:
        """Send the request as soon as money and limits allow. Errors: as `Client.send`; limits and budget learn of
        each; HandedOver if the server is of no use, and others are left."""
        limits = endpoint.limits
        # Money before a slot: a request that waits for money inside a slot would block those whose end frees money.
        await reservation.hold()
        ticket = await limits.admit(request.prompt_tokens + request.max_tokens)
        try:
            await reservation.note()
            answer, headers = await endpoint.client.send(endpoint.shaper.shape.apply(request.body))
            limits.record_answer(ticket, headers)
            return answer
        except RateLimited as limited:
            if self._turned_away[request.index] >= MAX_TURNED_AWAY:
                # This request's own problem, which does not pause the others.
                wait = limited.wait or 0.0
                raise TransientError(str(limited), maybe_billed=False, wait=wait, is_rate_limit=True) from limited
            with self._dropping(endpoint):
                self.counts.pauses += limits.record_rejection(ticket, limited.wait, limited.headers, str(limited))
            raise
        except AccessDenied:  # before its base class below: it may be the fault of one row
            raise
        except UserError as error:
            with self._dropping(endpoint):
                raise error
        except TransientError as error:
            if error.timed_out:
                # A slow server gets slower with more in flight; asking again at once would only lengthen its queue.
                limits.record_timeout(ticket)
            if error.maybe_billed:
                reservation.end()  # it stays in the journal as sent: nobody knows, so it counts
            raise
        finally:
            limits.release()

    @contextmanager
    def _dropping(self, endpoint: Endpoint) -> Iterator[None]:
        """Drop the server at a UserError inside the block, if others are left. Errors: HandedOver instead."""
        try:
            yield
        except UserError as error:
            if not self.endpoints.list_others(endpoint):
                raise
            self.endpoints.drop(endpoint, str(error))
            raise HandedOver from error

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
        waits = [wait for endpoint in active if (wait := endpoint.limits.describe_wait()) is not None]
        if len(waits) == len(active) and time.monotonic() >= next_line:
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
