"""How fast requests may go: what the config allows, what the server's headers tell, and how it fares.

Three things hold a request back: a pause that the server asked for, shared by all; the allowances of requests and
tokens a minute; and the number in flight, which shrinks where answers take so long that they would time out.
"""

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from magicoder.runtime.errors import UserError
from magicoder.teacher.errors import LONGEST_RETRY_AFTER, Cancelled

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0
"""Seconds; a pause for which the server named no time doubles from the one to the other, and so does the least that
further pauses last where no answer comes in between, whatever time it names."""
DAY = 86_400.0
"""Seconds; no limit that a server has takes longer to refill."""
SLOW = 0.5
"""Of the timeout: answers that take longer on average mean that too many are in flight."""
DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?")


@dataclass(frozen=True)
class Ticket:
    """One request under way: its number among all, when it left, and the tokens that it may come to."""

    number: int
    left: float
    tokens: int
    tokens_before: int


class TokenBucket:
    """So many units a minute, which refill steadily and may be used at once: what OpenAI's own limits are."""

    def __init__(self, per_minute: float, now: float) -> None:
        self.per_minute = per_minute
        self._level, self._at = per_minute, now
        self._refill = per_minute / 60

    def wait(self, units: float, now: float) -> float:
        """Seconds until so many units are there; more than there ever are wait for all of them."""
        missing = min(units, self.per_minute) - self._now(now)
        return max(0.0, missing / self._refill)

    def take(self, units: float, now: float) -> None:
        """Use units, even those that are not there yet."""
        self._level, self._at = self._now(now) - units, now

    def correct(self, left: float, refill: float | None, now: float) -> None:
        """Believe the server about what is left, and about how fast it comes back, if that is slower."""
        if refill is not None:
            self._refill = min(self.per_minute / 60, refill)
        self._level, self._at = min(left, self.per_minute), now

    def empty(self, now: float) -> None:
        """The server says that nothing is left."""
        self._level, self._at = min(self._now(now), 0.0), now

    def _now(self, now: float) -> float:
        return min(self.per_minute, self._level + (now - self._at) * self._refill)


