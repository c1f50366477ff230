"""One server among those that share the work of a run: its connections, its pace, and whether it has answered."""

import asyncio

from magicoder.teacher.client import Client
from magicoder.teacher.rate_limits import RateLimits


class Endpoint:
    """A server. Until it has answered, or failed on all attempts of a request, requests go to it one at a time.

    So a wrong key, a wrong name of the model or a field that the server refuses costs one request.
    """

    def __init__(self, client: Client, limits: RateLimits) -> None:
        self.client, self.limits = client, limits
        self.answers = 0
        self.is_dropped = False
        self._is_open = False
        self._alone = asyncio.Lock()

    async def enter(self) -> bool:
        """Wait for this request's turn; return whether it goes alone, so that it must `leave`."""
        if self._is_open:
            return False
        await self._alone.acquire()
        if self._is_open:
            self._alone.release()
            return False
        return True

    def leave(self) -> None:
        """End the turn of a request that went alone."""
        self._alone.release()

    def open(self) -> None:
        """Let requests go side by side from now on."""
        self._is_open = True

    @property
    def is_open(self) -> bool:
        """Whether requests may go side by side."""
        return self._is_open
