"""Pace requests by the config, by the server's headers, and by how well the server keeps up.

Three things hold a request back: a pause that the server asked for, shared by all; the token buckets of requests and
tokens a minute; and the number in flight, which shrinks when answers become so slow that they would time out.
"""

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from magicoder.runtime.errors import UserError
from magicoder.teacher.errors import Cancelled

FIRST_PAUSE, MAX_PAUSE = 0.5, 60.0
"""Seconds. A pause without a time of the server's doubles from the first to the second value. So does the minimum of
further pauses without an answer between them, whatever time the server names."""
SHORTEST_WAIT = 1e-6
"""Seconds; what rounding leaves of a wait is none."""
LEAST_WAIT = 2.0
"""Seconds; shorter waits are the ordinary pace."""
PATIENCE = 3600.0
"""Seconds for which a server may turn every request away, unless the config says otherwise."""
DAY = 86_400.0
"""Seconds; no server's limit takes longer to refill."""
SLOW = 0.5
"""Share of the timeout; a mean latency above it shows that too many requests are in flight."""
DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?")


@dataclass(frozen=True)
class Ticket:
    """One request in flight: its number, its departure in seconds, its maximum tokens, and the tokens admitted before
    it."""

    number: int
    left: float
    tokens: int
    tokens_before: int


class TokenBucket:
    """A number of units a minute that refill steadily and may be used at once, like OpenAI's own limits."""

    def __init__(self, per_minute: float, now: float) -> None:
        self.per_minute = per_minute
        self._level, self._at = per_minute, now
        self._refill = per_minute / 60

    def compute_wait(self, units: float, now: float) -> float:
        """Return the seconds until so many units are available. A request larger than the bucket waits for a full
        one."""
        missing = min(units, self.per_minute) - self._compute_level(now)
        wait = missing / self._refill
        return wait if wait > SHORTEST_WAIT else 0.0

    def take(self, units: float, now: float) -> None:
        """Use units, going into debt where necessary."""
        self._level, self._at = self._compute_level(now) - units, now

    def correct(self, left: float, refill: float | None, now: float) -> None:
        """Adopt the server's remaining units, and its refill (units a second) if that is slower."""
        if refill is not None:
            self._refill = min(self.per_minute / 60, refill)
        self._level, self._at = min(left, self.per_minute), now

    def empty(self, now: float) -> None:
        """Remove all units: the server says that none remain."""
        self._level, self._at = min(self._compute_level(now), 0.0), now

    def _compute_level(self, now: float) -> float:
        return min(self.per_minute, self._level + (now - self._at) * self._refill)


