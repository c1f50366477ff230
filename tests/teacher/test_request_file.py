"""Files for a batch runner: what is asked of it, and what is made of its results, whole, partial, torn or foreign."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from magicoder.config import TeacherConfig
from magicoder.runtime.errors import Unfinished, UserError
from magicoder.teacher.circuit_breaker import CircuitBreaker
from magicoder.teacher.journal import Journal
from magicoder.teacher.records import Record, Usage
from magicoder.teacher.request_file import answer_from_file
from magicoder.teacher.request_shape import RequestShape
from magicoder.teacher.requests import Request
from tests.chat_server import completion
from tests.support import read_jsonl, write_jsonl

ROWS = range(5, 11)
NO_DOUBTS = CircuitBreaker(answered=True, reject_failed_rows=False, failed_before=(), at_most=None)
Answer = Callable[[dict], dict]


def request(index: int, max_tokens: int = 100) -> Request:
    messages = [{"role": "user", "content": f"row {index} \u2028 \U0001f600"}]
    return Request(
        index, {"model": "m/n", "messages": messages, "seed": index, "max_tokens": max_tokens}, 20, max_tokens
    )


def run(
    folder: Path,
    results: Path | None = None,
    name: str = "journal",
    max_tokens: int = 100,
    give_up: bool = False,
) -> list[Record]:
    """One session; the records that it shows."""
    teacher = TeacherConfig(
        model="m/n",
        api_key_env=None,
        mode="file",
        results_file=None if results is None else str(results),
        reject_failed_rows=give_up,
    )
    shown: list[Record] = []
    with Journal(folder / f"{name}.jsonl", ROWS) as journal:
        for index, most in journal.cut.items():
            if most < max_tokens:
                journal.reopen(index)
        requests = (request(index, max_tokens) for index in ROWS)
        answered, left = journal.totals.answers > 0, journal.left
        breaker = CircuitBreaker(answered=answered, reject_failed_rows=give_up, failed_before=left, at_most=None)
        answer_from_file(teacher, requests, journal, folder, breaker, shown.append, RequestShape())
    return shown


def records(folder: Path, name: str = "journal") -> dict[int, Record]:
    with Journal(folder / f"{name}.jsonl", ROWS) as journal:
        return {index: journal[index] for index in ROWS if index in journal}


# --- a batch runner: what vLLM's writes, in its forms ----------------------------------------------------------------


def answer(line: dict) -> dict:
    response = {"status_code": 200, "request_id": "vllm-batch-1", "body": completion(line["body"])}
    return {"id": "vllm-1", "custom_id": line["custom_id"], "response": response, "error": None}


def error(status: int, told: object) -> Answer:
    response = {"status_code": status, "request_id": "vllm-batch-1", "body": None}
    return lambda line: {"id": "vllm-1", "custom_id": line["custom_id"], "response": response, "error": told}


def too_long(line: dict) -> dict:
    return error(400, {"error": {"message": "too long", "type": "BadRequestError", "param": None, "code": 400}})(line)


crash = error(400, "EngineCore encountered an issue.")  # a text alone is whatever went wrong within vLLM


def batch_runner(folder: Path, requests: str = "requests.jsonl", **by_row: Answer) -> list[dict]:
    """The results for a request file; `row_N` are made in ways of their own."""
    lines = read_jsonl(folder / requests)
    assert all((line["method"], line["url"]) == ("POST", "/v1/chat/completions") for line in lines)
    return [by_row.get(line["custom_id"].replace("-", "_"), answer)(line) for line in lines]


# --- asking ----------------------------------------------------------------------------------------------------------


def test_run_without_results_writes_requests_and_the_command(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    with pytest.raises(
        Unfinished, match=r"6 requests wait in .*; run\n\n.*\n\nand then the same command again"
    ) as told:
        run(folder)
    line = read_jsonl(folder / "requests.jsonl")[0]
    assert line == {
        "custom_id": "row-5",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": request(5).body,
    }
    command = ["vllm", "run-batch", "-i", f"{folder}/requests.jsonl", "-o", f"{folder}/results.jsonl", "--model", "m/n"]
    assert shlex.split(str(told.value).split("\n\n")[1]) == command


def test_lone_surrogate_does_not_spoil_the_request_file(tmp_path: Path) -> None:
    teacher = TeacherConfig(model="m/n", api_key_env=None, mode="file", results_file=None, reject_failed_rows=False)
    body = {**request(5).body, "messages": [{"role": "user", "content": "half \ud83d of a pair"}]}
    with Journal(tmp_path / "journal.jsonl", ROWS) as journal, pytest.raises(Unfinished):
        answer_from_file(teacher, [Request(5, body, 20, 100)], journal, tmp_path, NO_DOUBTS, print, RequestShape())
    assert read_jsonl(tmp_path / "requests.jsonl")[0]["body"]["messages"][0]["content"] == "half ? of a pair"


def test_results_answer_every_row_and_remove_the_request_file(tmp_path: Path) -> None:
    with pytest.raises(Unfinished):
        run(tmp_path)
    write_jsonl(tmp_path / "results.jsonl", batch_runner(tmp_path)[::-1])
    shown = run(tmp_path)
    known = records(tmp_path)
    assert {index: known[index].answer for index in known} == {index: completion(request(index).body) for index in ROWS}
    assert [record.index for record in shown] == list(ROWS)
    assert not (tmp_path / "requests.jsonl").exists()


def test_results_may_lie_where_the_config_says(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.jsonl"
    with pytest.raises(Unfinished, match=r"-o .*elsewhere\.jsonl"):
        run(tmp_path, elsewhere)
    write_jsonl(elsewhere, batch_runner(tmp_path))
    run(tmp_path, elsewhere)
    assert list(records(tmp_path)) == list(ROWS)


def test_each_pass_has_its_own_files_and_takes_no_other_results(tmp_path: Path) -> None:
    with pytest.raises(Unfinished):
        run(tmp_path)
    with pytest.raises(Unfinished, match=r"requests-second\.jsonl -o .*results-second\.jsonl"):
        run(tmp_path, name="second")
    results = write_jsonl(tmp_path / "results.jsonl", batch_runner(tmp_path))
    with pytest.raises(UserError, match=r"results\.jsonl, line 1: custom_id 'row-5' is not a row of this run"):
        run(tmp_path, results, name="second")
    write_jsonl(tmp_path / "results-second.jsonl", batch_runner(tmp_path, "requests-second.jsonl"))
    run(tmp_path, name="second")
    assert list(records(tmp_path, "second")) == list(ROWS)


# --- partial results -------------------------------------------------------------------------------------------------


def test_one_file_with_the_results_of_all_passes_serves_each(tmp_path: Path) -> None:
    joined = tmp_path / "joined.jsonl"
    lines: list[dict] = []
    for name in ("journal-evolve-1", "journal-answer-1"):
        with pytest.raises(Unfinished):
            run(tmp_path, joined, name)
        lines += batch_runner(tmp_path, f"requests-{name}.jsonl")
        write_jsonl(joined, lines)
        run(tmp_path, joined, name)
        assert set(records(tmp_path, name)) == set(ROWS)


def test_crashed_row_is_rejected_if_the_config_says_so(tmp_path: Path) -> None:
    with pytest.raises(Unfinished):
        run(tmp_path)
    write_jsonl(tmp_path / "results.jsonl", batch_runner(tmp_path, row_7=crash))
    run(tmp_path, give_up=True)
    assert "EngineCore encountered an issue" in records(tmp_path)[7].message
    assert set(records(tmp_path)) == set(ROWS)


def test_whole_results_of_an_unfinished_file_are_taken(tmp_path: Path) -> None:
    with pytest.raises(Unfinished):
        run(tmp_path)
    results = write_jsonl(tmp_path / "results.jsonl", batch_runner(tmp_path)[:3])
    results.write_bytes(results.read_bytes()[:-40])
    with pytest.raises(Unfinished, match="4 requests wait"):
        run(tmp_path)
    assert list(records(tmp_path)) == [5, 6]
    assert [line["custom_id"] for line in read_jsonl(tmp_path / "requests.jsonl")] == [
        "row-7",
        "row-8",
        "row-9",
        "row-10",
    ]
    write_jsonl(results, batch_runner(tmp_path))  # as the runner writes it anew
    assert [record.index for record in run(tmp_path)] == [7, 8, 9, 10]


def test_refused_row_is_journaled_and_crashed_row_asked_again(
    tmp_path: Path,
) -> None:
    with pytest.raises(Unfinished):
        run(tmp_path)
    fell_over = error(500, {"error": {"message": "oops", "code": 500}})
    made = batch_runner(tmp_path, row_5=too_long, row_6=crash, row_7=fell_over)
    write_jsonl(tmp_path / "results.jsonl", made)
    with pytest.raises(Unfinished, match=r"2 requests wait .* \(some failed, the first with: .*EngineCore encountered"):
        run(tmp_path)
    known = records(tmp_path)
    assert list(known) == [5, 8, 9, 10]
    assert "too long" in known[5].message


def test_runner_that_refuses_every_row_loses_no_row(tmp_path: Path) -> None:
    with pytest.raises(Unfinished):
        run(tmp_path)
    asked = (tmp_path / "requests.jsonl").read_bytes()
    write_jsonl(tmp_path / "results.jsonl", [too_long(line) for line in read_jsonl(tmp_path / "requests.jsonl")])
    with pytest.raises(UserError, match=r"the teacher refuses every request: .*too long"):
        run(tmp_path)
    assert records(tmp_path) == {}
    assert (tmp_path / "requests.jsonl").read_bytes() == asked


def test_wrong_model_name_is_reported_and_other_answers_kept(tmp_path: Path) -> None:
    with pytest.raises(Unfinished):
        run(tmp_path)
    no_model = error(404, {"error": {"message": "The model `m/n` does not exist.", "code": 404}})
    write_jsonl(tmp_path / "results.jsonl", batch_runner(tmp_path, row_6=no_model))
    with pytest.raises(UserError, match="HTTP 404: The model `m/n` does not exist"):
        run(tmp_path)
    assert list(records(tmp_path)) == [5, 7, 8, 9, 10]


def test_later_results_of_joined_files_count(tmp_path: Path) -> None:
    with pytest.raises(Unfinished):
        run(tmp_path)
    write_jsonl(tmp_path / "results.jsonl", [*batch_runner(tmp_path, row_6=crash), *batch_runner(tmp_path)])
    run(tmp_path)
    assert list(records(tmp_path)) == list(ROWS)


def test_truncated_answer_is_retried_not_taken_from_old_results(
    tmp_path: Path,
) -> None:
    def cut_at(tokens: int) -> Answer:
        usage = {"prompt_tokens": 7, "completion_tokens": tokens}

        def cut(line: dict) -> dict:
            whole = answer(line)
            return {
                **whole,
                "response": {
                    **whole["response"],
                    "body": completion(line["body"], finish_reason="length", usage=usage),
                },
            }

        return cut

    with pytest.raises(Unfinished):
        run(tmp_path)
    write_jsonl(tmp_path / "results.jsonl", batch_runner(tmp_path, row_6=cut_at(100)))
    run(tmp_path)
    with pytest.raises(Unfinished, match="1 requests wait"):
        run(tmp_path, max_tokens=300)
    write_jsonl(tmp_path / "results.jsonl", batch_runner(tmp_path, row_6=cut_at(300)))
    run(tmp_path, max_tokens=300)
    assert records(tmp_path)[6].usage == Usage(7, 300)


# --- files that are something else -----------------------------------------------------------------------------------


@pytest.mark.parametrize("custom_id", ["row-4", "row-11", "row-", "row-x", "request-1", None, 5, "row-" + "9" * 5000])
def test_results_of_another_run_are_refused_by_their_line(custom_id: object, tmp_path: Path) -> None:
    with pytest.raises(Unfinished):
        run(tmp_path)
    made = batch_runner(tmp_path)
    write_jsonl(tmp_path / "results.jsonl", [made[0], {**made[1], "custom_id": custom_id}])
    with pytest.raises(UserError, match=r"results\.jsonl, line 2: custom_id .* is not a row of this run"):
        run(tmp_path)
    assert records(tmp_path) == {}


@pytest.mark.parametrize("line", [b"[]", b"{}", b"torn {", b"[" * 100_000, b'"row-5"'])
def test_what_is_no_result_is_named_by_its_line(line: bytes, tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").write_bytes(b"\n" + line + b"\n" + json.dumps({"custom_id": "row-5"}).encode())
    with pytest.raises(UserError, match=r"results\.jsonl, line 2: is not a result of a batch runner"):
        run(tmp_path)


@pytest.mark.parametrize(
    "response",
    [
        None,
        "text",
        {},
        {"status_code": 0, "body": ""},
        {"status_code": "200", "body": {}},
        {"status_code": 200, "body": None},
        {"status_code": 200, "body": {"choices": []}},
        {"status_code": 429, "body": {"error": {"message": "slow down"}}},
    ],
)
def test_a_result_without_an_answer_leaves_its_row_to_be_asked(response: object, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "results.jsonl", [{"custom_id": "row-5", "response": response}])
    with pytest.raises(Unfinished, match=r"6 requests wait"):
        run(tmp_path)


def test_where_nothing_is_left_to_ask_no_results_are_read(tmp_path: Path) -> None:
    with pytest.raises(Unfinished):
        run(tmp_path)
    write_jsonl(tmp_path / "results.jsonl", batch_runner(tmp_path))
    run(tmp_path)
    (tmp_path / "results.jsonl").write_bytes(b"of another pass\n")
    assert run(tmp_path) == []
