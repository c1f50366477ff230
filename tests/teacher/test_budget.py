"""The budget: never more than may be spent, whatever the requests under way come to."""

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from magicoder.teacher.budget import Budget, OutOfBudget, Price, Reservation, Wallet, compute_cost
from magicoder.teacher.errors import Cancelled
from magicoder.teacher.journal import Journal
from magicoder.teacher.recorder import JournalWriter
from magicoder.teacher.requests import Request

PRICE = (1.0, 2.0)


def request(index: int) -> Request:
    return Request(index, {"messages": [], "max_tokens": 100_000}, prompt_tokens=100_000)  # 0.3 dollars at most


def answer(index: int, completion_tokens: int) -> dict[str, Any]:
    return {"index": index, "usage": [100_000, completion_tokens], "noted": True, "answer": {}}


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "journal.jsonl", range(4)) as opened:
        yield opened


def with_purse(
    journal: Journal, work: Callable[[Wallet], Coroutine[Any, Any, None]], stopping: Callable[[], bool] = lambda: False
) -> None:
    """One pass of a run: an event loop of its own, and half a dollar for all."""

    async def go() -> None:
        await work(Wallet(Budget(PRICE, 0.5, lambda: [journal.totals]), JournalWriter(journal), stopping))

    asyncio.run(go())


async def soon(waiting: asyncio.Task[None]) -> bool:
    """Whether a task is through when all that can go on has gone on."""
    await asyncio.sleep(0.01)
    return waiting.done()


def test_a_cost_is_by_the_million_tokens() -> None:
    assert compute_cost(PRICE, 1_000_000, 500_000) == 2.0


def test_a_request_that_might_cost_too_much_waits_for_those_under_way_and_goes_if_they_were_cheap(
    journal: Journal,
) -> None:
    async def work(purse: Wallet) -> None:
        first, second = Reservation(purse, request(0)), Reservation(purse, request(1))
        await first.hold()
        await first.note()
        waiting = asyncio.create_task(second.hold())
        assert not await soon(waiting)
        await purse.writer.write(answer(0, 1000))
        first.end()
        assert await soon(waiting)

    with_purse(journal, work)


def test_passes_wait_for_money_each_in_an_event_loop_of_its_own(journal: Journal) -> None:
    budget = Budget(PRICE, 0.5, lambda: [journal.totals])

    async def work() -> None:
        purse = Wallet(budget, JournalWriter(journal), lambda: False)
        first, second = Reservation(purse, request(0)), Reservation(purse, request(1))
        await first.hold()
        waiting = asyncio.create_task(second.hold())
        assert not await soon(waiting)
        first.end()
        assert await soon(waiting)
        second.end()

    asyncio.run(work())
    asyncio.run(work())


def test_two_requests_that_are_reserved_at_once_do_not_both_get_the_last_dollar(journal: Journal) -> None:
    async def work(purse: Wallet) -> None:
        await Reservation(purse, request(0)).hold()
        second = asyncio.create_task(Reservation(purse, request(1)).hold())
        assert not await soon(second)
        second.cancel()

    with_purse(journal, work)


def test_who_waits_for_money_when_the_work_is_to_end_is_not_sent(journal: Journal) -> None:
    stopping = False

    async def work(purse: Wallet) -> None:
        nonlocal stopping
        first = Reservation(purse, request(0))
        await first.hold()
        await first.note()
        second = asyncio.create_task(Reservation(purse, request(1)).hold())
        await asyncio.sleep(0)
        stopping = True
        first.end()  # and may have been charged in full
        with pytest.raises(Cancelled):
            await second

    with_purse(journal, work, lambda: stopping)


def test_a_request_that_might_cost_too_much_ends_the_work_when_nothing_is_under_way(journal: Journal) -> None:
    journal.append({"index": 0, "usage": [300_000, 0], "answer": {}})
    with pytest.raises(OutOfBudget, match=r"max_cost=0.5: 0.3000 dollars are spent.* cost 0.3000"):
        with_purse(journal, lambda purse: Reservation(purse, request(1)).hold())


def test_what_was_not_charged_is_given_back_and_what_was_never_sent_stands_nowhere(
    journal: Journal, tmp_path: Path
) -> None:
    async def work(purse: Wallet) -> None:
        for index, is_sent in ((0, True), (1, False)):
            charge = Reservation(purse, request(index))
            await charge.hold()
            if is_sent:
                await charge.note()
            await charge.give_back()
            charge.end()
        assert purse.budget.spent == 0.0

    with_purse(journal, work)
    lines = map(json.loads, (tmp_path / "journal.jsonl").read_bytes().splitlines())
    assert [{key for key in line if key != "index"} for line in lines] == [{"sent"}, {"not_charged"}]


@pytest.mark.parametrize(("price", "max_cost"), [(None, None), (PRICE, None)])
def test_without_a_bound_nothing_is_held_back(price: Price | None, max_cost: float | None) -> None:
    assert Budget(price, max_cost, list).fits(10**9, 10**9)


def test_what_batches_came_to_costs_the_price_of_batches_whoever_asks_next(journal: Journal) -> None:
    journal.append(
        {"index": 0, "usage": [1_000_000, 0], "answer": {}},
        {"index": 1, "usage": [1_000_000, 0], "batch": True, "answer": {}},
        {"index": 2, "sent": [1_000_000, 0], "batch": True},
    )
    for by_batch in (False, True):
        budget = Budget(PRICE, 3.0, lambda: [journal.totals], batch_discount=0.5, by_batch=by_batch)
        assert budget.spent == 1.0 + 0.5 + 0.5
        assert budget.fits(1_000_000, 0)
        assert budget.fits(1_500_000, 0) == by_batch
