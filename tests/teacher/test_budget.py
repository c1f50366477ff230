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
from magicoder.teacher.records import Answered, Sent, Usage
from magicoder.teacher.requests import Request

PRICE = (1.0, 2.0)


def request(index: int) -> Request:
    return Request(index, {"messages": []}, prompt_tokens=100_000, max_tokens=100_000)  # 0.3 dollars at most


def answer(index: int, usage: Usage, *, noted: bool = False, by_batch: bool = False) -> Answered:
    return Answered(index, 100_000, 1, 0.0, "stop", usage, {}, noted, by_batch)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "journal.jsonl", range(4)) as opened:
        yield opened


def with_wallet(
    journal: Journal, work: Callable[[Wallet], Coroutine[Any, Any, None]], stopping: Callable[[], bool] = lambda: False
) -> None:
    """One pass of a run: an event loop of its own, and half a dollar for all."""

    async def go() -> None:
        await work(Wallet(Budget(PRICE, 0.5, lambda: [journal.totals]), JournalWriter(journal).write, stopping))

    asyncio.run(go())


async def soon(waiting: asyncio.Task[None]) -> bool:
    """Return whether a task is done after every task that can run has run."""
    await asyncio.sleep(0.01)
    return waiting.done()


def test_a_cost_is_by_the_million_tokens() -> None:
    assert compute_cost(PRICE, Usage(1_000_000, 500_000)) == 2.0


def test_expensive_request_waits_for_others_and_goes_if_cheap(
    journal: Journal,
) -> None:
    async def work(wallet: Wallet) -> None:
        first, second = Reservation(wallet, request(0)), Reservation(wallet, request(1))
        await first.hold()
        await first.note()
        waiting = asyncio.create_task(second.hold())
        assert not await soon(waiting)
        await wallet.write(answer(0, Usage(100_000, 1000), noted=True))
        first.end()
        assert await soon(waiting)

    with_wallet(journal, work)


def test_passes_wait_for_money_each_in_an_event_loop_of_its_own(journal: Journal) -> None:
    budget = Budget(PRICE, 0.5, lambda: [journal.totals])

    async def work() -> None:
        wallet = Wallet(budget, JournalWriter(journal).write, lambda: False)
        first, second = Reservation(wallet, request(0)), Reservation(wallet, request(1))
        await first.hold()
        waiting = asyncio.create_task(second.hold())
        assert not await soon(waiting)
        first.end()
        assert await soon(waiting)
        second.end()

    asyncio.run(work())
    asyncio.run(work())


def test_two_concurrent_requests_do_not_share_the_last_dollar(journal: Journal) -> None:
    async def work(wallet: Wallet) -> None:
        await Reservation(wallet, request(0)).hold()
        second = asyncio.create_task(Reservation(wallet, request(1)).hold())
        assert not await soon(second)
        second.cancel()

    with_wallet(journal, work)


def test_who_waits_for_money_when_the_work_is_to_end_is_not_sent(journal: Journal) -> None:
    stopping = False

    async def work(wallet: Wallet) -> None:
        nonlocal stopping
        first = Reservation(wallet, request(0))
        await first.hold()
        await first.note()
        second = asyncio.create_task(Reservation(wallet, request(1)).hold())
        await asyncio.sleep(0)
        stopping = True
        first.end()  # and may have been charged in full
        with pytest.raises(Cancelled):
            await second

    with_wallet(journal, work, lambda: stopping)


def test_unaffordable_request_ends_the_work_when_alone(journal: Journal) -> None:
    journal.append(answer(0, Usage(300_000, 0)))
    with pytest.raises(OutOfBudget, match=r"max_cost=0.5: 0.3000 dollars are spent.* cost 0.3000"):
        with_wallet(journal, lambda wallet: Reservation(wallet, request(1)).hold())


def test_cancelled_reservation_is_returned_unsent_is_unrecorded(journal: Journal, tmp_path: Path) -> None:
    async def work(wallet: Wallet) -> None:
        for index, is_sent in ((0, True), (1, False)):
            reservation = Reservation(wallet, request(index))
            await reservation.hold()
            if is_sent:
                await reservation.note()
            await reservation.cancel()
            reservation.end()
        assert wallet.budget.spent == 0.0

    with_wallet(journal, work)
    lines = map(json.loads, (tmp_path / "journal.jsonl").read_bytes().splitlines())
    assert [{key for key in line if key != "index"} for line in lines] == [{"sent"}, {"not_charged"}]


@pytest.mark.parametrize(("price", "max_cost"), [(None, None), (PRICE, None)])
def test_without_a_bound_nothing_is_held_back(price: Price | None, max_cost: float | None) -> None:
    assert Budget(price, max_cost, list).has_room_for(Usage(10**9, 10**9))


def test_batches_cost_the_batch_price_whoever_asks_next(journal: Journal) -> None:
    journal.append(
        answer(0, Usage(1_000_000, 0)),
        answer(1, Usage(1_000_000, 0), by_batch=True),
        Sent(2, Usage(1_000_000, 0), by_batch=True),
    )
    for by_batch in (False, True):
        budget = Budget(PRICE, 3.0, lambda: [journal.totals], batch_discount=0.5, by_batch=by_batch)
        assert budget.spent == 1.0 + 0.5 + 0.5
        assert budget.has_room_for(Usage(1_000_000, 0))
        assert budget.has_room_for(Usage(1_500_000, 0)) == by_batch


def test_batches_cost_their_share_of_both_prices(journal: Journal) -> None:
    journal.append(answer(0, Usage(1_000_000, 1_000_000), by_batch=True))
    budget = Budget(PRICE, None, lambda: [journal.totals], batch_discount=0.25, by_batch=True)
    assert budget.spent == 0.25 * (1.0 + 2.0)
