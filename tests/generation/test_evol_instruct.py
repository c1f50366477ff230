"""Evol-Instruct against a real server of chat completions: what grows, what is eliminated, nothing paid twice."""

import gzip
import hashlib
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest

from magicoder.config import GenerateConfig, StageConfig, bounds
from magicoder.generation.evol_instruct import EvolInstruct
from magicoder.runtime.errors import Interrupted, UserError
from magicoder.stages import generate, preprocess
from magicoder.stages.generate import has_answers
from magicoder.storage.artifact import REJECTED, ROWS, Artifact
from magicoder.teacher.records import PromptTooLong
from magicoder.teacher.requests import Request
from magicoder.teacher.session import TeacherSession
from tests.chat_server import Body, ChatServer, Handler, answer, chat_server, error
from tests.support import read_jsonl, write_jsonl

SEED = 976
STARTING = [f"Write a function that sorts {number} {{instruction}} lists." for number in range(12)]
ORDER = numpy.random.default_rng(SEED).permutation(len(STARTING)).tolist()
Settings = Callable[..., StageConfig]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServer]:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-a-test")
    with chat_server() as running:
        running.reply = answer_well
        yield running


@pytest.fixture
def configured(settings: Settings, tmp_path: Path, server: ChatServer) -> Callable[..., GenerateConfig]:
    """configured("KEY=VALUE"): the settings of a run that grows STARTING."""
    write_jsonl(tmp_path / "in.jsonl", [{"instruction": text, "response": "-"} for text in STARTING])

    def chosen(*more: str) -> GenerateConfig:
        made = settings(
            *("stage=generate", "data/generate=evol_instruct", f"out={tmp_path}/made"),
            *(f"data.generate.evolve.instruction_files=[{tmp_path}/in.jsonl]", f"teacher.base_url={server.base_url}"),
            *more,
        )
        assert isinstance(made, GenerateConfig)
        return made

    return chosen


def count_tokens(text: str) -> int:
    return len(text.split())


def ask_again(settings: GenerateConfig, session: TeacherSession) -> None:
    """Ask in the directory of a former run, and derive nothing."""
    evolution = EvolInstruct(settings, Path(settings.out), count_tokens)
    evolution.open(session)
    evolution.ask(session)


def grow(chosen: GenerateConfig) -> dict[str, Any]:
    """Run it all as the stage does; the manifest."""
    with Artifact(chosen, {}, has_progress=has_answers) as artifact:
        making = EvolInstruct(chosen, artifact.directory, count_tokens)
        with TeacherSession(chosen, artifact.directory) as session:
            making.open(session)
            making.ask(session)
            counts = making.write(artifact).counts
        artifact.finish([ROWS, REJECTED], counts)
    return json.loads(Path(chosen.out, "manifest.json").read_text())


def evolves(body: Body) -> bool:
    """Whether a request asks for a harder instruction, and not for an answer to one."""
    return "[Starting Task]" in body["messages"][-1]["content"]


def harder(body: Body) -> str:
    """What the server makes of an instruction: another text for each request."""
    key = hashlib.sha256(body["messages"][-1]["content"].encode()).hexdigest()
    return f"Task {key[:12]}: merge {body['seed']} sorted streams, {key[12:24]} at a time, with little memory."


def answer_well(handler: Handler, body: Body) -> None:
    content = harder(body) if evolves(body) else f"Solution of {body['messages'][-1]['content'][:17]}"
    answer(content=content)(handler, body)


def contents(chosen: GenerateConfig) -> dict[str, bytes]:
    return {name: Path(chosen.out, name).read_bytes() for name in (ROWS, REJECTED)}


# --- what comes out --------------------------------------------------------------------------------------------------