class RateLimits:
    """Admits requests one by one and learns from the responses.

    Example:
        limits = RateLimits(concurrency=32, requests_per_minute=600, tokens_per_minute=None, timeout=60.0)
        ticket = await limits.admit(tokens=900)
        ...                                        # send the request
        limits.record_answer(ticket, headers)
        limits.release()
    """

    def __init__(
        self,
        concurrency: int,
        requests_per_minute: float | None,
        tokens_per_minute: float | None,
        timeout: float,
        clock: Callable[[], float] = time.monotonic,
        patience: float = PATIENCE,
    ) -> None:
        """concurrency: most requests in flight. A rate of None is learned from the server's headers.

        timeout: seconds of an attempt. patience: seconds for which the server may turn every request away.
        """
        self._clock, self._timeout, self.max_in_flight, self._patience = clock, timeout, concurrency, patience
        self.window = float(concurrency)
        self.in_flight = 0
        rates = {"requests": requests_per_minute, "tokens": tokens_per_minute}
        self._configured = {kind for kind, rate in rates.items() if rate is not None}
        self._buckets = {kind: TokenBucket(rate, clock()) for kind, rate in rates.items() if rate is not None}
        self._number = self._tokens = self._shrunk_at = self._left_before_pause = 0
        self._paused_until = self._pause_began = self._waits_until = 0.0
        self._words: str | None = None
        self._pauses_in_a_row = 0
        self._rejected_since: float | None = None
        self._latency: float | None = None
        self._turn, self._room = asyncio.Lock(), asyncio.Event()
        self._stop = asyncio.Event()

    @property
    def stopping(self) -> bool:
        """Whether the work is to end."""
        return self._stop.is_set()

    def stop(self) -> None:
        """Admit no further request."""
        self._stop.set()
        self._room.set()

    async def sleep(self, seconds: float) -> None:
        """Wait. Errors: Cancelled as soon as the work is to end."""
        try:
            await asyncio.wait_for(self._stop.wait(), seconds)
        except TimeoutError:
            return
        raise Cancelled

    async def admit(self, tokens: int) -> Ticket:
        """Wait until a request of at most `tokens` tokens may go; first come, first served. Errors: Cancelled."""
        # One waits at a time, the others queue at the lock: a large request is not overtaken forever by small ones.
        async with self._turn:
            while True:
                if self.stopping:
                    raise Cancelled
                if self.in_flight >= max(1, int(self.window)):
                    # Cleared before waiting and in one step of the event loop, so no release is missed.
                    self._room.clear()
                    await self._room.wait()
                elif (wait := self._compute_wait(tokens)) > 0:
                    self._waits_until = self._clock() + wait
                    await self.sleep(min(wait, MAX_PAUSE))  # new headers may shorten it meanwhile
                else:
                    return self._issue_ticket(tokens)

    def _compute_wait(self, tokens: int) -> float:
        now = self._clock()
        units = {"requests": 1, "tokens": tokens}
        waits = [bucket.compute_wait(units[kind], now) for kind, bucket in self._buckets.items()]
        return max([self._paused_until - now, *waits])

    def _issue_ticket(self, tokens: int) -> Ticket:
        now = self._clock()
        ticket = Ticket(self._number, now, tokens, self._tokens)
        self._number += 1
        self._tokens += tokens
        self.in_flight += 1
        for kind, bucket in self._buckets.items():
            bucket.take(1 if kind == "requests" else tokens, now)
        return ticket

    def release(self) -> None:
        """Free the slot of a request, whatever its outcome."""
        self.in_flight -= 1
        self._room.set()

    def record_answer(self, ticket: Ticket, headers: Mapping[str, str]) -> None:
        """Learn from an answer's headers, and from its latency whether the server keeps up."""
        now = self._clock()
        # Only an answer to a request sent after the pause shows that the limit is over.
        if ticket.left >= self._paused_until:
            self._pauses_in_a_row = 0
        if self._rejected_since is not None and ticket.left >= self._rejected_since:
            self._rejected_since = self._words = None
        self._learn(ticket, headers, now)
        seconds = now - ticket.left
        self._latency = seconds if self._latency is None else 0.9 * self._latency + 0.1 * seconds
        # Ahead of the first timeout: an answer that times out is paid for and lost.
        if self._latency > SLOW * self._timeout:
            self._shrink(0.9, ticket)
        else:
            self.window = min(float(self.max_in_flight), self.window + 0.1)

    def record_timeout(self, ticket: Ticket) -> None:
        """Shrink the number in flight: the server is overloaded."""
        self._shrink(0.5, ticket)

    def record_rejection(
        self, ticket: Ticket, wait: float | None, headers: Mapping[str, str] | None = None, words: str = ""
    ) -> bool:
        """Pause all requests, once for all that the server turned away together.

        wait: seconds that the server asks for. headers, words: of its response. Returns whether this is the first of
        those. Errors: UserError if the server has accepted none for too long, or asks for so long a wait.
        """
        now = self._clock()
        self._words = words or None
        self._rejected_since = now if self._rejected_since is None else self._rejected_since
        if wait is not None and wait > self._patience:
            raise UserError(f"{words}; it asks to wait {wait:.0f} s: run the same command again then")
        if now - self._rejected_since > self._patience:
            raise UserError(
                f"the teacher has turned every request away for {self._patience:.0f} s (teacher.max_wait); every "
                f"answer is kept: {words}"
            )
        self._learn(ticket, headers or {}, now)
        for kind, bucket in self._buckets.items():
            # The server counts requests that we do not know of: of other programs, or of a former run. But where its
            # headers said that enough remains, it was another limit that turned this request away.
            if kind in self._configured or bucket.compute_wait(ticket.tokens if kind == "tokens" else 1, now) > 0:
                bucket.empty(now)
        # Requests already in flight when the pause began say nothing new.
        first = ticket.number >= self._left_before_pause
        if first:
            self._pause_began, self._left_before_pause = now, self._number
            self._pauses_in_a_row += 1
            if wait is None and not self._buckets:
                self._shrink(0.5, ticket)
        doubled = min(MAX_PAUSE, FIRST_PAUSE * 2 ** min(self._pauses_in_a_row - 1, 10))
        least = doubled if wait is None or self._pauses_in_a_row > 1 else 0.0
        self._paused_until = max(self._paused_until, self._pause_began + least, now + (wait or 0.0))
        return first

    @property
    def pause_left(self) -> float:
        """Seconds until the pause that the server asked for is over; 0 outside a pause."""
        return max(0.0, self._paused_until - self._clock())

    def describe_wait(self) -> str | None:
        """Return why all requests wait, with the server's words; None while one is in flight or may go soon."""
        now = self._clock()
        left = max(self._waits_until, self._paused_until) - now
        is_new = self._rejected_since is None or now - self._rejected_since < LEAST_WAIT
        if self.in_flight or self.stopping or left <= 0 or (left < LEAST_WAIT and is_new):
            return None
        reason = self._words or "the limit of requests or tokens a minute is used up"
        return f"all requests wait, {left:.0f} s more: {reason}"

    def _shrink(self, factor: float, ticket: Ticket) -> None:
        """Shrink once for all requests in flight together: only later ones can show the effect."""
        if ticket.number >= self._shrunk_at:
            self.window = max(1.0, min(self.window, float(self.in_flight + 1)) * factor)
            self._shrunk_at = self._number

    def _learn(self, ticket: Ticket, headers: Mapping[str, str], now: float) -> None:
        """Adopt the `x-ratelimit-*` headers, less the requests sent after this one, which they do not count yet."""
        later = {
            "requests": self._number - ticket.number - 1,
            "tokens": self._tokens - ticket.tokens_before - ticket.tokens,
        }
        for kind, units in later.items():
            limit, left = (parse_number(headers.get(f"x-ratelimit-{part}-{kind}")) for part in ("limit", "remaining"))
            if limit is None or left is None or limit < 1:
                continue  # some servers send -1 for "unlimited"
            reset = parse_duration(headers.get(f"x-ratelimit-reset-{kind}"))
            # Limits by the day or by the second have the same headers; the time to full gives the rate.
            refill = (limit - left) / reset if reset and reset <= DAY and left < limit else None
            bucket = self._buckets.get(kind)
            if bucket is None:
                bucket = self._buckets[kind] = TokenBucket(limit, now)
            elif kind in self._configured:
                continue  # the user may want to leave room for others on the same account
            bucket.per_minute = limit
            bucket.correct(left - units + (now - ticket.left) * (refill or limit / 60), refill, now)


def parse_number(header: str | None) -> float | None:
    """Return the number in a header; None for anything else."""
    return float(header) if header is not None and re.fullmatch(r"\d{1,15}(\.\d+)?", header.strip()) else None


def parse_duration(header: str | None) -> float | None:
    """Return the seconds of a duration in OpenAI's form (`1h2m3.5s`, `17ms`) or a plain number; None for anything
    else."""
    plain = parse_number(header)
    if plain is not None or header is None:
        return plain
    found = DURATION.fullmatch(header.strip())
    if found is None or not any(found.groups()):
        return None
    hours, minutes, seconds, milliseconds = (float(part or 0) for part in found.groups())
    return 3600 * hours + 60 * minutes + seconds + milliseconds / 1000
