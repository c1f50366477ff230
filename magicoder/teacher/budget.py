"""Money: what a request may cost is set aside before it is sent, so that no run costs more than it may."""

import asyncio
from collections.abc import Callable

from magicoder.errors import UserError
from magicoder.teacher.requests import Request

TOKENS_OF_A_PRICE = 1_000_000


Price = tuple[float, float]
"""Dollars for a million tokens of requests and of answers."""


def cost(price: Price, prompt_tokens: float, completion_tokens: float) -> float:
    """Dollars for so many tokens."""
    return (price[0] * prompt_tokens + price[1] * completion_tokens) / TOKENS_OF_A_PRICE


class OutOfBudget(UserError):
    """The next request might cost more than is left."""


class Budget:
    """What may be spent; without a price or `max_cost` nothing is held back."""

    def __init__(self, price: Price | None, max_cost: float | None, charged: Callable[[], tuple[int, int]]) -> None:
        """charged: tokens of prompts and of answers that the journals come to, those of former runs among them.

        What is noted there as sent counts in full until it is known what became of it.
        """
        self.price, self.max_cost = price, max_cost
        self._charged = charged
        self._unnoted = 0.0  # reserved, and on its way into a journal
        self._in_flight = 0
        self._settled = asyncio.Event()

    @property
    def holds_back(self) -> bool:
        """Whether there is a bound."""
        return self.price is not None and self.max_cost is not None

    @property
    def spent(self) -> float | None:
        """Dollars so far, at most; None without a price."""
        return None if self.price is None else cost(self.price, *self._charged())

    def fits(self, prompt_tokens: int, completion_tokens: int) -> bool:
        """Whether so many tokens more can be paid for, whatever all that is noted as sent comes to."""
        if self.price is None or self.max_cost is None:
            return True
        return cost(self.price, *self._charged()) + cost(self.price, prompt_tokens, completion_tokens) <= self.max_cost

    async def reserve(self, request: Request) -> None:
        """Wait until a request can be paid for, whatever those under way come to.

        Errors: OutOfBudget if it cannot be even then.
        """
        asked = self._most(request)
        while self.holds_back and (self.spent or 0.0) + self._unnoted + asked > (self.max_cost or 0.0):
            if not self._in_flight:
                raise OutOfBudget(
                    f"teacher.max_cost={self.max_cost:g}: {self.spent:.4f} dollars are spent, and the next request may "
                    f"cost {asked:.4f}; every answer is kept, and the same command with a higher one goes on from there"
                )
            self._settled.clear()
            await self._settled.wait()
        self._unnoted += asked
        self._in_flight += 1

    def noted(self, request: Request) -> None:
        """A reserved request is in the journal as sent."""
        self._unnoted -= self._most(request)

    def settle(self) -> None:
        """A reserved request has come to its end; what it is charged stands in the journal."""
        self._in_flight -= 1
        self._settled.set()

    def _most(self, request: Request) -> float:
        return cost(self.price, request.prompt_tokens, request.max_tokens) if self.price is not None else 0.0
