"""Rates: as fast as a server allows, with hardly a request turned away."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import chat_server as server_says
from tests.chat_server import Body, Handler, chat_server, completion
from tests.generation.runs import Program
from tests.support import read_jsonl

CAP, ROWS = 600, 900


class Capped:
    """A server that takes so many requests a minute, and says so as OpenAI's does."""

    def __init__(self, *, refills: bool, tells: bool) -> None:
        """refills: whether they come back steadily or all at once when the minute is over. tells: by headers."""
        self.refills, self.tells = refills, tells
        self.turned_away = 0
        self._left, self._since = float(CAP), time.monotonic()
        self._lock = threading.Lock()

    def __call__(self, handler: Handler, body: Body) -> None:
        with self._lock:
            left, reset = self._count()
            taken = left >= 1
            self._left -= taken
            self.turned_away += not taken
            told = {
                "x-ratelimit-limit-requests": str(CAP),
                "x-ratelimit-remaining-requests": str(int(self._left)),
                "x-ratelimit-reset-requests": f"{reset:.3f}s",
            }
        headers = told if self.tells else {}
        if taken:
            time.sleep(0.05)
            handler.send(200, json.dumps(completion(body)).encode(), headers)
        else:
            wait = max(1, round(1 if self.refills else reset + 0.5))
            server_says.error(429, "slow down", "rate_limit_exceeded", Retry_After=str(wait), **headers)(handler, body)

    def _count(self) -> tuple[float, float]:
        now = time.monotonic()
        if self.refills:
            self._left = min(float(CAP), self._left + (now - self._since) * CAP / 60)
            self._since = now
            return self._left, (CAP - self._left) * 60 / CAP
        if now - self._since >= 60:
            self._left, self._since = float(CAP), now
        return self._left, 60 - (now - self._since)


@dataclass(frozen=True)
class MemoryPlan:
    """How a program comes to know of the cap. ideal: seconds from the first request to the last."""

    refills: bool
    tells: bool
    configured: bool
    ideal: float


STEADY = (ROWS - CAP) * 60 / CAP
WAYS = {
    "headers tell": MemoryPlan(refills=True, tells=True, configured=False, ideal=STEADY),
    "config tells": MemoryPlan(refills=True, tells=False, configured=True, ideal=STEADY),
    "only refusals tell, window of a minute": MemoryPlan(refills=False, tells=False, configured=False, ideal=60.0),
}


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("documents")
    for number in range(ROWS):
        (folder / f"{number:04}.py").write_text(f"value_{number} = {number}\n")
    return folder


@pytest.fixture(scope="module")
def ended(
    tmp_path_factory: pytest.TempPathFactory, documents: Path, vocabulary: Path
) -> Iterator[dict[str, tuple[Program, Capped]]]:
    """A run against each server, all at the same time: they do little but wait."""
    with ExitStack() as stack:
        under_way = {}
        for name, way in WAYS.items():
            server = stack.enter_context(chat_server())
            server.reply = capped = Capped(refills=way.refills, tells=way.tells)
            program = Program(tmp_path_factory.mktemp("capped"), documents, vocabulary, server)
            known = f"teacher.requests_per_minute={CAP if way.configured else 'null'}"
            under_way[name] = program, capped, program.start("teacher.concurrency=32", known)
        for program, _, process in under_way.values():
            assert program.ended(process).status == 0
        yield {name: (program, capped) for name, (program, capped, _) in under_way.items()}


@pytest.mark.long
@pytest.mark.parametrize("name", WAYS)
def test_a_cap_of_600_a_minute_loses_no_row_and_little_time(
    ended: dict[str, tuple[Program, Capped]], name: str
) -> None:
    program, capped = ended[name]
    assert len(read_jsonl(program.out / "rows.jsonl")) == ROWS
    assert capped.turned_away <= 0.05 * ROWS
    times = [request.time for request in program.server.requests]
    assert times[-1] - times[0] <= 1.1 * WAYS[name].ideal
