"""The budget: never more than may be spent, whatever the requests under way come to."""

import asyncio

import pytest

from magicoder.teacher.budget import Budget, OutOfBudget, Price, cost
from magicoder.teacher.requests import Request

PRICE = (1.0, 2.0)
REQUEST = Request(0, {"messages": [], "max_tokens": 100_000}, prompt_tokens=100_000)  # 0.3 dollars at most


def test_a_cost_is_by_the_million_tokens() -> None:
    assert cost(PRICE, 1_000_000, 500_000) == 2.0


def test_a_request_that_might_cost_too_much_waits_for_those_under_way_and_goes_if_they_were_cheap() -> None:
    charged = [0, 0]
    budget = Budget(PRICE, 0.5, lambda: (charged[0], charged[1]))

    async def go() -> None:
        await budget.reserve(REQUEST)
        charged[:] = [100_000, 100_000]  # it stands in the journal as sent
        budget.noted(REQUEST)
        second = asyncio.create_task(budget.reserve(REQUEST))
        await asyncio.sleep(0)
        assert not second.done()
        charged[:] = [100_000, 1000]  # its answer was short
        budget.settle()
        await second

    asyncio.run(go())


def test_two_requests_that_are_reserved_at_once_do_not_both_get_the_last_dollar() -> None:
    budget = Budget(PRICE, 0.5, lambda: (0, 0))

    async def go() -> None:
        await budget.reserve(REQUEST)
        second = asyncio.create_task(budget.reserve(REQUEST))
        await asyncio.sleep(0)
        assert not second.done()
        second.cancel()

    asyncio.run(go())


def test_a_request_that_might_cost_too_much_ends_the_work_when_nothing_is_under_way() -> None:
    budget = Budget(PRICE, 0.5, lambda: (300_000, 0))
    with pytest.raises(OutOfBudget, match=r"max_cost=0.5: 0.3000 dollars are spent.* cost 0.3000"):
        asyncio.run(budget.reserve(REQUEST))


@pytest.mark.parametrize(("price", "max_cost"), [(None, None), (PRICE, None)])
def test_without_a_bound_nothing_is_held_back(price: Price | None, max_cost: float | None) -> None:
    budget = Budget(price, max_cost, lambda: (10**12, 10**12))
    asyncio.run(budget.reserve(REQUEST))
    assert not budget.holds_back
