"""Killed, stopped or out of disk: nothing lost, nothing paid twice."""

import random
import resource
import signal
import time
from dataclasses import replace

import pytest

from tests import chat_server as server_says
from tests.generation.runs import COUNT, SEED, Program
from tests.support import read_jsonl


def test_killed_anywhere_same_command_same_result(program: Program, undisturbed: Program) -> None:
    chance = random.Random(20240101)
    server, in_flight = program.server, 4
    server.reply = server_says.slow(0.2)
    kept: set[int] = set()
    for requests in (0, 1, chance.randint(3, 6), chance.randint(3, 6), chance.randint(3, 6)):
        before = len(server.requests)
        process = program.start(f"teacher.concurrency={in_flight}")
        program.await_count(process, server.requests.__len__, before + requests)
        time.sleep(chance.uniform(0, 0.1) if requests else chance.uniform(0.3, 1.0))
        process.kill()
        assert program.ended(process).status == -signal.SIGKILL
        time.sleep(0.1)  # until the last request of the dead has been read
        asked = {request.seed - SEED for request in server.requests[before:]}
        assert not asked & kept, "what is in the journal is not asked again"
        kept = program.journalled()
        assert len(asked - kept) <= in_flight

    # As after a power cut, the last record did not get to the disk whole.
    journal = program.out / "journal.jsonl"
    last_record = journal.read_bytes().splitlines(keepends=True)[-1]
    journal.write_bytes(journal.read_bytes()[: -chance.randint(1, len(last_record) - 1)])
    whole_part = journal.read_bytes().rpartition(b"\n")[0] + b"\n"
    kept = program.journalled()
    before, finished = len(server.requests), len(server.finished)
    process = program.start(f"teacher.concurrency={in_flight}")
    program.await_count(process, server.finished.__len__, finished + COUNT - 1 - len(kept))
    time.sleep(chance.uniform(0, 0.05))  # while the rows are written
    process.kill()
    program.ended(process)
    assert program.run(f"teacher.concurrency={in_flight}").status == 0
    assert program.result() == undisturbed.result()
    assert not {request.seed - SEED for request in server.requests[before:]} & kept
    assert journal.read_bytes().startswith(whole_part), "the journal is repaired at its end and otherwise left alone"
    assert read_jsonl(program.out / "snippets.jsonl") == read_jsonl(undisturbed.out / "snippets.jsonl")


@pytest.mark.long
def test_twenty_kills_lose_no_answer(
    program: Program,
) -> None:
    chance = random.Random(20)
    program = replace(program, code=program.place / "code")
    program.code.mkdir()
    for number in range(200):
        (program.code / f"{number:03}.py").write_text(f"value_{number} = {number}\n")
    server, in_flight = program.server, 8
    for index in range(200):
        server.script(SEED + index, *(server_says.slow(chance.uniform(0.1, 0.5)) for _ in range(20)))
    kept: set[int] = set()
    for _ in range(20):
        before = len(server.requests)
        process = program.start(f"teacher.concurrency={in_flight}")
        program.await_count(process, server.requests.__len__, before + 1)
        time.sleep(chance.uniform(0, 0.5))
        process.kill()
        assert program.ended(process).status == -signal.SIGKILL
        time.sleep(0.1)  # until the last request of the dead has been read
        asked = {request.seed - SEED for request in server.requests[before:]}
        assert not asked & kept, "what is in the journal is not asked again"
        assert kept <= program.journalled(), "what was in the journal stays there"
        kept = program.journalled()
        assert len(asked - kept) <= in_flight
    assert len(kept) < 200
    assert program.run().status == 0
    result = program.result()
    assert program.run("overwrite=true").status == 0
    assert program.result() == result


def test_signal_lets_requests_in_flight_finish(program: Program, undisturbed: Program) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        before = len(program.server.requests)
        program.server.reply = server_says.slow(0.6)
        process = program.start("teacher.concurrency=3")
        # Three are answered, more are in flight.
        program.await_count(process, program.server.requests.__len__, before + 5)
        process.send_signal(number)
        ended = program.ended(process)
        assert ended.status == 128 + number
        assert ended.stderr.splitlines()[-1].startswith(f"stopped by {number.name}")
        assert {SEED + index for index in program.journalled()} == set(program.server.counts())
        assert 5 <= len(program.server.requests) - before <= 7

    program.server.reply = server_says.answer()
    assert program.run("teacher.concurrency=3").status == 0
    assert program.result() == undisturbed.result()
    assert set(program.server.counts().values()) == {1}


def test_a_signal_does_not_wait_for_a_retry_that_is_far_off(program: Program) -> None:
    program.server.script(SEED + 3, server_says.error(429, Retry_After="900"))
    # It is shared by all: the server takes nothing at present.
    process = program.start("teacher.concurrency=2")
    program.await_count(process, program.server.finished.__len__, 4)
    process.send_signal(signal.SIGTERM)
    asked_to_stop = time.monotonic()
    ended = program.ended(process)
    assert ended.status == 143
    assert time.monotonic() - asked_to_stop < 20
    assert program.journalled() == {request.seed - SEED for request in program.server.requests} - {3}


def test_a_second_interrupt_drops_a_request_that_hangs(program: Program) -> None:
    program.server.script(SEED + 3, server_says.hang)
    process = program.start("teacher.concurrency=2", "teacher.timeout=600")
    program.await_count(process, lambda: len(program.journalled()), COUNT - 2)
    process.send_signal(signal.SIGINT)
    assert "again" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    asked_to_stop = time.monotonic()
    ended = program.ended(process)
    assert ended.status == 130
    assert time.monotonic() - asked_to_stop < 20


def test_full_disk_is_one_line_and_the_run_continues(program: Program, undisturbed: Program) -> None:
    program.server.reply = server_says.answer(padding="p" * 20_000)
    # One at a time: records of several requests are written, and lost to a full disk, together.
    process = program.start("teacher.concurrency=1")
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (200_000, 200_000))  # no file gets larger
    ended = program.ended(process)
    assert ended.status == 1
    assert "journal.jsonl" in ended.only_line
    kept = program.journalled()
    assert len(kept) == 9
    before = len(program.server.requests)

    assert program.run("teacher.concurrency=3").status == 0
    assert program.result() == undisturbed.result()
    assert not {request.seed - SEED for request in program.server.requests[before:]} & kept
