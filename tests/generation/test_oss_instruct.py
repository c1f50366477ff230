"""What the teacher is asked about snippets, and what becomes of its answers."""

import json
import random
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiktoken

from magicoder.runtime.errors import UserError
from tests import chat_server as server_says
from tests.chat_server import Body, ChatServer, Handler, Reply, completion
from tests.generation.runs import COUNT, ODD_DOCUMENTS, ORDINARY, SECRET, SEED, SYSTEM, Program
from tests.support import read_jsonl, write_jsonl


def documented_snippets(code: Path) -> list[tuple[int, str]]:
    """The snippets in the order in which they are asked, each with its position in the corpus."""
    from datasets import Dataset

    generator = random.Random(SEED)
    raw_indices, seeds = [], []
    for raw_index, path in enumerate(path for path in sorted(code.glob("*.py")) if path.name != "nul.py"):
        encoding = "cp1252" if path.name == "not_utf8.py" else "utf-8"
        lines = path.read_bytes().decode(encoding).splitlines(keepends=True)
        if lines:
            start = generator.choice(range(len(lines)))
            seeds.append("".join(lines[start : start + generator.randint(1, 15)]))
            raw_indices.append(raw_index)
    order = Dataset.from_dict({"place": range(len(seeds))}).shuffle(seed=SEED)["place"]
    return [(raw_indices[place], seeds[place]) for place in order]


def test_requests_rows_and_rejected_rows_are_the_documented_ones(
    undisturbed: Program, code: Path, vocabulary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(vocabulary))
    encoding = tiktoken.encoding_for_model("gpt-3.5-turbo-1106")
    bodies, rows, left_out = [], [], []
    for index, (raw_index, snippet) in enumerate(documented_snippets(code)):
        user = f"Be inspired: {snippet} - {{braces}} and {{0}} stay."
        max_tokens = min(200, 400 - len(encoding.encode(user, disallowed_special=())) - 10)
        body = {
            "model": "gpt-3.5-turbo-1106",
            "messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": user}],
            "n": 1,
            "temperature": 0,
            "seed": SEED + index,
            "max_tokens": max_tokens,
        }
        start = {"raw_index": raw_index, "index": index, "seed": snippet}
        if max_tokens <= 0:
            left_out.append(start)
            continue
        bodies.append(body)
        sent = completion(body)
        problem = sent["choices"][0]["message"]["content"].split("\n")[3]
        solution = f"```\nsolve({SEED + index})\n```"
        fingerprint_sent = {"openai_fingerprint": sent["system_fingerprint"]}
        rows.append({**start, **fingerprint_sent, "problem": problem, "solution": solution})

    assert {body["max_tokens"] for body in bodies} > {200}, "one prompt is to leave less than a full answer"
    assert [request.body for request in undisturbed.server.requests] == bodies
    made = read_jsonl(undisturbed.out / "rows.jsonl")
    assert all(row.pop("provenance")["path"].endswith(".py") for row in made)
    assert [list(row.items()) for row in made] == [list(row.items()) for row in rows], "the order of the keys counts"

    rejected = read_jsonl(undisturbed.out / "rejected.jsonl")
    assert len(left_out) == 1
    assert [{key: row.get(key) for key in left_out[0]} for row in rejected] == [
        left_out[0],
        {"raw_index": ORDINARY + list(ODD_DOCUMENTS).index("empty.py"), "index": None, "seed": None},
        {"raw_index": None, "index": None, "seed": None},
    ]
    assert ["no room" in rejected[0]["reason"], "empty" in rejected[1]["reason"], rejected[2]["path"]] == [
        *(True, True),
        "nul.py",
    ]


def test_every_rejected_row_carries_its_evidence(undisturbed: Program) -> None:
    rejected = [row for row in read_jsonl(undisturbed.out / "rejected.jsonl") if "index" in row]
    assert [row["reason"] for row in rejected if not row.get("evidence")] == []
    assert len(rejected) == 1


def test_the_key_goes_to_the_server_and_nowhere_else(undisturbed: Program) -> None:
    # That it is in no file and on no stream is checked for every run.
    assert {request.headers["authorization"] for request in undisturbed.server.requests} == {f"Bearer {SECRET}"}


def test_rows_do_not_depend_on_concurrency(program: Program, undisturbed: Program) -> None:
    delays = random.Random(1)
    for index in range(COUNT):
        program.server.script(SEED + index, server_says.slow(delays.uniform(0, 0.3)))
    assert program.run("teacher.concurrency=16").status == 0
    assert program.result() == undisturbed.result()
    assert program.server.finished != sorted(program.server.finished), "answers are to come out of order"

    again = program.run("teacher.concurrency=3")
    assert (again.status, again.stderr) == (0, "")
    assert "is complete" in again.stdout
    assert len(program.server.requests) == COUNT - 1


