"""Many requests at once, a bounded number in flight, each answer in the journal before anything else happens to it."""

import asyncio
import random
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from magicoder.errors import UserError
from magicoder.interrupt import StopRequest, stop_request
from magicoder.teacher.budget import Budget
from magicoder.teacher.client import Client
from magicoder.teacher.faults import Passing, Refused, Stopped, Throttled, Unanswered
from magicoder.teacher.journal import Journal, Record, answered
from magicoder.teacher.limits import Limits
from magicoder.teacher.requests import Request

REFUSALS_BEFORE_GIVING_UP = 8
"""So many refusals before the first answer mean that the request is wrong, not the row."""
FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0
"""Seconds before another attempt."""
GATHERING = 0.002
"""Seconds for which records wait for others that go to the disk with them."""


@dataclass
class Counts:
    """What a progress line tells of the work under way."""

    retries: int = 0
    pauses: int = 0


class Engine:
    """Asks for everything that it is given, and journals what comes back, in any order."""

    def __init__(
        self, client: Client, limits: Limits, budget: Budget, max_attempts: int, on_record: Callable[[Record], None]
    ) -> None:
        """on_record: called with each record once it is in the journal."""
        self.client, self.limits, self.budget = client, limits, budget
        self.counts = Counts()
        self._max_attempts = max_attempts
        self._on_record = on_record

    async def answer_all(self, requests: Iterable[Request], journal: Journal, concurrency: int) -> StopRequest:
        """Send every request and journal what comes back.

        requests: taken one by one as places become free, so memory does not grow with their number.
        Returns the stop request: true if a signal ended the work early, after the requests in flight were answered.
        Errors: UserError or whatever went wrong, likewise only after what was in flight, and paid, is kept.
        """
        stream = iter(requests)
        writer = Writer(journal)
        keeper = Keeper(journal, writer, self._on_record)

        async def work() -> None:
            while not self.limits.stopping and (request := next(stream, None)) is not None:
                kept, charge = False, Charge(self.budget, writer, request)
                try:
                    await keeper.keep(await self._record(request, charge))
                    kept = True
                except Stopped:
                    await charge.give_back()
                    return
                finally:
                    charge.end()  # now that the journal tells what it is charged
                    if not kept:
                        self.limits.stop()  # whatever went wrong here, the others finish what they have in flight

        loop = asyncio.get_running_loop()

        def on_signal() -> None:
            print("finishing the requests in flight; Ctrl-C again to drop them", file=sys.stderr)
            loop.call_soon_threadsafe(self.limits.stop)  # a signal arrives in the middle of anything: the loop does it

        with stop_request(on_signal) as stop:
            async with self.client:
                endings = await asyncio.gather(*(work() for _ in range(concurrency)), return_exceptions=True)
        for failure in endings:
            if failure is not None:
                raise failure
        if not stop:
            keeper.settle()
        return stop

    async def _record(self, request: Request, charge: "Charge") -> Record:
        """What the journal keeps of one request: the server's answer as it came, or that it refused to give one.

        Errors: Unanswered after the last attempt; Stopped if the work is to end before the next one; UserError.
        """
        begun, attempts, fault = time.monotonic(), 0, ""
        while attempts < self._max_attempts:
            try:
                answer = await self._attempt(request, charge)
                return answered(request, attempts + 1, round(time.monotonic() - begun, 3), answer)
            except Throttled:
                continue  # the server did not even look at it: this is no attempt
            except Refused as refusal:
                return {"index": request.index, "refused": str(refusal), "code": refusal.code}
            except Passing as passing:
                attempts, fault = attempts + 1, str(passing)
                self.counts.retries += 1
            if attempts < self._max_attempts:
                await self.limits.sleep(backoff(attempts))
        raise Unanswered(
            f"{self.client.base_url}: no answer after {self._max_attempts} attempts: {fault}; "
            "answers so far are kept, the same command goes on from there"
        )

    async def _attempt(self, request: Request, charge: "Charge") -> dict[str, Any]:
        """Send the request once it may go. Errors: as `Client.attempt`, each told to limits and budget."""
        ticket = await self.limits.admit(request.prompt_tokens + request.max_tokens)
        try:
            await charge.reserve()
            answer, headers = await self.client.attempt(request.body)
            self.limits.answered(ticket, headers)
            return answer
        except Throttled as throttled:
            self.counts.pauses += self.limits.throttled(ticket, throttled.wait)
            raise
        except Passing as passing:
            if passing.timed_out:
                self.limits.timed_out(ticket)
            if passing.perhaps_charged:
                charge.end()
            raise
        finally:
            self.limits.returned()


class Charge:
    """What one request may cost: set aside and noted before it is sent, for a run that is killed has spent it too."""

    def __init__(self, budget: Budget, writer: "Writer", request: Request) -> None:
        self._budget, self._writer, self._request = budget, writer, request
        self._held = False

    async def reserve(self) -> None:
        """Set it aside, unless it still is. Errors: OutOfBudget."""
        if self._held:
            return
        await self._budget.reserve(self._request)
        self._held = True
        if self._budget.holds_back:
            sent = [self._request.prompt_tokens, self._request.max_tokens]
            await self._writer.write({"index": self._request.index, "sent": sent})
        self._budget.noted(self._request)

    async def give_back(self) -> None:
        """It was not charged, and nobody will ask for it now."""
        if self._held and self._budget.holds_back:
            await self._writer.write({"index": self._request.index, "not_charged": True})

    def end(self) -> None:
        """It is charged with what the journal says."""
        if self._held:
            self._budget.settle()
            self._held = False


class Writer:
    """Journals the records of many tasks together: all that came while the last ones were on their way to the disk."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._waiting: list[tuple[Record, asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None

    async def write(self, record: Record) -> None:
        """Return when the record is on disk. Errors: OSError where the disk is full."""
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((record, done))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())
        await done

    async def _write(self) -> None:
        while self._waiting:
            await asyncio.sleep(GATHERING)
            batch, self._waiting = self._waiting, []
            failure = None
            try:
                await asyncio.to_thread(self._journal.append, *(record for record, _ in batch))
            except OSError as error:
                failure = error
            for _, done in batch:
                if done.done():  # its task was cancelled
                    continue
                if failure is None:
                    done.set_result(None)
                else:
                    done.set_exception(failure)


class Keeper:
    """Journals records; refusals wait for the first answer, which shows that the server takes requests like these."""

    def __init__(self, journal: Journal, writer: Writer, on_record: Callable[[Record], None]) -> None:
        self._writer, self._on_record = writer, on_record
        self._answered = journal.totals.answers > 0
        self._waiting: list[Record] = []

    async def keep(self, record: Record) -> None:
        """Journal a record, or let it wait. Errors: UserError if nothing but refusals comes."""
        self._waiting.append(record)
        self._answered = self._answered or "answer" in record
        if self._answered:
            ready, self._waiting = self._waiting, []
            await asyncio.gather(*(self._writer.write(each) for each in ready))
            for each in ready:
                self._on_record(each)
        elif len(self._waiting) >= REFUSALS_BEFORE_GIVING_UP:
            self.settle()

    def settle(self) -> None:
        """Errors: UserError if refusals still wait: not one request was answered."""
        if self._waiting:
            raise UserError(f"the teacher refuses every request: {self._waiting[0]['refused']}")


def backoff(attempt: int) -> float:
    """Seconds to wait after the given failed attempt: doubling, with jitter so that requests do not return at once."""
    doubled = FIRST_WAIT * 2 ** min(attempt - 1, 10)  # the exponent is bounded, for a float is
    return min(LONGEST_WAIT, doubled) * random.uniform(0.75, 1.25)
