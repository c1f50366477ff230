"""What a run would ask and cost, told without asking."""

from collections.abc import Iterable
from pathlib import Path

from magicoder.config import GenerateConfig
from magicoder.runtime.text import encodable
from magicoder.teacher.budget import cost
from magicoder.teacher.requests import PromptTooLong, Request

PROMPTS_SHOWN = 3


def announce(settings: GenerateConfig, planned: Iterable[tuple[int, Request | PromptTooLong]]) -> None:
    """Print rows, tokens, cost from and to, time at the given limits, and the first prompts in full."""
    teacher = settings.teacher
    rows = no_room = prompt_tokens = most_tokens = 0
    shown: list[Request] = []
    for _, request in planned:
        rows += 1
        if isinstance(request, PromptTooLong):
            no_room += 1
            continue
        prompt_tokens += request.prompt_tokens
        most_tokens += request.max_tokens
        shown += [request] if len(shown) < PROMPTS_SHOWN else []
    for request in shown:
        print(f"--- row {request.index} ---")
        for message in request.body["messages"]:
            print(f"[{message['role']}]\n{encodable(message['content'])}")
    print("---")
    evolve = settings.data.generate.evolve
    if evolve is not None:
        print(f"the first of {2 * evolve.rounds} passes; what the others ask depends on its answers")
    left_out = f", {no_room} of them too long to be asked" if no_room else ""
    wanted = settings.data.generate.max_new_data
    fewer = f" (there are no more; {wanted:,} are asked for)" if rows < wanted else ""
    print(f"rows: {rows:,}{fewer}{left_out}")
    print(f"tokens: {prompt_tokens:,} of prompts, up to {most_tokens:,} of answers")
    price = teacher.known_price
    part = teacher.batch.price if teacher.mode == "batch" else 1.0
    if price is None:
        print(f"cost: the price of {teacher.model} is not known; teacher.price={{input: 1.0, output: 2.0}} tells it")
    else:
        least, most = (part * cost(price, prompt_tokens, tokens) for tokens in (0, most_tokens))
        print(f"cost: ${least:,.2f} for the prompts, up to ${most:,.2f} if every answer is as long as it may be")
    print(f"time: {duration(settings, rows - no_room, prompt_tokens + most_tokens)}")
    if any(Path(settings.out).glob("*journal*.jsonl")):
        print(f"all this is of a run from the beginning; {settings.out} holds answers, which are not asked for again")
    print("nothing was asked: dry_run=true")


def duration(settings: GenerateConfig, requests: int, tokens: int) -> str:
    """How long the given limits make it last at least; they let as much as they allow in a minute go at once."""
    teacher = settings.teacher
    minutes = [
        amount / rate - 1
        for amount, rate in ((requests, teacher.requests_per_minute), (tokens, teacher.tokens_per_minute))
        if rate is not None
    ]
    if not minutes:
        return "no limits are given (teacher.requests_per_minute, teacher.tokens_per_minute)"
    return f"at least {max(0.0, *minutes):,.1f} minutes at the given limits"