def test_every_instruction_becomes_harder_and_is_answered(
    configured: Callable[..., GenerateConfig], server: ChatServer
) -> None:
    manifest = grow(chosen := configured())
    assert manifest["counts"] == {"in": 12, "out": 12, "rejected": 0, "instructions": 12, "blank_instructions": 0}
    rows = read_jsonl(Path(chosen.out, ROWS))
    assert [row["seed"] for row in rows] == [STARTING[place] for place in ORDER]
    assert [row["index"] for row in rows] == list(range(12))
    for row in rows:
        assert list(row) == ["index", "round", "operation", "seed", "instruction", "output"]
        assert row["output"] == f"Solution of {row['instruction'][:17]}"
    assert len(server.requests) == 24


def test_prompts_of_both_passes(configured: Callable[..., GenerateConfig], server: ChatServer) -> None:
    example = "prompt.examples=[{user: Make it harder., assistant: It is harder.}]"
    grow(chosen := configured("data.generate.max_new_data=1", example))
    evolve, solve = (request.body for request in server.requests)
    (row,) = read_jsonl(Path(chosen.out, ROWS))
    operation = chosen.prompt.operations[row["operation"]]
    wanted = chosen.prompt.user.replace("{operation}", operation)
    head, _, tail = wanted.partition("{instruction}")
    assert [message["role"] for message in evolve["messages"]] == ["system", "user", "assistant", "user"]
    assert evolve["messages"][-1]["content"] == head + row["seed"] + tail
    assert solve["messages"] == [
        {"role": "system", "content": chosen.prompt.system},
        {"role": "user", "content": row["instruction"]},
    ]


def test_next_round_uses_the_last_result_and_another_operation(configured: Callable[..., GenerateConfig]) -> None:
    grow(chosen := configured("data.generate.evolve.rounds=3"))
    rows = read_jsonl(Path(chosen.out, ROWS))
    assert [(row["index"], row["round"]) for row in rows] == [
        (index, turn) for index in range(12) for turn in (1, 2, 3)
    ]
    for first, second, third in zip(rows[::3], rows[1::3], rows[2::3], strict=True):
        assert [second["seed"], third["seed"]] == [first["instruction"], second["instruction"]]
        assert len({first["operation"], second["operation"], third["operation"]}) == 3


def test_partial_run_equals_its_part_of_the_whole(configured: Callable[..., GenerateConfig]) -> None:
    grow(whole := configured())
    part = configured(
        "data.generate.seed_code_start_index=5", "data.generate.max_new_data=3", "out=" + whole.out + "-5"
    )
    grow(part)
    assert read_jsonl(Path(part.out, ROWS)) == read_jsonl(Path(whole.out, ROWS))[5:8]


def test_preprocess_takes_the_rows_as_evol_instruct(
    configured: Callable[..., GenerateConfig], settings: Settings
) -> None:
    grow(chosen := configured())
    then = settings(
        "stage=preprocess", "data.preprocess.key=evol-instruct", f"data.preprocess.data_files=[{chosen.out}]"
    )
    preprocess.run(then)
    rows = read_jsonl(Path(chosen.out, ROWS))
    pairs = [{"instruction": row["instruction"], "response": row["output"]} for row in rows]
    assert read_jsonl(Path(then.out, ROWS)) == pairs


# --- what is eliminated ----------------------------------------------------------------------------------------------


def at(server: ChatServer, index: int, *replies: Callable[[Handler, Body], None]) -> None:
    server.script(SEED + index, *replies)


