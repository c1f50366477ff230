"""Ask any OpenAI-compatible server a few prompts with the engine alone: retries, rate limits and a journal.

Run it from the project's folder against a server without an API key, such as a local vLLM:

    PYTHONPATH=. python examples/engine_alone.py http://localhost:8000/v1 MODEL journal.jsonl "Prompt one" "Prompt two"

For a server with an API key, export the key as OPENAI_API_KEY. The same command asks only for the answers that
journal.jsonl lacks: row numbers follow from the order of the prompts, so use a new journal for other prompts.
"""

import asyncio
import os
import sys
from pathlib import Path

from magicoder.teacher.address import resolve_address
from magicoder.teacher.api_key import Key
from magicoder.teacher.budget import Budget
from magicoder.teacher.circuit_breaker import CircuitBreaker
from magicoder.teacher.client import Client
from magicoder.teacher.endpoint import Endpoint
from magicoder.teacher.engine import Engine
from magicoder.teacher.journal import Journal
from magicoder.teacher.rate_limits import RateLimits
from magicoder.teacher.records import Answered
from magicoder.teacher.request_shape import RequestShape, Shaper
from magicoder.teacher.requests import Request

CONCURRENCY, MAX_TOKENS, MAX_ATTEMPTS, TIMEOUT = 4, 256, 5, 120.0


def build_request(index: int, model: str, prompt: str) -> Request:
    """Build the chat completion request of one prompt; its index is also its seed."""
    messages = [{"role": "user", "content": prompt}]
    body = {"model": model, "messages": messages, "seed": index, "max_tokens": MAX_TOKENS}
    # A token is at least one byte, so the bytes bound the tokens without a tokenizer.
    return Request(index, body, prompt_tokens=len(prompt.encode()) + 8, max_tokens=MAX_TOKENS)


def ask_prompts(base_url: str, model: str, path: Path, prompts: list[str]) -> list[str]:
    """Return a line for each prompt: the answer, or the record of a request without one."""
    key = Key(None) if "OPENAI_API_KEY" not in os.environ else Key("OPENAI_API_KEY", os.environ["OPENAI_API_KEY"])
    client, limits = Client(resolve_address(base_url), key, TIMEOUT), RateLimits(CONCURRENCY, None, None, TIMEOUT)
    endpoint = Endpoint(client, limits, Shaper(RequestShape()))
    with Journal(path, range(len(prompts))) as journal:
        budget = Budget(price=None, max_cost=None, totals=lambda: [journal.totals])
        breaker = CircuitBreaker(answered=False, reject_failed_rows=False, failed_before=frozenset(journal.left))
        engine = Engine([endpoint], budget, breaker, journal, MAX_ATTEMPTS, on_record=lambda record: None)
        missing = (build_request(index, model, text) for index, text in enumerate(prompts) if index not in journal)
        stop = asyncio.run(engine.send_all(missing))
        if stop:
            raise SystemExit("interrupted: every answer is in the journal; run the same command to continue")
        records = [journal[index] for index in range(len(prompts))]
        return [str(record.content) if isinstance(record, Answered) else str(record) for record in records]


if __name__ == "__main__":
    print("\n".join(ask_prompts(sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4:])))
