"""What one request may cost, from the moment in which it is set aside to the one in which the journal tells it."""

import asyncio
from collections.abc import Callable

from magicoder.teacher.budget import Budget
from magicoder.teacher.errors import Cancelled
from magicoder.teacher.recorder import JournalWriter
from magicoder.teacher.requests import Request


class Wallet:
    """The money of all requests under way in one event loop: who finds too little waits for what others give back."""

    def __init__(self, budget: Budget, writer: JournalWriter, stopping: Callable[[], bool]) -> None:
        """stopping: whether the work is to end."""
        self.budget, self.writer = budget, writer
        self._stopping = stopping
        self._under_way = 0
        self._turn, self._returned = asyncio.Lock(), asyncio.Event()

    async def take(self, request: Request) -> None:
        """Wait until a request can be paid for, whatever those under way come to; in the order in which they ask.

        Errors: OutOfBudget if it cannot be even when they are through; Stopped.
        """
        async with self._turn:
            while not self._may_go(request):
                if self._stopping():
                    raise Cancelled
                if not self._under_way:
                    raise self.budget.exceeded_by(request)
                self._returned.clear()
                await self._returned.wait()
            self.budget.set_aside(request)
            self._under_way += 1

    def _may_go(self, request: Request) -> bool:
        """A bound waits for the first answer of all, which shows whether the server counts tokens as we do."""
        if self.budget.max_cost is not None and not self.budget.is_measured and self._under_way:
            return False
        return self.budget.fits(request.prompt_tokens, request.max_tokens)

    def put_back(self) -> None:
        """A request has come to its end; what it is charged stands in the journal."""
        self._under_way -= 1
        self._returned.set()


class Reservation:
    """What one request may cost: noted before it is sent, for a run that is killed may have spent it too."""

    def __init__(self, purse: Wallet, request: Request) -> None:
        self._purse, self._request = purse, request
        self._is_held = self._is_noted = False

    async def hold(self) -> None:
        """Set it aside, unless it still is. Errors: OutOfBudget, Stopped."""
        if not self._is_held:
            await self._purse.take(self._request)
            self._is_held = True

    async def note(self) -> None:
        """Have it in the journal that the request is sent, unless it still is there."""
        if self._is_noted:
            return
        if self._purse.budget.is_priced:
            sent = [self._request.prompt_tokens, self._request.max_tokens]
            await self._purse.writer.write({"index": self._request.index, "sent": sent})
        self._purse.budget.noted(self._request)
        self._is_noted = True

    @property
    def is_in_journal(self) -> bool:
        """Whether it is noted on disk."""
        return self._is_noted and self._purse.budget.is_priced

    async def give_back(self) -> None:
        """What was sent last was not charged, and nobody asks for it now."""
        if self.is_in_journal:
            await self._purse.writer.write({"index": self._request.index, "not_charged": True})

    def end(self) -> None:
        """It is charged with what the journal says."""
        if not self._is_held:
            return
        if not self._is_noted:
            self._purse.budget.noted(self._request)
        self._purse.put_back()
        self._is_held = self._is_noted = False