def test_failures_are_rejected_and_retry_the_last_good_one(
    configured: Callable[..., GenerateConfig], server: ChatServer
) -> None:
    at(server, 0, answer(content=STARTING[ORDER[0]] + " Now."))
    at(server, 1, answer(content="Sure, the Harder Task: merge them."))
    at(server, 2, answer(content="half of", finish_reason="length"))
    at(server, 3, error(400, "not with me", code="content_filter"))
    at(server, 4, answer(content=STARTING[ORDER[5]].replace(" ", "  ")))
    at(server, 6, answer_well, answer(content="I'm sorry, but I cannot help with that."))
    at(server, 7, answer_well, answer(content="def solve(", finish_reason="length"))
    at(server, 8, answer_well, answer(content=None))
    chosen = configured("data.generate.evolve.rounds=2", "data.generate.evolve.similarity=0.85")
    counts = grow(chosen)["counts"]
    assert (counts["in"], counts["out"], counts["rejected"]) == (24, 16, 8)
    rejected = read_jsonl(Path(chosen.out, REJECTED))
    told = {row["index"]: (row["reason"], row["evidence"]) for row in rejected}
    assert told == {
        0: ("hardly changed", {"similarity": 0.889}),
        1: ("quotes its prompt", "harder task"),
        2: ("finish_reason length", "half of"),
        3: ("refused by the server's content filter", f"{server.base_url}: HTTP 400: not with me"),
        4: ("duplicate instruction", {"index": 5, "round": 0}),
        6: ("answer: unwilling", "I'm sorry, but I cannot help with that."),
        7: ("answer: finish_reason length", "def solve("),
        8: ("answer: no text", None),
    }
    assert all("instruction" in row for row in rejected if row["index"] not in (2, 3))
    again = {row["index"]: row for row in read_jsonl(Path(chosen.out, ROWS)) if row["round"] == 2}
    for row in rejected:
        assert again[row["index"]]["seed"] == row["seed"] == STARTING[ORDER[row["index"]]]
        assert again[row["index"]]["operation"] != row["operation"]


def test_too_long_or_blank_instructions_are_rejected_unasked(
    configured: Callable[..., GenerateConfig], server: ChatServer, tmp_path: Path
) -> None:
    texts = ["Sort it.", " \n", "Sort it. " * 5000]
    write_jsonl(tmp_path / "in.jsonl", [{"instruction": text} for text in texts])
    counts = grow(chosen := configured())["counts"]
    assert counts == {"in": 2, "out": 1, "rejected": 1, "instructions": 2, "blank_instructions": 1}
    long, blank = read_jsonl(Path(chosen.out, REJECTED))
    assert long["reason"] == "prompt leaves no room for an answer"
    assert long["seed"] == texts[2]
    assert blank == {"reason": "blank instruction", "raw_index": 1, "instruction": " \n"}
    assert len(server.requests) == 2


# --- nothing paid twice ----------------------------------------------------------------------------------------------


def test_run_stopped_in_any_pass_continues_to_the_same_rows(
    configured: Callable[..., GenerateConfig], server: ChatServer
) -> None:
    grow(undisturbed := configured("data.generate.evolve.rounds=2"))
    server.requests.clear()
    sessions = 0

    def stop_now_and_then(handler: Handler, body: Body) -> None:
        if len(server.requests) % 10 == 0:
            os.kill(os.getpid(), signal.SIGINT)
        answer_well(handler, body)

    server.reply = stop_now_and_then
    chosen = configured("data.generate.evolve.rounds=2", f"out={undisturbed.out}-again", "teacher.concurrency=3")
    while not Path(chosen.out, "manifest.json").exists():
        sessions += 1
        try:
            grow(chosen)
        except Interrupted:
            continue
    assert sessions > 3
    asked = Counter(json.dumps(request.body) for request in server.requests)
    assert len(asked) == 48
    assert set(asked.values()) == {1}
    assert contents(chosen) == contents(undisturbed)


