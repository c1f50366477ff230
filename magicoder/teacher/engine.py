"""Many requests at once, a bounded number in flight, each answer in the journal before anything else happens to it."""

import asyncio
import sys
from collections.abc import Callable, Iterable
from typing import Any

from magicoder.errors import UserError
from magicoder.interrupt import StopRequest, stop_request
from magicoder.teacher.client import Client, Refused, Stopped
from magicoder.teacher.journal import Journal

# So many refusals before the first answer mean that the request is wrong, not the row.
REFUSALS_BEFORE_GIVING_UP = 8


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
    Errors: UserError, Unanswered, or whatever went wrong, likewise only after what was in flight, and paid, is kept.
    """
    stream = iter(requests)
    keeper = Keeper(journal, on_answer)

    async def work() -> None:
        while not client.stopping and (request := next(stream, None)) is not None:
            kept = False
            try:
                keeper.keep(await record(client, *request))
                kept = True
            except Stopped:
                return
            finally:
                if not kept:
                    client.stop()  # whatever went wrong here, the others finish what they have in flight

    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        print("finishing the requests in flight; Ctrl-C again to drop them", file=sys.stderr)
        loop.call_soon_threadsafe(client.stop)  # a signal arrives in the middle of anything: the loop must do it

    with stop_request(on_signal) as stop:
        try:
            endings = await asyncio.gather(*(work() for _ in range(concurrency)), return_exceptions=True)
        finally:
            await client.close()
    for failure in endings:
        if failure is not None:
            raise failure
    if not stop:
        keeper.settle()
    return stop


class Keeper:
    """Journals records; refusals wait for the first answer, which shows that the server takes requests like these."""

    def __init__(self, journal: Journal, on_answer: Callable[[], None]) -> None:
        self._journal, self._on_answer = journal, on_answer
        self._answered = any("answer" in former for former in journal.records())
        self._waiting: list[dict[str, Any]] = []

    def keep(self, record: dict[str, Any]) -> None:
        """Journal a record, or let it wait. Errors: UserError if nothing but refusals comes."""
        self._waiting.append(record)
        self._answered = self._answered or "answer" in record
        if self._answered:
            for waiting in self._waiting:
                self._journal.append(waiting)
                self._on_answer()
            self._waiting.clear()
        elif len(self._waiting) >= REFUSALS_BEFORE_GIVING_UP:
            self.settle()

    def settle(self) -> None:
        """Errors: UserError if refusals still wait: not one request was answered."""
        if self._waiting:
            raise UserError(f"the teacher refuses every request: {self._waiting[0]['refused']}")


async def record(client: Client, index: int, body: dict[str, Any]) -> dict[str, Any]:
    """What the journal keeps of one request: the server's answer as it came, or that it refused to give one."""
    try:
        answer = await client.ask(body)
    except Refused as refusal:
        return {"index": index, "refused": str(refusal)}
    return {"index": index, "attempts": answer.attempts, "seconds": answer.seconds, "answer": answer.body}
