"""Money: the cost of all requests, and whether the next one can be paid for."""

import asyncio
import math
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

from magicoder.runtime.errors import UserError
from magicoder.teacher.errors import Cancelled
from magicoder.teacher.records import Answered, NotCharged, Note, Record, Sent, Unanswered, Usage
from magicoder.teacher.requests import Request

TOKENS_OF_A_PRICE = 1_000_000
WORD = re.compile(r"[\w.:-]{1,40}")
MAX_WORDS = 50
"""Distinct words of finish_reason that are counted: a broken server must not fill the memory."""

Price = tuple[float, float]
"""Dollars for a million tokens of prompts and of completions."""


def compute_cost(price: Price, usage: Usage) -> float:
    """Return the dollars for `usage`."""
    return (price[0] * usage.prompt + price[1] * usage.completion) / TOKENS_OF_A_PRICE


class OutOfBudget(UserError):
    """The next request might cost more than is left."""


# --- what one journal adds up to -------------------------------------------------------------------------------------


@dataclass
class Bill:
    """Tokens at one price. settled: as the server counted them. pending: sent or lost, by our own count."""

    settled: Usage = field(default_factory=Usage)
    pending: Usage = field(default_factory=Usage)


class Totals:
    """Sums over the records of one journal."""

    def __init__(self) -> None:
        self.requests = self.answers = 0
        self.finish_reasons: Counter[str] = Counter()
        self.token_count_ratio = 1.0
        """The largest ratio of the tokens that an answer was billed to those that were reserved for it: servers may
        count tokens differently."""
        self._live, self._batch = Bill(), Bill()
        self._sent: dict[int, Sent] = {}

    def sum_live(self) -> Usage:
        """Return the tokens billed at the price of live requests."""
        return self._sum(self._live)

    def sum_batch(self) -> Usage:
        """Return the tokens billed at the price of batches."""
        return self._sum(self._batch)

    def add(self, record: Record | Note) -> None:
        """Count a record.

        What was sent counts as billed in full until its outcome is known: an answer reports its own usage. A request
        that was sent twice, or that failed, may have been billed each time.
        """
        match record:
            case Sent():
                self._settle(record.index, keep=True)  # asked again: the lost attempt may have been billed too
                self._bill_of(record).pending += record.usage
                self._sent[record.index] = record
            case Answered():
                # Ahead of what it replaces: another thread may read the sum in between, and must not read too little.
                bill = self._bill_of(record)
                bill.settled += record.usage
                self.requests += record.attempts
                self.answers += 1
                self._count_end(record.finish_reason)
                if record.noted:
                    self._settle(record.index, usage=record.usage)
            case NotCharged():
                self._settle(record.index)
            case Unanswered():
                self.requests += record.attempts

    def _count_end(self, finish_reason: str | None) -> None:
        """Count the server's word for the end of an answer."""
        is_word = finish_reason is not None and WORD.fullmatch(finish_reason) is not None
        has_place = len(self.finish_reasons) < MAX_WORDS or finish_reason in self.finish_reasons
        self.finish_reasons[finish_reason if finish_reason and is_word and has_place else "other"] += 1

    def _sum(self, bill: Bill) -> Usage:
        prompt = bill.settled.prompt + math.ceil(self.token_count_ratio * bill.pending.prompt)
        return Usage(prompt, bill.settled.completion + math.ceil(self.token_count_ratio * bill.pending.completion))

    def _bill_of(self, record: Sent | Answered) -> Bill:
        return self._batch if record.by_batch else self._live

    def _settle(self, index: int, *, keep: bool = False, usage: Usage | None = None) -> None:
        """End the pending request of a row. keep: it was lost and stays billed in full. usage: the actual tokens."""
        sent = self._sent.pop(index, None)
        if sent is None or keep:
            return  # what is kept stays pending, so it is scaled like everything whose actual count is unknown
        bill = self._bill_of(sent)
        if usage is not None:
            ratios = (usage.prompt / max(1, sent.usage.prompt), usage.completion / max(1, sent.usage.completion))
            self.token_count_ratio = max(self.token_count_ratio, *ratios)
        bill.pending -= sent.usage


# --- what the whole run may spend ------------------------------------------------------------------------------------