class RateLimits:
    """Lets requests go one by one, and learns from what comes back."""

    def __init__(
        self,
        concurrency: int,
        requests_per_minute: float | None,
        tokens_per_minute: float | None,
        timeout: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """concurrency: requests in flight at most. The allowances are None where the server's headers shall tell."""
        self._clock, self._timeout, self._most = clock, timeout, concurrency
        self.window = float(concurrency)
        self.in_flight = 0
        told = {"requests": requests_per_minute, "tokens": tokens_per_minute}
        self._configured = {kind for kind, rate in told.items() if rate is not None}
        self._allowances = {kind: TokenBucket(rate, clock()) for kind, rate in told.items() if rate is not None}
        self._number = self._tokens = self._shrunk_at = self._left_before_pause = 0
        self._paused_until = self._pause_began = 0.0
        self._pauses_in_a_row = 0
        self._throttled_since: float | None = None
        self._latency: float | None = None
        self._turn, self._room = asyncio.Lock(), asyncio.Event()
        self._stop = asyncio.Event()

    @property
    def stopping(self) -> bool:
        """Whether the work is to end."""
        return self._stop.is_set()

    def stop(self) -> None:
        """Let no further request go."""
        self._stop.set()
        self._room.set()

    async def sleep(self, seconds: float) -> None:
        """Wait. Errors: Stopped as soon as the work is to end."""
        try:
            await asyncio.wait_for(self._stop.wait(), seconds)
        except TimeoutError:
            return
        raise Cancelled

    async def admit(self, tokens: int) -> Ticket:
        """Wait until a request that may come to `tokens` may go; in the order in which they ask. Errors: Stopped."""
        async with self._turn:
            while True:
                if self.stopping:
                    raise Cancelled
                if self.in_flight >= max(1, int(self.window)):
                    self._room.clear()
                    await self._room.wait()
                elif (wait := self._wait(tokens)) > 0:
                    await self.sleep(min(wait, LONGEST_PAUSE))  # what is learnt meanwhile may shorten it
                else:
                    return self._go(tokens)

    def _wait(self, tokens: int) -> float:
        now = self._clock()
        units = {"requests": 1, "tokens": tokens}
        waits = [allowance.wait(units[kind], now) for kind, allowance in self._allowances.items()]
        return max([self._paused_until - now, *waits])

    def _go(self, tokens: int) -> Ticket:
        now = self._clock()
        ticket = Ticket(self._number, now, tokens, self._tokens)
        self._number += 1
        self._tokens += tokens
        self.in_flight += 1
        for kind, allowance in self._allowances.items():
            allowance.take(1 if kind == "requests" else tokens, now)
        return ticket

    def returned(self) -> None:
        """A request is no longer in flight, whatever became of it."""
        self.in_flight -= 1
        self._room.set()

    def answered(self, ticket: Ticket, headers: Mapping[str, str]) -> None:
        """An answer came: learn what its headers tell, and whether the server keeps up."""
        now = self._clock()
        if ticket.left >= self._paused_until:
            self._pauses_in_a_row = 0
        if self._throttled_since is not None and ticket.left >= self._throttled_since:
            self._throttled_since = None
        self._learn(ticket, headers, now)
        seconds = now - ticket.left
        self._latency = seconds if self._latency is None else 0.9 * self._latency + 0.1 * seconds
        if self._latency > SLOW * self._timeout:
            self._shrink(0.9, ticket)
        else:
            self.window = min(float(self._most), self.window + 0.1)

    def timed_out(self, ticket: Ticket) -> None:
        """The server could not answer in time: it has too much to do."""
        self._shrink(0.5, ticket)

    def throttled(self, ticket: Ticket, wait: float | None) -> bool:
        """The server takes no request at present: pause all of them, once for all that it turned away together.

        Returns whether this is the first of those.
        Errors: UserError if it has taken none for an hour.
        """
        now = self._clock()
        self._throttled_since = now if self._throttled_since is None else self._throttled_since
        if now - self._throttled_since > LONGEST_RETRY_AFTER:
            raise UserError("the teacher has turned every request away for an hour; every answer is kept")
        for allowance in self._allowances.values():
            allowance.empty(now)
        first = ticket.number >= self._left_before_pause
        if first:
            self._pause_began, self._left_before_pause = now, self._number
            self._pauses_in_a_row += 1
            if wait is None and not self._allowances:
                self._shrink(0.5, ticket)
        doubled = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(self._pauses_in_a_row - 1, 10))
        least = doubled if wait is None or self._pauses_in_a_row > 1 else 0.0
        self._paused_until = max(self._paused_until, self._pause_began + least, now + (wait or 0.0))
        return first

    def _shrink(self, factor: float, ticket: Ticket) -> None:
        """Once for all that were in flight together: the effect shows in those that leave from now on."""
        if ticket.number >= self._shrunk_at:
            self.window = max(1.0, min(self.window, float(self.in_flight + 1)) * factor)
            self._shrunk_at = self._number

    def _learn(self, ticket: Ticket, headers: Mapping[str, str], now: float) -> None:
        """Take over the `x-ratelimit-*` headers. What left after this request was not yet counted in them."""
        later = {
            "requests": self._number - ticket.number - 1,
            "tokens": self._tokens - ticket.tokens_before - ticket.tokens,
        }
        for kind, units in later.items():
            limit, left = (number(headers.get(f"x-ratelimit-{what}-{kind}")) for what in ("limit", "remaining"))
            if limit is None or left is None or limit < 1:
                continue
            reset = duration(headers.get(f"x-ratelimit-reset-{kind}"))
            refill = (limit - left) / reset if reset and reset <= DAY and left < limit else None
            allowance = self._allowances.get(kind)
            if allowance is None:
                allowance = self._allowances[kind] = TokenBucket(limit, now)
            elif kind in self._configured:
                continue
            allowance.per_minute = limit
            allowance.correct(left - units + (now - ticket.left) * (refill or limit / 60), refill, now)


def number(header: str | None) -> float | None:
    """The number that a header holds; None for anything else."""
    return float(header) if header is not None and re.fullmatch(r"\d{1,15}(\.\d+)?", header.strip()) else None


def duration(header: str | None) -> float | None:
    """Seconds of a duration as OpenAI writes it (`1h2m3.5s`, `17ms`), or of a plain number; None for anything else."""
    plain = number(header)
    if plain is not None or header is None:
        return plain
    found = DURATION.fullmatch(header.strip())
    if found is None or not any(found.groups()):
        return None
    hours, minutes, seconds, milliseconds = (float(part or 0) for part in found.groups())
    return 3600 * hours + 60 * minutes + seconds + milliseconds / 1000