def test_unusable_answers_are_rejected_and_kept_verbatim(program: Program, undisturbed: Program) -> None:
    both = "[Problem Description]\nP\n[Solution]\nS"
    replies: list[tuple[Reply, str | None, str | None]] = [
        (server_says.answer(content=both, finish_reason="length"), "finish_reason length", both),
        (server_says.answer(content=None, finish_reason="content_filter"), "finish_reason content_filter", None),
        (server_says.answer(content=None), "no text", None),
        (server_says.answer(content="I cannot."), "headings missing or out of order", "I cannot."),
        (server_says.answer(content="[Solution]\nS\n[Problem Description]\nP"), "headings missing or out of order", ""),
        (server_says.answer(content="[Problem Description]\n \n[Solution]\nS"), "empty problem", ""),
        (server_says.answer(content="[problem description]\nP\n[SOLUTION] \n"), "empty solution", ""),
        (
            server_says.error(400, "this row is flagged", "content_policy"),
            "refused by the server",
            "this row is flagged",
        ),
        (server_says.without_fingerprint, None, None),
        (server_says.answer(content="[Problem Description]\n\ud800\x00\u2028é\n[Solution]\n\x0c😀"), None, None),
    ]
    for index, (reply, _, _) in enumerate(replies):
        program.server.script(SEED + index, reply)
    assert program.run("teacher.concurrency=4").status == 0

    rejected = {row["index"]: row for row in read_jsonl(program.out / "rejected.jsonl") if "index" in row}
    rows = {row["index"]: row for row in read_jsonl(program.out / "rows.jsonl")}
    for index, (_, reason, evidence) in enumerate(replies):
        if reason is None:
            continue
        row = rejected.pop(index)
        assert row["reason"] == reason
        assert "evidence" in row
        assert (evidence or "") in (row["evidence"] or "")
    assert [row["reason"] for row in rejected.values()] == ["prompt leaves no room for an answer"]
    assert rows[8]["openai_fingerprint"] is None
    assert (rows[9]["problem"], rows[9]["solution"]) == ("\ud800\x00\u2028é", "😀")
    untouched = [row for row in read_jsonl(undisturbed.out / "rows.jsonl") if row["index"] >= len(replies)]
    assert list(rows.values())[2:] == untouched

    bodies = {request.seed - SEED: request.body for request in program.server.requests}
    journal = {record["index"]: record for record in read_jsonl(program.out / "journal.jsonl")}
    asked = {index for index, record in journal.items() if "no_room" not in record}
    assert asked == set(bodies), "every answer is kept, of whatever use"
    assert journal[3]["answer"] == completion(bodies[3], content="I cannot.")
    assert journal[31]["answer"] == completion(bodies[31])


@pytest.mark.parametrize("content", [None, 5, [{"type": "image_url"}], {}], ids=str)
def test_answer_without_text_is_rejected_once(here: Callable[..., Path], server: ChatServer, content: Any) -> None:
    # It is paid for; asked again, such a server may well answer the same.
    server.script(SEED + 1, server_says.answer(content=content))
    server.script(SEED + 2, server_says.answer(content=content, finish_reason="content_filter"))
    out = here(["a\n", "b\n", "c\n"])
    assert set(server.counts().values()) == {1}
    rejected = {row["index"]: (row["reason"], row["evidence"]) for row in read_jsonl(out / "rejected.jsonl")}
    assert rejected == {1: ("no text", content), 2: ("finish_reason content_filter", content)}
    bodies = {request.seed - SEED: request.body for request in server.requests}
    answers = (record for record in read_jsonl(out / "journal.jsonl") if "answer" in record)
    journal = {record["index"]: record["answer"] for record in answers}
    assert journal[1] == completion(bodies[1], content=content)


def test_a_message_without_any_content_is_rejected_too(here: Callable[..., Path], server: ChatServer) -> None:
    server.script(SEED + 1, server_says.raw(b'{"choices": [{"message": {}, "finish_reason": "stop"}]}'))
    server.script(SEED + 2, server_says.raw(b'{"choices": [{"message": {}}]}'))
    out = here(["a\n", "b\n", "c\n"])
    reasons = {row["index"]: row["reason"] for row in read_jsonl(out / "rejected.jsonl")}
    assert reasons == {1: "no text", 2: "finish_reason None"}


