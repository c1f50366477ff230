"""Money: what all requests come to, and whether the next one can be paid for."""

from collections.abc import Callable, Iterable

from magicoder.runtime.errors import UserError
from magicoder.teacher.journal import Totals
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

    def __init__(
        self,
        price: Price | None,
        max_cost: float | None,
        totals: Callable[[], Iterable[Totals]],
        *,
        part_by_batch: float = 1.0,
        by_batch: bool = False,
    ) -> None:
        """price: of live requests; part_by_batch: which part of it batches cost; by_batch: whether this run uses them.

        totals: what all journals of the run come to, former runs among it. What is noted there as sent counts in full
        until it is known what became of it.
        """
        self.max_cost = max_cost
        self._prices = price and {False: price, True: (part_by_batch * price[0], part_by_batch * price[1])}
        self._by_batch = by_batch
        self._totals = totals
        self._unnoted_prompt = self._unnoted_completion = 0

    @property
    def is_priced(self) -> bool:
        """Whether it is known what tokens cost."""
        return self._prices is not None

    @property
    def spent(self) -> float | None:
        """Dollars so far, at most; None without a price."""
        if self._prices is None:
            return None
        ways = [(each, by_batch, price) for each in self._totals() for by_batch, price in self._prices.items()]
        return sum((cost(price, *each.charged(by_batch)) for each, by_batch, price in ways), start=0.0)

    @property
    def is_measured(self) -> bool:
        """Whether a server has told by an answer how its count of tokens compares with ours."""
        return any(each.answers for each in self._totals())

    def fits(self, prompt_tokens: int, completion_tokens: int) -> bool:
        """Whether so many tokens more can be paid for, whatever all that is under way comes to."""
        if self.max_cost is None or self.spent is None:
            return True
        prompt_tokens, completion_tokens = (
            prompt_tokens + self._unnoted_prompt,
            completion_tokens + self._unnoted_completion,
        )
        return self.spent + self._most(prompt_tokens, completion_tokens) <= self.max_cost

    def set_aside(self, request: Request) -> None:
        """A request is about to be noted in a journal as sent."""
        self._unnoted_prompt += request.prompt_tokens
        self._unnoted_completion += request.max_tokens

    def noted(self, request: Request) -> None:
        """What was set aside stands in a journal now, or is not needed."""
        self._unnoted_prompt -= request.prompt_tokens
        self._unnoted_completion -= request.max_tokens

    def exceeded_by(self, request: Request) -> OutOfBudget:
        """What to tell of a request that cannot be paid for."""
        asked = self._most(request.prompt_tokens, request.max_tokens)
        return OutOfBudget(
            f"teacher.max_cost={self.max_cost:g}: {self.spent:.4f} dollars are spent, and the next request may "
            f"cost {asked:.4f}; every answer is kept, and the same command with a higher one goes on from there"
        )

    def _most(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Dollars for so many tokens by our count, which the server's may exceed as it did before."""
        if self._prices is None:
            return 0.0
        token_count_ratio = max((each.token_count_ratio for each in self._totals()), default=1.0)
        return token_count_ratio * cost(self._prices[self._by_batch], prompt_tokens, completion_tokens)
