"""The servers that share the work of a run: their connections, their pace, and which of them are of use."""

import asyncio
from collections import deque
from collections.abc import Iterable

from magicoder.runtime.console import say
from magicoder.teacher.client import Client
from magicoder.teacher.rate_limits import RateLimits
from magicoder.teacher.request_shape import Shaper
from magicoder.teacher.requests import Request

REFUSALS_BEFORE_DROPPING = 3
"""A server that has answered nothing and refused so many requests is dropped, if others are left."""


class Endpoint:
    """A server. Until it has answered, or failed on all attempts of a request, requests go to it one at a time.

    So a wrong key, a wrong name of the model or a field that the server refuses costs one request.
    """

    def __init__(self, client: Client, limits: RateLimits, shaper: Shaper) -> None:
        """shaper: gives each request the form that the server takes."""
        self.client, self.limits, self.shaper = client, limits, shaper
        self.answers = self.refusals = 0
        self.is_dropped = self.is_open = False
        self.waiting: deque[Request] = deque()
        """Requests that another server has handed over to this one."""
        self._alone = asyncio.Lock()

    async def enter(self) -> bool:
        """Wait for this request's turn; return whether it goes alone, so that it must `leave`."""
        if self.is_open:
            return False
        await self._alone.acquire()
        if self.is_open:
            self._alone.release()
            return False
        return True

    def leave(self) -> None:
        """End the turn of a request that went alone."""
        self._alone.release()

    def record_answer(self) -> None:
        """Let requests go side by side from now on, in the form that was answered."""
        self.answers += 1
        self.refusals = 0
        self.is_open = True
        self.shaper.confirm()


class Endpoints:
    """All servers of a run. What one of them cannot do is left to another, if there is one."""

    def __init__(self, endpoints: Iterable[Endpoint]) -> None:
        self.all = list(endpoints)
        self._tried: dict[int, set[Endpoint]] = {}

    @property
    def in_flight(self) -> int:
        """Number of requests that the servers work on."""
        return sum(endpoint.limits.in_flight for endpoint in self.all)

    @property
    def has_waiting(self) -> bool:
        """Whether a request was handed over and not taken yet."""
        return any(endpoint.waiting for endpoint in self.all)

    def list_others(self, endpoint: Endpoint) -> list[Endpoint]:
        """Return the other servers that are of use."""
        return [other for other in self.all if other is not endpoint and not other.is_dropped]

    def find_untried(self, index: int, endpoint: Endpoint) -> Endpoint | None:
        """Return the least busy server that has not failed on a row yet; `endpoint` has. None if all have."""
        tried = self._tried.setdefault(index, set())
        tried.add(endpoint)
        untried = [other for other in self.list_others(endpoint) if other not in tried]
        if not untried:
            del self._tried[index]
            return None
        return min(untried, key=lambda other: other.limits.in_flight + len(other.waiting))

    def record_refusal(self, endpoint: Endpoint, message: str) -> None:
        """Drop a server that has only refused so far, if others are left."""
        endpoint.refusals += 1
        if not endpoint.answers and endpoint.refusals >= REFUSALS_BEFORE_DROPPING:
            self.drop(endpoint, message)

    def drop(self, endpoint: Endpoint, message: str) -> None:
        """Send nothing more to a server; its waiting requests go to another one."""
        if endpoint.is_dropped:
            return
        endpoint.is_dropped = True
        say(f"{message}; this address is dropped, the others go on", error=True)
        endpoint.limits.stop()
        self.list_others(endpoint)[0].waiting.extend(endpoint.waiting)
        endpoint.waiting.clear()

    def stop(self) -> None:
        """Admit no further request anywhere."""
        for endpoint in self.all:
            endpoint.limits.stop()