def test_answer_that_contains_the_key_is_kept_verbatim(
    here: Callable[..., Path], server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # PLACEHOLDER is what servers without keys are given by custom, and a word of many a program.
    server.reply = server_says.answer(content="[Problem Description]\nP\n[Solution]\nx = PLACEHOLDER")
    server.script(SEED + 1, server_says.error(400, "wrong key PLACEHOLDER"))
    monkeypatch.setenv("TEACHER_KEY", "PLACEHOLDER")
    out = here(["a\n", "b\n"], "teacher.api_key_env=TEACHER_KEY")
    assert [row["solution"] for row in read_jsonl(out / "rows.jsonl")] == ["x = PLACEHOLDER"]
    (refused,) = read_jsonl(out / "rejected.jsonl")
    assert refused["evidence"].endswith("wrong key [API key]")


@pytest.mark.parametrize(
    "changes",
    [
        {"content": 5},
        {"content": [{"type": "text", "text": "[Problem Description]\nP\n[Solution]\nS"}]},
        {"content": {}},
        {"finish_reason": ["stop"]},
        {"usage": "seven"},
        {"usage": [7]},
        {"usage": {"prompt_tokens": "7", "completion_tokens": None}},
        {"system_fingerprint": {"not": "a text"}},
        {"extra": float("nan")},
    ],
    ids=str,
)
def test_answer_of_a_wrong_type_spoils_nothing_else(
    here: Callable[..., Path], server: ChatServer, changes: dict[str, Any]
) -> None:
    # Asked again, such a server may well answer the same: it must neither end the run nor lock what others answered.
    server.script(SEED + 1, server_says.answer(**changes))
    out = here(["a\n", "b\n", "c\n"])
    rows = read_jsonl(out / "rows.jsonl")
    assert {row["index"] for row in rows} >= {0, 2}
    assert all(isinstance(row["problem"], str) and isinstance(row["solution"], str) for row in rows)


def test_deeply_nested_answer_does_not_lock_the_journal(here: Callable[..., Path], server: ChatServer) -> None:
    # Writing a record nests an answer deeper than it came, and reading it happens at another depth of the stack.
    depths = range(840, 1010)
    for index, depth in enumerate(depths):
        text = "[" * depth + "]" * depth
        whole = json.dumps(completion({"model": "m", "messages": [], "seed": index}, extra="DEEP"))
        server.script(SEED + index, server_says.raw(whole.replace('"DEEP"', text).encode()))
    out = here([f"line {index}\n" for index in range(len(depths))], "teacher.concurrency=32")
    assert len(read_jsonl(out / "rows.jsonl")) == len(depths)


def test_ascii_terminal_and_closed_pipe_are_no_traceback(program: Program) -> None:
    program = replace(program, code=program.place / "code")
    program.code.mkdir()
    (program.code / "accents.py").write_text("name = 'caf\u00e9 \u20ac'\n")
    ended = program.run("dry_run=true", PYTHONIOENCODING="ascii")
    assert (ended.status, ended.stderr) == (0, "")
    assert r"caf\xe9 \u20ac" in ended.stdout
    process = program.start()
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(60) in (0, 128 + signal.SIGPIPE)
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()


def test_a_finished_run_asks_for_no_key(program: Program) -> None:
    assert program.run().status == 0
    ended = program.run(OPENAI_API_KEY="")
    assert (ended.status, ended.stderr) == (0, "")
    (program.out / "rows.jsonl").unlink()
    assert program.run("data.generate.parser=tolerant", OPENAI_API_KEY="").status == 0
    assert (program.out / "rows.jsonl").exists()


def test_a_line_of_ten_megabytes_is_too_long_and_breaks_nothing(program: Program) -> None:
    folder = program.place / "documents"
    folder.mkdir()
    write_jsonl(folder / "all.jsonl", [{"content": text} for text in ("x = 1\n", "y = 2; " * 1_500_000, "z = 3\n")])
    ended = program.run("data/generate=dataset", f"data.generate.dataset_name={folder}")
    assert ended.status == 0, ended.stderr
    assert len(program.server.requests) == 2
    assert [row["raw_index"] for row in read_jsonl(program.out / "rejected.jsonl")] == [1]
    assert sorted(row["raw_index"] for row in read_jsonl(program.out / "rows.jsonl")) == [0, 2]


def test_open_model_gets_examples_and_its_own_tokenizer(
    here: Callable[..., Path], server: ChatServer, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoTokenizer

    monkeypatch.delenv("OPENAI_API_KEY")
    here(
        ["def work():\n    pass\n"],
        "teacher=vllm",
        "prompt=oss_instruct_example",
        "teacher.model=owner/name",
        f"teacher.tokenizer={tiny_model}",
        "teacher.model_max_tokens=300",
    )
    (request,) = server.requests
    roles = [message["role"] for message in request.body["messages"]]
    assert roles == ["system", "user", "assistant", "user"]
    prompt_tokens = len(AutoTokenizer.from_pretrained(tiny_model).encode(request.body["messages"][-1]["content"]))
    assert (request.body["model"], request.body["max_tokens"]) == ("owner/name", 300 - prompt_tokens - 10)


def test_a_secret_drawn_by_an_earlier_version_is_not_sent(
    here: Callable[..., Path], server: ChatServer, tmp_path: Path
) -> None:
    secret = "".join(["AK", "IA", "IOSFODNN7", "ABCDEFG"])

    def reply(handler: Handler, body: Body) -> None:
        (server_says.error(500) if secret in str(body) else server_says.answer())(handler, body)

    server.reply = reply
    documents = ["a = 1\n", f"key = '{secret}'\n", "b = 2\n"]
    with pytest.raises(UserError, match="is left without an answer"):
        here(documents, "data.generate.secrets=keep", "teacher.max_attempts=1")
    server.requests.clear()
    started = tmp_path / "made" / "started.json"
    identity = json.loads(started.read_bytes())
    del identity["config"]["data"]["generate"]["secrets"]  # earlier versions did not have the key
    started.write_text(json.dumps(identity))
    out = here(documents)  # the default leaves secrets out
    assert server.requests == []
    assert [row["reason"] for row in read_jsonl(out / "rejected.jsonl")] == ["holds a secret"]
    assert len(read_jsonl(out / "rows.jsonl")) == 2
