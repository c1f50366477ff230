"""Requests made ahead of time."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterable

from magicoder.teacher.requests import Request


class Prefetcher:
    """Requests made while others are under way, so that a place in flight that becomes free need not wait for its next.

    Use it in `async with`. Errors of the requests' maker come at the end of the block, if not from `take`.
    """

    def __init__(self, requests: Iterable[Request], most: int) -> None:
        """most: requests that are kept ready."""
        self._stream, self._most = iter(requests), most
        self._ready: deque[Request] = deque()
        self._taken = asyncio.Event()
        self._making: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Prefetcher":
        """The requests, of which the first are being made."""
        self._making = asyncio.create_task(self._make())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Make no more."""
        assert self._making is not None
        self._making.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._making

    def take(self) -> Request | None:
        """The next request; None after the last."""
        self._taken.set()
        return self._ready.popleft() if self._ready else next(self._stream, None)

    async def _make(self) -> None:
        for request in self._stream:
            self._ready.append(request)
            await asyncio.sleep(0)  # answers that have come are more urgent
            while len(self._ready) >= self._most:
                self._taken.clear()
                await self._taken.wait()
