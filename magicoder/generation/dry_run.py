"""Show the requests and the cost of a run without sending anything."""

from collections.abc import Iterable
from pathlib import Path

from magicoder.config import GenerateConfig, InstructionsConfig, SnippetsConfig
from magicoder.runtime.console import say
from magicoder.runtime.text import make_encodable
from magicoder.teacher.budget import compute_cost
from magicoder.teacher.records import PromptTooLong, Usage
from magicoder.teacher.request_shape import RequestShape
from magicoder.teacher.requests import Request

PROMPTS_SHOWN = 3


def show_plan(settings: GenerateConfig, planned: Iterable[Request | PromptTooLong]) -> None:
    """Print rows, tokens, bounds of the cost, time at the given limits, and the first prompts in full."""
    teacher = settings.teacher
    rows = too_long = prompt_tokens = max_tokens = 0
    shown: list[Request] = []
    shape = RequestShape.from_config(teacher.request)
    for request in planned:
        rows += 1
        if isinstance(request, PromptTooLong):
            too_long += 1
            continue
        prompt_tokens += request.prompt_tokens
        max_tokens += request.max_tokens
        shown += [request] if len(shown) < PROMPTS_SHOWN else []
    for request in shown:
        say(f"--- row {request.index} ---")
        for message in shape.apply(request.body)["messages"]:
            say(f"[{message['role']}]\n{make_encodable(message['content'])}")
    say("---")
    seeds = settings.data.generate
    if isinstance(seeds, InstructionsConfig):
        say(f"the first of {2 * seeds.evolve.rounds} passes; the requests of the others depend on its answers")
    skipped = f", {too_long} of them too long to be asked" if too_long else ""
    wanted = seeds.max_new_data * (seeds.samples if isinstance(seeds, SnippetsConfig) else 1)
    fewer = f" (the corpus has no more; max_new_data is {wanted:,})" if rows < wanted else ""
    say(f"rows: {rows:,}{fewer}{skipped}")
    say(f"tokens: {prompt_tokens:,} in prompts, up to {max_tokens:,} in answers")
    price = teacher.known_price
    share = teacher.batch.price if teacher.mode == "batch" else 1.0
    if price is None:
        hint = "teacher.price.input=1 teacher.price.output=2 (dollars for a million tokens)"
        say(f"cost: the price of {teacher.model} is unknown; set {hint}")
    else:
        least, most = (share * compute_cost(price, Usage(prompt_tokens, tokens)) for tokens in (0, max_tokens))
        say(f"cost: ${least:,.2f} for the prompts, up to ${most:,.2f} if every answer is as long as it may be")
    say(f"time: {estimate_duration(settings, rows - too_long, prompt_tokens + max_tokens)}")
    if any(Path(settings.out).glob("*journal*.jsonl")):
        say(f"these numbers are for a fresh run; {settings.out} holds answers already, which are not asked for again")
    say("nothing was asked: dry_run=true")


def estimate_duration(settings: GenerateConfig, requests: int, tokens: int) -> str:
    """Return the least duration under the given limits; a minute's allowance may be used at once."""
    teacher = settings.teacher
    minutes = [
        amount / rate - 1
        for amount, rate in ((requests, teacher.requests_per_minute), (tokens, teacher.tokens_per_minute))
        if rate is not None
    ]
    if not minutes:
        return "no limits are configured (teacher.requests_per_minute, teacher.tokens_per_minute)"
    return f"at least {max(0.0, *minutes):,.1f} minutes at the given limits"
