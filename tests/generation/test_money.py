"""Money: the cost is estimated ahead, and the bound is never exceeded."""

import json
import random
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from magicoder.runtime.errors import UserError
from tests import chat_server as server_says
from tests.chat_server import ChatServer, Reply
from tests.generation.runs import COUNT, SECRET, Program
from tests.support import read_jsonl

PRICED = "teacher.price={input: 1000.0, output: 1000.0}"  # a dollar for a thousand tokens
CHARGED = 12 / 1000
"""Dollars that the server's own count of tokens comes to for a request."""


def test_dry_run_prints_the_plan_and_asks_nothing(program: Program) -> None:
    ended = program.run("dry_run=true", PRICED, "teacher.requests_per_minute=10", OPENAI_API_KEY="")
    assert (ended.status, ended.stderr) == (0, "")
    assert program.server.requests == []
    assert not program.out.exists()
    lines = ended.stdout.splitlines()
    assert f"rows: {COUNT} (the corpus has no more; max_new_data is 1,000), 1 of them too long to be asked" in lines
    (tokens,) = [line for line in lines if line.startswith("tokens: ")]
    prompts, answers = (int(word.replace(",", "")) for word in tokens.split() if word.replace(",", "").isdigit())
    assert f"cost: ${prompts / 1000:,.2f} for the prompts, up to ${(prompts + answers) / 1000:,.2f}" in ended.stdout
    assert f"time: at least {(COUNT - 1) / 10 - 1:.1f} minutes at the given limits" in lines
    assert ended.stdout.count("Be inspired: ") == 3

    assert program.run(PRICED).status == 0
    asked = {request.seed: request.body["messages"][1]["content"] for request in program.server.requests}
    shown = [asked[seed] for seed in sorted(asked)[:3]]
    assert all(text in ended.stdout for text in shown), "what is shown is what is then asked"
    assert answers == sum(request.body["max_tokens"] for request in program.server.requests)


def test_a_price_that_is_not_known_is_told_where_it_is_needed(program: Program) -> None:
    assert "the price of other is unknown" in program.run("dry_run=true", "teacher.model=gpt-4-0314").stdout.replace(
        "gpt-4-0314", "other"
    )
    ended = program.run("teacher.max_cost=1", "teacher.model=gpt-4-0314")
    assert ended.status == 1
    assert ended.only_line.startswith("error: teacher.max_cost=1: the price of gpt-4-0314 is not known; ")


@pytest.mark.parametrize(
    "override",
    [
        "teacher.max_cost=0",
        "teacher.max_cost=-1",
        "teacher.max_cost=nan",
        "teacher.price.input=-1",
        "teacher.requests_per_minute=0",
        "teacher.tokens_per_minute=-5",
    ],
)
def test_money_and_limits_out_of_bounds_are_named(program: Program, override: str) -> None:
    ended = program.run(override)
    assert ended.status == 1
    assert ended.only_line.startswith(f"error: {override.partition('={')[0]}")
    assert program.server.requests == []


def test_budget_is_kept_and_a_raise_continues_the_run(program: Program, undisturbed: Program) -> None:
    # Each may come to more than it costs, so the last dollars are spent one request at a time.
    program.server.reply = server_says.answer(usage={"prompt_tokens": 50, "completion_tokens": 150})
    charged = 200 / 1000
    half = charged * COUNT / 2
    stopped = program.run(PRICED, f"teacher.max_cost={half}", "teacher.concurrency=8")
    if "may cost" in stopped.stderr and not program.server.requests:
        pytest.fail("nothing was asked at all")
    assert stopped.status == 1
    assert stopped.only_line.startswith(f"error: teacher.max_cost={half:g}: ")
    assert charged * len(program.server.finished) <= half
    asked = re.search(r"the next request may cost ([\d.]+);", stopped.only_line)
    assert asked is not None
    assert charged * len(program.server.finished) + float(asked[1]) > half, "what could be bought was bought"
    kept = program.journalled()
    assert len(kept) == len(program.server.requests)

    again = program.run(PRICED, f"teacher.max_cost={half}")
    assert again.status == 1
    assert len(program.server.requests) == len(kept), "what was spent is not forgotten"

    assert program.run(PRICED, "teacher.max_cost=1000").status == 0
    assert program.result() == undisturbed.result()
    assert set(program.server.counts().values()) == {1}
    usage = json.loads((program.out / "manifest.json").read_bytes())["usage"]
    assert usage["dollars"] == pytest.approx(charged * COUNT - charged)  # for one has no room, and is not asked


