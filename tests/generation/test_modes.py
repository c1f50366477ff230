"""One plan, three ways: the rows are the same whether they are asked for live, by batches or by files."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.batch_server import BatchServer, batch_server, end_half_done
from tests.chat_server import completion
from tests.generation.runs import COUNT, Program
from tests.support import read_jsonl, write_jsonl


@pytest.fixture
def batches() -> Iterator[BatchServer]:
    with batch_server() as running:
        yield running


def answered(requests: Path) -> list[dict]:
    """What vLLM's batch runner writes for a request file, backwards."""
    lines = read_jsonl(requests)
    return [
        {
            "id": f"vllm-{number}",
            "custom_id": line["custom_id"],
            "response": {"status_code": 200, "request_id": "r", "body": completion(line["body"])},
            "error": None,
        }
        for number, line in reversed(list(enumerate(lines)))
    ]


def test_by_batches_the_rows_are_those_of_a_live_run(
    program: Program, undisturbed: Program, batches: BatchServer
) -> None:
    by_batches = replace(program, server=batches)
    ended = by_batches.run("teacher.mode=batch", "teacher.batch.poll_seconds=0.05", "teacher.batch.requests=10")
    assert ended.status == 0, ended.stderr
    assert by_batches.result() == undisturbed.result()
    again = by_batches.run("teacher.mode=live")
    assert "is complete" in again.stdout, "how it was asked is no part of what it is"


def test_expired_half_of_a_batch_is_batched_again(program: Program, undisturbed: Program, batches: BatchServer) -> None:
    batches.fates.append(end_half_done("expired"))
    by_batches = replace(program, server=batches)
    ended = by_batches.run("teacher.mode=batch", "teacher.batch.poll_seconds=0.05")
    assert ended.status == 0, ended.stderr
    assert by_batches.result() == undisturbed.result()


def test_by_files_the_rows_are_those_of_a_live_run(program: Program, undisturbed: Program) -> None:
    waiting = program.run("teacher.mode=file", OPENAI_API_KEY="")
    assert (waiting.status, waiting.stderr) == (0, "")
    assert "vllm run-batch" in waiting.stdout
    assert not (program.out / "manifest.json").exists()
    requests = program.out / "requests.jsonl"
    results = answered(requests)
    assert len(results) == COUNT - 1

    # Somebody stopped the runner: half of the results are there, the last line torn.
    write_jsonl(program.out / "results.jsonl", results[:20])
    with open(program.out / "results.jsonl", "ab") as file:
        file.write(json.dumps(results[20]).encode()[:50])
    assert program.run("teacher.mode=file").status == 0
    assert len(read_jsonl(requests)) == COUNT - 1 - 20

    write_jsonl(program.out / "results.jsonl", answered(requests))
    ended = program.run("teacher.mode=file")
    assert ended.status == 0, ended.stderr
    assert program.result() == undisturbed.result()
    assert program.server.requests == []


def test_batch_runner_results_survive_another_config(program: Program) -> None:
    program.run("teacher.mode=file")
    write_jsonl(program.out / "results.jsonl", answered(program.out / "requests.jsonl"))
    ended = program.run("teacher.mode=file", "teacher.temperature=0.5")
    assert ended.status == 1
    assert "teacher.temperature was 0.0, is 0.5" in ended.only_line
    assert (program.out / "results.jsonl").exists()


def test_state_of_a_fully_journaled_batch_is_removed(program: Program, batches: BatchServer) -> None:
    # As after a kill between the last answer and the end of the note.
    batches.holding = True
    by_batches = replace(program, server=batches)
    process = by_batches.start("teacher.mode=batch", "teacher.batch.poll_seconds=0.05")
    note = program.out / "batch-0001.json"
    by_batches.await_count(process, lambda: note.exists() and b"batch_1" in note.read_bytes(), 1)
    process.kill()
    by_batches.ended(process)
    kept = {path: path.read_bytes() for path in (note, note.with_suffix(".jsonl"))}
    batches.holding = False
    assert by_batches.run("teacher.mode=batch", "teacher.batch.poll_seconds=0.05").status == 0
    result = program.result()
    (program.out / "manifest.json").rename(program.out / "started.json")
    for path, content in kept.items():
        path.write_bytes(content)
    submitted = len(batches.batches)
    assert by_batches.run("teacher.mode=batch", "teacher.batch.poll_seconds=0.05").status == 0
    assert program.result() == result
    assert len(batches.batches) == submitted
    assert not list(program.out.glob("batch-*"))


def test_rows_in_batches_are_not_paid_again_live(program: Program, batches: BatchServer) -> None:
    batches.holding = True
    by_batches = replace(program, server=batches)
    process = by_batches.start("teacher.mode=batch", "teacher.batch.poll_seconds=0.05")
    by_batches.await_count(process, lambda: len(batches.batches), 1)
    process.kill()
    by_batches.ended(process)
    ended = program.run("teacher.mode=live")
    assert ended.status == 1
    assert "batches of this run are in progress" in ended.only_line
    assert program.server.requests == []