class Budget:
    """The money of one run; without a price or `max_cost` nothing is held back.

    Example:
        budget = Budget((1.0, 2.0), max_cost=20.0, totals=lambda: [journal.totals])
        if budget.has_room_for(request.max_usage): ...
    """

    def __init__(
        self,
        price: Price | None,
        max_cost: float | None,
        totals: Callable[[], Iterable[Totals]],
        *,
        batch_discount: float = 1.0,
        by_batch: bool = False,
    ) -> None:
        """price: of live requests. batch_discount: the share of it that batches cost. by_batch: this run uses them.

        totals: returns the totals of all journals of the run, including those of former runs.
        """
        self.max_cost = max_cost
        self._live_price = price
        self._batch_price = None if price is None else (batch_discount * price[0], batch_discount * price[1])
        self._by_batch = by_batch
        self._totals = totals
        self._reserved = Usage()

    @property
    def is_priced(self) -> bool:
        """Whether the price of a token is known."""
        return self._live_price is not None

    @property
    def spent(self) -> float | None:
        """Dollars so far, at most; None without a price."""
        if self._live_price is None or self._batch_price is None:
            return None
        live, batch = self._live_price, self._batch_price
        return sum(
            (
                compute_cost(live, totals.sum_live()) + compute_cost(batch, totals.sum_batch())
                for totals in self._totals()
            ),
            start=0.0,
        )

    @property
    def is_measured(self) -> bool:
        """Whether an answer has shown how the server's count of tokens compares with ours."""
        return any(totals.answers for totals in self._totals())

    def has_room_for(self, usage: Usage) -> bool:
        """Return whether so many more tokens can be paid for, whatever the requests in flight cost."""
        if self.max_cost is None or self.spent is None:
            return True
        return self.spent + self._estimate_cost(usage + self._reserved) <= self.max_cost

    def reserve(self, usage: Usage) -> None:
        """Hold back money for a request until the journal records that it is sent."""
        self._reserved += usage

    def release(self, usage: Usage) -> None:
        """Stop holding back what was reserved: the journal has it now, or it is not needed."""
        self._reserved -= usage

    def explain_excess(self, request: Request) -> OutOfBudget:
        """Build the error for a request that cannot be paid for."""
        cost = self._estimate_cost(request.max_usage)
        return OutOfBudget(
            f"teacher.max_cost={self.max_cost:g}: {self.spent:.4f} dollars are spent, and the next request may "
            f"cost {cost:.4f}; every answer is kept, and the same command with a higher one resumes"
        )

    def _estimate_cost(self, usage: Usage) -> float:
        """Return the dollars for tokens by our count, scaled by the largest ratio of the server's count so far."""
        price = self._batch_price if self._by_batch else self._live_price
        if price is None:
            return 0.0
        ratio = max((totals.token_count_ratio for totals in self._totals()), default=1.0)
        return ratio * compute_cost(price, usage)


# --- what one request may spend --------------------------------------------------------------------------------------


class Wallet:
    """The money of all requests in one event loop: a request that finds too little waits for others to finish."""

    def __init__(
        self, budget: Budget, write: Callable[[Record | Note], Awaitable[None]], is_stopping: Callable[[], bool]
    ) -> None:
        """write: journals a record. is_stopping: returns whether the work is to end."""
        self.budget, self.write = budget, write
        self._is_stopping = is_stopping
        self._open = 0
        self._turn, self._returned = asyncio.Lock(), asyncio.Event()

    async def take(self, request: Request) -> None:
        """Wait until a request can be paid for, whatever those in flight cost; first come, first served.

        Errors: OutOfBudget if it cannot be paid for even when they are finished; Cancelled.
        """
        # In order: a request with a long prompt would otherwise starve behind cheaper ones.
        async with self._turn:
            while not self._is_affordable(request):
                if self._is_stopping():
                    raise Cancelled
                if not self._open:
                    raise self.budget.explain_excess(request)
                self._returned.clear()
                await self._returned.wait()
            self.budget.reserve(request.max_usage)
            self._open += 1

    def put_back(self) -> None:
        """End a request; its actual cost is in the journal."""
        self._open -= 1
        self._returned.set()

    def _is_affordable(self, request: Request) -> bool:
        # The first request of a bounded run goes alone: it shows whether the server counts tokens as we do.
        if self.budget.max_cost is not None and not self.budget.is_measured and self._open:
            return False
        return self.budget.has_room_for(request.max_usage)


class Reservation:
    """A request's maximum cost, reserved until the journal records the actual cost.

    It is recorded as sent before it is sent: a run that is killed in between may have spent it too.
    """

    def __init__(self, wallet: Wallet, request: Request) -> None:
        self._wallet, self._request = wallet, request
        self._is_held = self._is_noted = False

    async def hold(self) -> None:
        """Reserve the money, unless it is reserved. Errors: OutOfBudget, Cancelled."""
        if not self._is_held:
            await self._wallet.take(self._request)
            self._is_held = True

    async def note(self) -> None:
        """Record that the request is sent, unless that is recorded."""
        if self._is_noted:
            return
        if self._wallet.budget.is_priced:
            await self._wallet.write(Sent(self._request.index, self._request.max_usage))
        # The journal counts it from here on; counted twice, it would stop the run too early.
        self._wallet.budget.release(self._request.max_usage)
        self._is_noted = True

    @property
    def is_recorded(self) -> bool:
        """Whether the journal has this request as sent."""
        return self._is_noted and self._wallet.budget.is_priced

    async def cancel(self) -> None:
        """Record that the request sent last was not billed; nobody asks for it now."""
        if self.is_recorded:
            await self._wallet.write(NotCharged(self._request.index))

    def end(self) -> None:
        """Release the reservation: from now on the journal's cost counts."""
        if not self._is_held:
            return
        if not self._is_noted:
            self._wallet.budget.release(self._request.max_usage)
        self._wallet.put_back()
        self._is_held = self._is_noted = False