@pytest.mark.long
def test_a_budget_holds_though_the_run_is_killed_again_and_again(program: Program) -> None:
    chance = random.Random(7)
    program.server.reply = server_says.slow(0.1)
    arguments = (PRICED, "teacher.max_cost=5", "teacher.concurrency=4")
    for _ in range(6):
        process = program.start(*arguments)
        before = len(program.server.requests)
        while process.poll() is None and len(program.server.requests) < before + 3:
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.2))
        process.kill()
        program.ended(process)
    program.run(*arguments)
    time.sleep(0.3)
    # The server charges for what it answered to a dead client, too.
    assert CHARGED * len(program.server.requests) <= 5
    charged = [record for record in read_jsonl(program.out / "journal.jsonl") if "sent" in record]
    assert len(charged) == len(program.server.requests), "each is noted before it is sent"


@pytest.mark.parametrize(
    "fault",
    [server_says.error(401, "no"), server_says.error(500, "no"), server_says.error(400, "no")],
    ids=["wrong key", "broken", "refused"],
)
def test_what_the_server_never_answered_is_not_counted_as_spent(program: Program, fault: Reply) -> None:
    program.server.reply = fault
    arguments = (PRICED, "teacher.max_cost=10", "teacher.concurrency=4", "teacher.max_attempts=1")
    assert program.run(*arguments).status == 1
    program.server.reply = server_says.answer()
    assert program.run(*arguments).status == 0
    usage = json.loads((program.out / "manifest.json").read_bytes())["usage"]
    assert usage["dollars"] == pytest.approx(CHARGED * (COUNT - 1))


def test_server_counting_more_tokens_keeps_the_budget(here: Callable[..., Path], server: ChatServer) -> None:
    # A prompt of its own ahead of ours, say.
    server.reply = server_says.answer(usage={"prompt_tokens": 900, "completion_tokens": 100})
    prices = ("teacher.price={input: 1000.0, output: 1000.0}", "teacher.max_cost=8", "teacher.concurrency=8")
    with pytest.raises(UserError, match="max_cost=8"):
        here([f"line {number}\n" for number in range(40)], *prices, "teacher.max_new_tokens=100")
    assert 3 <= len(server.requests) <= 8, "a dollar each"


def test_work_that_a_gateway_gave_up_waiting_for_counts_as_spent(here: Callable[..., Path], server: ChatServer) -> None:
    server.script(976, server_says.error(504, "gateway timeout"))
    prices = ("teacher.price={input: 0.0, output: 1000.0}", "teacher.max_cost=50", "teacher.max_new_tokens=100")
    out = here(["a\n", "b\n"], *prices)
    usage = json.loads((out / "manifest.json").read_bytes())["usage"]
    assert usage["completion_tokens"] == 100 + 5 + 5


def test_refusals_that_wait_for_an_answer_hold_no_money(here: Callable[..., Path], server: ChatServer) -> None:
    for index in range(3):
        server.script(976 + index, server_says.error(400, "no"))
    prices = ("teacher.price={input: 0.0, output: 1000.0}", "teacher.max_cost=0.25", "teacher.max_new_tokens=100")
    assert len(read_jsonl(here([f"line {number}\n" for number in range(6)], *prices) / "rows.jsonl")) == 3


def test_run_without_price_keeps_former_spending(here: Callable[..., Path], server: ChatServer) -> None:
    server.script(976, server_says.reset_in_body)
    documents, limits = ["a\n", "b\n"], ("teacher.max_new_tokens=100", "teacher.max_attempts=1")
    price = "teacher.price={input: 0.0, output: 1000.0}"
    with pytest.raises(UserError, match="row 0"):
        here(documents, *limits, price)
    out = here(documents, *limits, "teacher.prices={}")
    assert json.loads((out / "manifest.json").read_bytes())["usage"]["completion_tokens"] == 100 + 5 + 5


def test_what_a_signal_left_unsent_is_not_counted_as_spent(program: Program, undisturbed: Program) -> None:
    program.server.script(976, server_says.error(429, Retry_After="900"))
    process = program.start(PRICED, "teacher.max_cost=1000", "teacher.concurrency=2")
    program.await_count(process, program.server.finished.__len__, 1)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    assert program.ended(process).status == 143
    records = read_jsonl(program.out / "journal.jsonl")
    sent: set[Any] = {record["index"] for record in records if "sent" in record}
    settled = {record["index"] for record in records if "sent" not in record}
    assert sent <= settled
    assert program.run(PRICED, "teacher.max_cost=1000").status == 0
    assert program.result() == undisturbed.result()


def test_the_key_is_not_in_what_a_dry_run_prints(program: Program) -> None:
    assert SECRET not in program.run("dry_run=true").stdout


def test_without_a_price_nothing_is_said_of_dollars(undisturbed: Program) -> None:
    manifest = json.loads((Path(undisturbed.out) / "manifest.json").read_bytes())
    assert manifest["usage"]["completion_tokens"] == 5 * (COUNT - 1)
