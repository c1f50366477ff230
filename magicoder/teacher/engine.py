"""Many requests at once, a bounded number in flight, each answer in the journal before anything else happens to it."""

import asyncio
import sys
from collections.abc import Callable, Iterable
from typing import Any

from magicoder.errors import UserError
from magicoder.interrupt import StopRequest, stop_request
from magicoder.teacher.client import Client, Refused, Stopped, Unanswered
from magicoder.teacher.journal import Journal


async def answer_all(
    client: Client,
    requests: Iterable[tuple[int, dict[str, Any]]],
    journal: Journal,
    concurrency: int,
    on_answer: Callable[[], None],
) -> StopRequest:
    """Send every request and journal what comes back, in any order.

    requests: (index, body), taken one by one as places become free, so memory does not grow with their number.
    on_answer: called after each journalled answer.
    Returns the stop request: true if a signal ended the work early, after the requests in flight were answered.
    Errors: UserError, Unanswered or OSError, likewise only after what was in flight, and so paid for, is in the journal.
    """
    stream = iter(requests)
    failures: list[Exception] = []

    async def work() -> None:
        while not client.stopping and (request := next(stream, None)) is not None:
            try:
                journal.append(await record(client, *request))
                on_answer()
            except Stopped:
                return
            except (UserError, Unanswered, OSError) as failure:
                failures.append(failure)
                client.stop()

    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        print("finishing the requests in flight; Ctrl-C again to drop them", file=sys.stderr)
        loop.call_soon_threadsafe(client.stop)  # a signal arrives in the middle of anything: the loop must do it

    with stop_request(on_signal) as stop:
        try:
            await asyncio.gather(*(work() for _ in range(concurrency)))
        finally:
            await client.close()
    if failures:
        raise failures[0]
    return stop


async def record(client: Client, index: int, body: dict[str, Any]) -> dict[str, Any]:
    """What the journal keeps of one request: the server's answer as it came, or that it refused to give one."""
    try:
        answer = await client.ask(body)
    except Refused as refusal:
        return {"index": index, "refused": str(refusal)}
    return {"index": index, "attempts": answer.attempts, "seconds": answer.seconds, "answer": answer.body}