def test_full_journals_need_neither_requests_nor_key(
    configured: Callable[..., GenerateConfig], server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    grow(chosen := configured())
    before = contents(chosen)
    Path(chosen.out, ROWS).unlink()
    Path(chosen.out, "manifest.json").rename(Path(chosen.out, "started.json"))
    asked = len(server.requests)
    monkeypatch.delenv("OPENAI_API_KEY")
    grow(chosen)
    assert len(server.requests) == asked
    assert contents(chosen) == before


def test_instructions_are_drawn_once(
    configured: Callable[..., GenerateConfig], tmp_path: Path, server: ChatServer
) -> None:
    chosen = configured("teacher.concurrency=1")
    at(server, 5, error(401))
    with pytest.raises(UserError):
        grow(chosen)
    write_jsonl(tmp_path / "in.jsonl", [{"instruction": "Something else."}])
    grow(chosen)
    assert [row["seed"] for row in read_jsonl(Path(chosen.out, ROWS))] == [STARTING[place] for place in ORDER]


def test_cut_answers_are_asked_again_once_the_limit_grows(
    configured: Callable[..., GenerateConfig], server: ChatServer
) -> None:
    def cut_short(handler: Handler, body: Body) -> None:
        is_cut = body["seed"] == SEED + 3 and body["max_tokens"] < 200
        answer(content=harder(body), finish_reason="length" if is_cut else "stop")(handler, body)

    server.reply = cut_short
    grow(chosen := configured("teacher.max_new_tokens=100"))
    assert [row["index"] for row in read_jsonl(Path(chosen.out, REJECTED))] == [3]
    asked = len(server.requests)
    Path(chosen.out, "manifest.json").unlink()
    longer = configured("teacher.max_new_tokens=300")
    with TeacherSession(longer, Path(longer.out)) as session:
        ask_again(longer, session)
    again = [(request.seed, evolves(request.body)) for request in server.requests[asked:]]
    assert again == [(SEED + 3, True), (SEED + 3, False)]


def test_cut_answers_that_later_rounds_build_on_stay(
    configured: Callable[..., GenerateConfig], server: ChatServer
) -> None:
    at(server, 3, answer(content="half", finish_reason="length"))
    rounds = "data.generate.evolve.rounds=2"
    grow(chosen := configured("teacher.max_new_tokens=100", rounds))
    asked = len(server.requests)
    with TeacherSession(chosen, Path(chosen.out)) as session:
        ask_again(configured("teacher.max_new_tokens=300", rounds), session)
    assert len(server.requests) == asked


def test_fewer_rounds_keep_the_cost_and_origin_of_the_others(
    configured: Callable[..., GenerateConfig], server: ChatServer
) -> None:
    at(server, 3, answer(content="half", finish_reason="length"))
    grow(chosen := configured("teacher.max_new_tokens=100", "data.generate.evolve.rounds=2"))
    asked = len(server.requests)
    fewer = configured("teacher.max_new_tokens=300", "data.generate.evolve.rounds=1")
    with TeacherSession(fewer, Path(chosen.out)) as session:
        ask_again(fewer, session)
        assert session.sum_usage()["requests"] == asked
    assert len(server.requests) == asked


def test_passes_that_wait_for_money_finish(configured: Callable[..., GenerateConfig], server: ChatServer) -> None:
    server.reply = lambda handler, body: (time.sleep(0.02), answer_well(handler, body))[1]
    # A request may come to some 3,000 tokens, and comes to 12: of 8 under way most wait for others to be through.
    prices = ("teacher.price={input: 1.0, output: 1.0}", "teacher.max_cost=0.008", "teacher.concurrency=8")
    assert grow(configured(*prices, "data.generate.evolve.rounds=2"))["counts"]["out"] == 24


def test_pass_with_all_rows_refused_for_content_finishes(
    configured: Callable[..., GenerateConfig], server: ChatServer
) -> None:
    def no_solutions(handler: Handler, body: Body) -> None:
        (answer_well if evolves(body) else error(400, "no", "content_filter"))(handler, body)

    server.reply = no_solutions
    with pytest.raises(UserError, match="kept none of 12 rows"):
        grow(chosen := configured())
    reasons = {row["reason"] for row in read_jsonl(Path(chosen.out, REJECTED))}
    assert reasons == {"answer: refused by the server's content filter"}


def test_planned_requests_are_those_of_the_first_pass(
    configured: Callable[..., GenerateConfig], server: ChatServer, tmp_path: Path
) -> None:
    write_jsonl(tmp_path / "in.jsonl", [{"instruction": text} for text in ("Sort it.", "Sort it. " * 5000)])
    chosen = configured("data.generate.evolve.rounds=2")
    scratch = tmp_path / "scratch"
    planned = {request.index: request for request in EvolInstruct(chosen, scratch, count_tokens).plan()}
    assert server.requests == []
    assert list(planned) == [0, 1]
    assert sum(isinstance(request, PromptTooLong) for request in planned.values()) == 1
    grow(chosen)
    assert [each.body for each in planned.values() if isinstance(each, Request)] == [server.requests[0].body]


# --- where instructions come from ------------------------------------------------------------------------------------


def forms(folder: Path) -> dict[str, Path]:
    """The same two instructions in each form that is read."""
    rows = [{"instruction": "Sort it.", "input": "[2, 1]"}, {"instruction": "Find it.", "input": None}]
    lines = b"\n".join(json.dumps(row).encode() for row in rows)
    (folder / "list.json").write_text(json.dumps(rows, indent=1))
    (folder / "lines.json").write_bytes(lines)
    (folder / "lines.jsonl.gz").write_bytes(gzip.compress(lines))
    write_jsonl(folder / "stage" / ROWS, rows)
    (folder / "stage" / "manifest.json").write_text("{}")
    return {name: folder / name for name in ("list.json", "lines.json", "lines.jsonl.gz", "stage")}


@pytest.mark.parametrize("name", ["list.json", "lines.json", "lines.jsonl.gz", "stage"])
def test_any_file_with_instructions_grows(configured: Callable[..., GenerateConfig], tmp_path: Path, name: str) -> None:
    place = forms(tmp_path)[name]
    grow(chosen := configured(f"data.generate.evolve.instruction_files=[{place}]"))
    seeds = {row["seed"] for row in read_jsonl(Path(chosen.out, ROWS))}
    assert seeds == {"Sort it.\nInput: [2, 1]", "Find it."}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('[{"instruction": "a"}, 7]', "entry 2: is not a JSON object"),
        ('[{"instruction": "a"}, {"problem": "b"}]', "entry 2: has no column instruction; its columns are problem"),
        ('{"instruction": "a"}\n{"instruction": 3}', "line 2: column instruction is not text"),
        ('{"instruction": "a", "input": 7}', "line 1: column input is neither text nor null"),
        ("[{", "is not a JSON list"),
        ("", "is empty"),
    ],
)
def test_a_file_without_instructions_is_named_with_the_place(
    configured: Callable[..., GenerateConfig], tmp_path: Path, content: str, problem: str
) -> None:
    (tmp_path / "in.jsonl").write_text(content)
    with pytest.raises(UserError, match=f"in.jsonl.*{problem}"):
        EvolInstruct(configured(), tmp_path / "made", count_tokens)


