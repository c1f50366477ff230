"""Limits: as fast as the server allows and no faster, learnt from what it says."""

import asyncio
from collections.abc import Callable, Coroutine
from itertools import pairwise
from typing import Any

import pytest

from magicoder.runtime.errors import UserError
from magicoder.teacher.errors import Cancelled
from magicoder.teacher.rate_limits import RateLimits, TokenBucket, parse_duration, parse_number


class Clock:
    """Time that passes when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Simulated(RateLimits):
    """Limits that sleep in simulated time."""

    def __init__(self, concurrency: int, *rates: float | None, timeout: float = 600.0) -> None:
        self.clock = Clock()
        requests, tokens = (*rates, None, None)[:2]
        super().__init__(concurrency, requests, tokens, timeout, self.clock)

    async def sleep(self, seconds: float) -> None:
        if self.stopping:
            raise Cancelled
        self.clock.now += seconds


def departures(
    limits: Simulated, requests: int, after: Callable[[Any], None] = lambda ticket: None, tokens: int = 1
) -> list[float]:
    """When each of so many requests goes, one after another, each back at once."""

    async def go() -> list[float]:
        times = []
        for _ in range(requests):
            ticket = await limits.admit(tokens)
            times.append(ticket.left - 1000.0)
            limits.release()
            after(ticket)
        return times

    return asyncio.run(go())


def test_an_allowance_may_be_used_at_once_and_refills_steadily() -> None:
    times = departures(Simulated(8, 60), 90)
    assert times[59] == 0
    assert times[60] == pytest.approx(1)
    assert times[89] == pytest.approx(30)


def test_token_bucket_counts_the_most_a_request_may_use() -> None:
    times = departures(Simulated(8, None, 600), 4, tokens=300)
    assert times == pytest.approx([0, 0, 30, 60])


def test_request_larger_than_the_bucket_waits_for_a_full_one() -> None:
    assert departures(Simulated(8, None, 600), 2, tokens=900) == pytest.approx([0, 90])


def test_unconfigured_limit_is_learned_from_headers() -> None:
    limits = Simulated(8)
    headers = iter(range(59, -1, -1))

    def answered(ticket: Any) -> None:
        left = str(next(headers, 0))
        limits.record_answer(ticket, {"x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": left})

    times = departures(limits, 70, answered)
    assert times[59] == 0
    assert times[69] == pytest.approx(10, rel=0.01)


def test_daily_limit_is_recognized_by_its_reset() -> None:
    limits = Simulated(8)
    # One of 1440 a day comes back every minute.
    told = {
        "x-ratelimit-limit-requests": "1440",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "24h0m0s",
    }
    times = departures(limits, 3, lambda ticket: limits.record_answer(ticket, told))
    assert times == pytest.approx([0, 60, 120])


@pytest.mark.parametrize("header", ["", "many", "-1", "nan", "1e9", "9" * 400, "٣"])
def test_headers_that_make_no_sense_are_ignored(header: str) -> None:
    limits = Simulated(8)
    told = {
        f"x-ratelimit-{what}-{kind}": header
        for what in ("limit", "remaining", "reset")
        for kind in ("requests", "tokens")
    }
    assert departures(limits, 50, lambda ticket: limits.record_answer(ticket, told))[-1] == 0


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("1s", 1),
        ("6m0s", 360),
        ("17ms", 0.017),
        ("1h2m3.5s", 3723.5),
        ("8.64s", 8.64),
        ("20", 20),
        ("", None),
        ("soon", None),
        (None, None),
    ],
)
def test_durations_are_read_as_openai_writes_them(header: str | None, seconds: float | None) -> None:
    assert parse_duration(header) == (None if seconds is None else pytest.approx(seconds))


def test_a_number_is_a_plain_number() -> None:
    assert (parse_number("600"), parse_number(" 1.5 "), parse_number("6e2"), parse_number(None)) == (
        600,
        1.5,
        None,
        None,
    )


def test_one_pause_is_shared_by_all_rejected_requests() -> None:
    limits = Simulated(8)

    async def go() -> tuple[float, int]:
        tickets = [await limits.admit(1) for _ in range(8)]
        pauses = 0
        for ticket in tickets:
            limits.release()
            pauses += limits.record_rejection(ticket, None)
        return (await limits.admit(1)).left - 1000.0, pauses

    assert asyncio.run(go()) == (pytest.approx(0.5), 1)


def test_the_longest_wait_that_the_server_asks_for_is_honoured() -> None:
    limits = Simulated(8)

    async def go() -> float:
        for ticket in [await limits.admit(1) for _ in range(2)]:
            limits.release()
            limits.record_rejection(ticket, 7.0 if ticket.number else 30.0)
        return (await limits.admit(1)).left - 1000.0

    assert asyncio.run(go()) == pytest.approx(30)


def test_pauses_without_a_time_grow_until_an_answer_comes() -> None:
    limits = Simulated(8)
    times = departures(limits, 6, lambda ticket: limits.record_rejection(ticket, None) and None)
    assert [round(later - earlier, 3) for earlier, later in pairwise(times)] == [0.5, 1, 2, 4, 8]
    limits.record_answer(asyncio.run(limits.admit(1)), {})
    assert not limits._pauses_in_a_row


def test_server_that_rejects_everything_for_an_hour_ends_the_run() -> None:
    limits = Simulated(8)
    with pytest.raises(UserError, match="every answer is kept"):
        departures(limits, 200, lambda ticket: limits.record_rejection(ticket, None) and None)
    assert 3600 < limits.clock.now - 1000 < 3700


def test_server_without_a_useful_time_is_not_asked_endlessly() -> None:
    limits = Simulated(8)
    times = departures(limits, 6, lambda ticket: limits.record_rejection(ticket, 0.0) and None)
    assert [round(later - earlier, 3) for earlier, later in pairwise(times)] == [0, 1, 2, 4, 8]


def test_an_hour_of_mixed_rejections_does_not_end_the_run() -> None:
    limits = Simulated(8)

    def every_other(ticket: Any) -> None:
        if ticket.number % 2:
            limits.record_rejection(ticket, 30.0)
        else:
            limits.record_answer(ticket, {})

    departures(limits, 400, every_other)
    assert limits.clock.now - 1000 > 3600


@pytest.mark.parametrize("reset", ["1764000000", "9999999999999", "99999999h0m0s", "0"])
def test_a_reset_that_no_limit_has_is_ignored(reset: str) -> None:
    limits = Simulated(8)
    told = {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": reset,
    }
    times = departures(limits, 3, lambda ticket: limits.record_answer(ticket, told))
    assert times[-1] == pytest.approx(2)


def test_slow_answers_shrink_the_window_and_fast_ones_grow_it() -> None:
    limits = Simulated(100, timeout=10.0)

    async def waves(parse_number: int, seconds: float) -> None:
        for _ in range(parse_number):
            tickets = [await limits.admit(1) for _ in range(int(limits.window))]
            limits.clock.now += seconds
            for ticket in tickets:
                limits.release()
                limits.record_answer(ticket, {})

    asyncio.run(waves(20, 1.0))
    assert limits.window == 100
    asyncio.run(waves(20, 8.0))
    slow = limits.window
    assert slow < 50
    asyncio.run(waves(60, 1.0))
    assert limits.window > 1.5 * slow


def test_timeout_halves_the_window_once_for_a_group() -> None:
    limits = Simulated(64)

    async def go() -> None:
        for ticket in [await limits.admit(1) for _ in range(64)]:
            limits.record_timeout(ticket)
            limits.release()

    asyncio.run(go())
    assert 30 <= limits.window <= 33


def test_no_request_goes_once_the_work_is_to_end() -> None:
    async def waiting(limits: RateLimits) -> None:
        await limits.admit(1)
        late: Coroutine[Any, Any, Any] = limits.admit(1)
        task = asyncio.create_task(late)
        await asyncio.sleep(0.01)
        limits.stop()
        with pytest.raises(Cancelled):
            await task

    asyncio.run(waiting(RateLimits(1, None, None, 600.0)))
    asyncio.run(waiting(RateLimits(8, 1, None, 600.0)))


def test_what_the_server_says_to_be_left_is_believed() -> None:
    allowance = TokenBucket(600, 0.0)
    allowance.correct(0, None, 0.0)
    assert allowance.compute_wait(1, 0.0) == pytest.approx(0.1)
    allowance.correct(5000, None, 0.0)
    assert allowance.compute_wait(601, 0.0) == 0


@pytest.mark.parametrize(("left", "seconds"), [(90_000, 1.0), (40_000, 18.0)])
def test_a_refusal_slows_down_to_what_the_headers_still_allow(left: int, seconds: float) -> None:
    """Half a minute before the window ends. Where enough remains, another limit turned the request away; else all of it
    is used up."""
    limits = Simulated(4)
    headers = {"x-ratelimit-limit-tokens": "100000", "x-ratelimit-reset-tokens": "30s"}

    def answered_but_one(ticket: Any) -> None:
        if ticket.number == 1:
            limits.record_rejection(ticket, 1.0)
        else:
            limits.record_answer(ticket, {**headers, "x-ratelimit-remaining-tokens": str(left)})

    times = departures(limits, 3, answered_but_one, tokens=30_000)
    assert times[1] == times[0], "both may go at once"
    assert times[2] - times[1] == pytest.approx(seconds, rel=0.01)


def test_a_wait_is_described_with_the_servers_words() -> None:
    limits = Simulated(1)
    limits.record_rejection(limits._issue_ticket(1), 120.0, {}, "HTTP 429: come back")
    assert limits.describe_wait() is None, "a request is in flight"
    limits.release()
    assert limits.describe_wait() == "all requests wait, 120 s more: HTTP 429: come back"
    limits.clock.now += 121
    assert limits.describe_wait() is None


def test_a_wait_longer_than_the_bound_ends_the_run() -> None:
    limits = RateLimits(1, None, None, 600.0, Clock(), patience=60.0)
    with pytest.raises(UserError, match="HTTP 429: no; it asks to wait 61 s"):
        limits.record_rejection(limits._issue_ticket(1), 61.0, {}, "HTTP 429: no")
