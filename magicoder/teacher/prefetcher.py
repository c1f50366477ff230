"""Build requests ahead of time."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterable

from magicoder.teacher.requests import Request


class Prefetcher:
    """Builds requests while others are in flight, so that a free slot need not wait for its next request.

    Use it in `async with`. An error while building comes at the end of the block, if not from `take`.
    """

    def __init__(self, requests: Iterable[Request], at_most: int) -> None:
        """at_most: number of requests to keep ready."""
        self._stream, self._at_most = iter(requests), at_most
        self._ready: deque[Request] = deque()
        self._taken = asyncio.Event()
        self._building: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Prefetcher":
        """Start building."""
        self._building = asyncio.create_task(self._build())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop building."""
        assert self._building is not None
        self._building.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._building

    def take(self) -> Request | None:
        """Return the next request; None after the last."""
        self._taken.set()
        # The stream itself where nothing is ready: the builder may be behind, and a free slot must not wait for it.
        return self._ready.popleft() if self._ready else next(self._stream, None)

    def is_empty(self) -> bool:
        """Return whether no request is left."""
        if not self._ready and (request := next(self._stream, None)) is not None:
            self._ready.append(request)
        return not self._ready

    def put_back(self, request: Request) -> None:
        """Return a request that another worker is to take."""
        self._ready.appendleft(request)

    async def _build(self) -> None:
        for request in self._stream:
            self._ready.append(request)
            await asyncio.sleep(0)  # answers that have arrived are more urgent
            while len(self._ready) >= self._at_most:
                self._taken.clear()
                await self._taken.wait()