def test_skipping_all_instructions_is_refused(configured: Callable[..., GenerateConfig], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="seed_code_start_index=12: the files hold only 12 instructions"):
        EvolInstruct(configured("data.generate.seed_code_start_index=12"), tmp_path / "made", count_tokens)
    assert not (tmp_path / "made").exists()


def test_shipped_config_is_valid_and_reads_preprocess_output(settings: Settings, tmp_path: Path) -> None:
    chosen = settings("stage=generate", "data/generate=evol_instruct")
    assert isinstance(chosen, GenerateConfig)
    assert list(bounds.validate(chosen)) == []
    assert chosen.data.generate.evolve is not None
    assert chosen.data.generate.evolve.instruction_files == [f"{tmp_path}/outputs/preprocess/src-instruct"]
    assert sorted(chosen.prompt.operations) == ["broaden", "concretize", "constrain", "deepen", "reason"]


def test_a_run_that_ends_early_writes_what_it_has(
    configured: Callable[..., GenerateConfig], server: ChatServer
) -> None:
    at(server, 3, answer(content="half", finish_reason="length"))
    at(server, 5, answer_well, error(400, "no", "content_filter"))
    generate.run(chosen := configured("teacher.tokenizer=chars/3", "teacher.max_new_tokens=100"))
    kept = read_jsonl(Path(chosen.out, ROWS))
    server.reply = error(401, "revoked")
    with pytest.raises(UserError, match="revoked"):
        generate.run(configured("teacher.tokenizer=chars/3", "teacher.max_new_tokens=300"))
    assert read_jsonl(Path(chosen.out, ROWS)) == kept
    assert "unfinished" in Path(chosen.out, "report.html").read_text()
