"""`stage=generate` against a real server of chat completions: what is asked, what is kept, and nothing paid twice."""

import gzip
import hashlib
import json
import random
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
import tiktoken

from magicoder import config
from magicoder.artifact import Artifact
from magicoder.data.corpora import hub_documents
from magicoder.data.original import fingerprint, fingerprint_in, read_former_run
from magicoder.data.snippets import Snippet, Undrawable, draw
from magicoder.errors import UserError
from magicoder.stages import generate
from magicoder.teacher import local_server
from tests import chat_server as server_says
from tests.chat_server import ChatServer, Reply, chat_server, completion
from tests.conftest import GOLDEN, command, environment, read_jsonl, write_jsonl
from tests.teacher.vocabulary import cache_vocabulary

SECRET = "sk-this-key-shows-nowhere"
SEED = 976
SYSTEM = "You write {exercises}."
USER = "Be inspired: {code} - {braces} and {0} stay."

# In the order of their paths, which is that of the corpus. The last two are too long for a full answer, and for any.
ODD_DOCUMENTS = {
    "code_inside.py": b"prompt = '{code}'.format(code={}) # {{code}} {0} {problem} %s $x\n",
    "empty.py": b"",
    "line_ends.py": "a = 1\r\nb = 2\rc = '\u2028'\x0cd = 4\x1ce = 5".encode(),
    "marker.py": b"end = '<|endoftext|>'\n",
    "newline.py": b"\n",
    "not_utf8.py": b"# caf\xe9 \xff\xfe \xed\xa0\x80\n",
    "nul.py": b"x = '\x00'\n",
    "z_long.py": b"[" + b"7, " * 2200 + b"]",
    "z_too_long.py": b"[" + b"7, " * 3000 + b"]",
}
ORDINARY = 40
COUNT = ORDINARY + len(ODD_DOCUMENTS) - 1  # snippets; the empty document gives none


@pytest.fixture(scope="session")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of source code, ordinary and odd."""
    folder = tmp_path_factory.mktemp("code")
    for number in range(ORDINARY):
        lines = "".join(f"    step_{line}({number})\n" for line in range(1, 3 + number))
        (folder / f"a{number:02}.py").write_text(f"def work_{number}():\n{lines}")
    for name, content in ODD_DOCUMENTS.items():
        (folder / name).write_bytes(content)
    (folder / "notes.txt").write_text("no source code\n")
    return folder


@pytest.fixture(scope="session")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cache_vocabulary(tmp_path_factory.mktemp("vocabulary"))


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with chat_server() as running:
        yield running


@dataclass(frozen=True)
class Ended:
    """What a finished program left."""

    status: int
    stdout: str
    stderr: str

    @property
    def only_line(self) -> str:
        """The one line on standard error."""
        (line,) = self.stderr.splitlines()
        return line


@dataclass(frozen=True)
class Program:
    """The real program in a folder of its own, asking `server` about the snippets of `code`.

    Whatever a test is about, no run may show a traceback, nor the key anywhere.
    """

    place: Path
    code: Path
    vocabulary: Path
    server: ChatServer

    @property
    def out(self) -> Path:
        return self.place / "made"

    def start(self, *overrides: str, **variables: str) -> subprocess.Popen[str]:
        arguments = [
            "stage=generate",
            *([] if any(each.startswith("data/generate=") for each in overrides) else self.local_code),
            f"prompt.system='{SYSTEM}'",
            f"prompt.user='{USER}'",
            "out=made",
            f"teacher.base_url={self.server.base_url}",
            "teacher.timeout=60",
            *overrides,
        ]
        surroundings = {
            "OPENAI_API_KEY": SECRET,
            "TIKTOKEN_CACHE_DIR": str(self.vocabulary),
            "HTTPS_PROXY": "http://127.0.0.1:9",  # nothing gets out, even if it should try
            "NO_PROXY": "127.0.0.1",
        }
        return subprocess.Popen(
            command(*arguments),
            cwd=self.place,
            env=environment(**(surroundings | variables)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @property
    def local_code(self) -> list[str]:
        return ["data/generate=local", f"data.generate.path={self.code}"]

    def ended(self, process: subprocess.Popen[str]) -> Ended:
        with process:
            try:
                stdout, stderr = process.communicate(timeout=120)
            finally:
                process.kill()
        assert "Traceback" not in stderr, stderr
        shown = [stdout, stderr] + [
            path.read_text(errors="replace") for path in self.place.rglob("*") if path.is_file()
        ]
        assert not any(SECRET in text for text in shown)
        return Ended(process.returncode, stdout, stderr)

    def run(self, *overrides: str, **variables: str) -> Ended:
        return self.ended(self.start(*overrides, **variables))

    def result(self) -> tuple[bytes, bytes]:
        """The rows and the rejected rows, to the byte."""
        assert (self.out / "manifest.json").exists()
        return (self.out / "rows.jsonl").read_bytes(), (self.out / "rejected.jsonl").read_bytes()

    def await_count(self, process: subprocess.Popen[str], count: Callable[[], int], wanted: int) -> None:
        """Wait, while the process is at work, until the count is what is wanted or more."""
        while count() < wanted:
            if process.poll() is not None:
                pytest.fail(f"the program ended before its time: {self.ended(process)}")
            time.sleep(0.005)

    def journalled(self) -> set[int]:
        """The indices whose record is whole in the journal."""
        path = self.out / "journal.jsonl"
        lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
        return {json.loads(line)["index"] for line in lines}


@pytest.fixture
def program(tmp_path: Path, code: Path, vocabulary: Path, server: ChatServer) -> Program:
    return Program(tmp_path, code, vocabulary, server)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, code: Path, vocabulary: Path) -> Program:
    """A run with one request at a time and no fault, to compare others with; its server is stopped."""
    with chat_server() as server:
        program = Program(tmp_path_factory.mktemp("undisturbed"), code, vocabulary, server)
        ended = program.run("teacher.concurrency=1")
        assert ended.status == 0, ended.stderr
    return program


@pytest.fixture
def here(
    tmp_path: Path,
    settings: Callable[..., config.Generate],
    server: ChatServer,
    vocabulary: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Path]:
    """here(documents, "KEY=VALUE"): run the stage in this process over a few documents; the directory that it made."""
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(vocabulary))

    def run(documents: list[str], *overrides: str) -> Path:
        folder = tmp_path / "documents"
        folder.mkdir(exist_ok=True)
        for number, document in enumerate(documents):
            (folder / f"{number:04}.py").write_text(document)
        stage = settings(
            "stage=generate",
            "data/generate=local",
            f"data.generate.path={folder}",
            f"out={tmp_path}/made",
            f"teacher.base_url={server.base_url}",
            *overrides,
        )
        generate.run(stage)
        return tmp_path / "made"

    return run


# --- what is asked, and what becomes of the answers ------------------------------------------------------------------


def documented_snippets(code: Path) -> list[tuple[int, str]]:
    """The snippets in the order in which they are asked, each with its position in the corpus."""
    from datasets import Dataset

    generator = random.Random(SEED)
    raw_indices, seeds = [], []
    for raw_index, path in enumerate(sorted(code.glob("*.py"))):
        lines = path.read_bytes().decode(errors="replace").splitlines(keepends=True)
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
        max_tokens = min(2500, 8192 - len(encoding.encode(user, disallowed_special=())) - 10)
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

    assert {body["max_tokens"] for body in bodies} > {2500}, "one prompt is to leave less than a full answer"
    assert [request.body for request in undisturbed.server.requests] == bodies
    rows_made, _ = undisturbed.result()
    assert rows_made == b"".join(json.dumps(row).encode() + b"\n" for row in rows)

    rejected = read_jsonl(undisturbed.out / "rejected.jsonl")
    assert len(left_out) == 1
    assert [{key: row.get(key) for key in left_out[0]} for row in rejected] == [
        left_out[0],
        {"raw_index": ORDINARY + list(ODD_DOCUMENTS).index("empty.py"), "index": None, "seed": None},
    ]
    assert "no room" in rejected[0]["reason"]
    assert "empty" in rejected[1]["reason"]


def test_every_rejected_row_of_an_undisturbed_run_carries_its_evidence(undisturbed: Program) -> None:
    rejected = [row for row in read_jsonl(undisturbed.out / "rejected.jsonl") if "index" in row]
    assert [row["reason"] for row in rejected if not row.get("evidence")] == []
    assert len(rejected) == 1


def test_the_key_goes_to_the_server_and_nowhere_else(undisturbed: Program) -> None:
    # That it is in no file and on no stream is checked for every run.
    assert {request.headers["authorization"] for request in undisturbed.server.requests} == {f"Bearer {SECRET}"}


def test_rows_are_the_same_in_the_same_order_however_many_are_in_flight(program: Program, undisturbed: Program) -> None:
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


def test_what_can_be_no_row_is_rejected_with_its_reason_and_kept_as_it_came(
    program: Program, undisturbed: Program
) -> None:
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
    assert set(journal) == set(bodies), "every answer is kept, of whatever use"
    assert journal[3]["answer"] == completion(bodies[3], content="I cannot.")
    assert journal[30]["answer"] == completion(bodies[30])


@pytest.mark.parametrize("content", [None, 5, ["[Problem Description]\nP\n[Solution]\nS"], {}], ids=str)
def test_an_answer_without_text_is_journalled_as_it_came_rejected_and_never_asked_again(
    here: Callable[..., Path], server: ChatServer, content: Any
) -> None:
    # It is paid for; asked again, such a server may well answer the same.
    server.script(SEED + 1, server_says.answer(content=content))
    server.script(SEED + 2, server_says.answer(content=content, finish_reason="content_filter"))
    out = here(["a\n", "b\n", "c\n"])
    assert set(server.counts().values()) == {1}
    rejected = {row["index"]: (row["reason"], row["evidence"]) for row in read_jsonl(out / "rejected.jsonl")}
    assert rejected == {1: ("no text", content), 2: ("finish_reason content_filter", content)}
    bodies = {request.seed - SEED: request.body for request in server.requests}
    journal = {record["index"]: record["answer"] for record in read_jsonl(out / "journal.jsonl")}
    assert journal[1] == completion(bodies[1], content=content)


def test_a_message_without_any_content_is_rejected_too(here: Callable[..., Path], server: ChatServer) -> None:
    server.script(SEED + 1, server_says.raw(b'{"choices": [{"message": {}, "finish_reason": "stop"}]}'))
    server.script(SEED + 2, server_says.raw(b'{"choices": [{"message": {}}]}'))
    out = here(["a\n", "b\n", "c\n"])
    reasons = {row["index"]: row["reason"] for row in read_jsonl(out / "rejected.jsonl")}
    assert reasons == {1: "no text", 2: "finish_reason None"}


def test_an_answer_that_happens_to_hold_the_text_of_the_key_is_kept_as_it_came(
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
def test_an_answer_of_another_type_than_promised_spoils_nothing_else(
    here: Callable[..., Path], server: ChatServer, changes: dict[str, Any]
) -> None:
    # Asked again, such a server may well answer the same: it must neither end the run nor lock what others answered.
    server.script(SEED + 1, server_says.answer(**changes))
    out = here(["a\n", "b\n", "c\n"])
    rows = read_jsonl(out / "rows.jsonl")
    assert {row["index"] for row in rows} >= {0, 2}
    assert all(isinstance(row["problem"], str) and isinstance(row["solution"], str) for row in rows)


def test_an_answer_nested_as_deep_as_json_can_be_read_does_not_lock_the_journal(
    here: Callable[..., Path], server: ChatServer
) -> None:
    # Writing a record nests an answer deeper than it came, and reading it happens at another depth of the stack.
    depths = range(840, 1010)
    for index, depth in enumerate(depths):
        text = "[" * depth + "]" * depth
        whole = json.dumps(completion({"model": "m", "messages": [], "seed": index}, extra="DEEP"))
        server.script(SEED + index, server_says.raw(whole.replace('"DEEP"', text).encode()))
    out = here([f"line {index}\n" for index in range(len(depths))], "teacher.concurrency=32")
    assert len(read_jsonl(out / "rows.jsonl")) == len(depths)


def test_a_line_of_ten_megabytes_is_too_long_and_breaks_nothing(here: Callable[..., Path], server: ChatServer) -> None:
    out = here(["x = 1\n", "y = 2; " * 1_500_000, "z = 3\n"])
    assert len(server.requests) == 2
    assert [row["raw_index"] for row in read_jsonl(out / "rejected.jsonl")] == [1]
    assert sorted(row["raw_index"] for row in read_jsonl(out / "rows.jsonl")) == [0, 2]


def test_an_open_model_is_asked_with_worked_examples_and_counted_by_its_own_tokenizer(
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


# --- faults that pass, faults that stay ------------------------------------------------------------------------------


def test_passing_faults_leave_no_trace_in_the_result(program: Program, undisturbed: Program) -> None:
    faults = [
        server_says.error(429, "slow down", "rate_limit_exceeded", Retry_After="2"),
        server_says.error(429, "slow down", "rate_limit_exceeded"),
        server_says.error(500),
        server_says.error(503, Retry_After="soon"),
        server_says.no_answer,
        server_says.reset_in_body,
        server_says.raw(b"<html>bad gateway</html>"),
        server_says.raw(b""),
        server_says.raw(b'{"choices": []}'),
        server_says.hang,
    ]
    for index, fault in enumerate(faults):
        program.server.script(SEED + index, fault, fault)
    assert program.run("teacher.concurrency=16", "teacher.timeout=2").status == 0
    assert program.result() == undisturbed.result()

    counts = program.server.counts()
    assert all(counts[SEED + index] >= 3 for index in range(len(faults)))
    first, second, third = (request.time for request in program.server.requests if request.seed == SEED)
    assert second - first >= 2
    assert third - second >= 2


def test_a_try_ends_after_the_timeout_though_the_server_keeps_sending_blanks(
    program: Program, undisturbed: Program
) -> None:
    program.server.script(SEED, server_says.drip)
    assert program.run("teacher.timeout=2").status == 0
    assert program.result() == undisturbed.result()
    first, second = (request.time for request in program.server.requests if request.seed == SEED)
    assert second - first < 8, "teacher.timeout is of one try, not of one packet"


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (server_says.error(401, "Incorrect API key: {authorization}", "invalid_api_key"), "OPENAI_API_KEY"),
        (server_says.error(404, "The model `gpt` does not exist", "model_not_found"), "does not exist"),
        (server_says.error(429, "You exceeded your quota", "insufficient_quota", Retry_After="1"), "quota"),
    ],
    ids=["wrong key", "unknown model", "no quota"],
)
def test_what_no_retry_mends_stops_at_once_and_keeps_every_answer(program: Program, fault: Reply, words: str) -> None:
    for index in range(6, COUNT):
        program.server.script(SEED + index, fault)
    stopped = program.run("teacher.concurrency=3")
    assert stopped.status == 1
    assert stopped.only_line.startswith("error: ")
    assert words in stopped.only_line
    assert program.journalled() == set(range(6))
    assert set(program.server.counts().values()) == {1}, "nothing is tried again"
    assert len(program.server.requests) <= 6 + 3


@pytest.mark.parametrize("status", [402, 404, 405, 410, 451])
def test_a_status_about_every_request_stops_the_run_at_once(
    here: Callable[..., Path], server: ChatServer, status: int
) -> None:
    server.reply = server_says.error(status, "no more of this")
    with pytest.raises(UserError, match=f"HTTP {status}: no more of this") as raised:
        here(["a\n", "b\n"], "teacher.concurrency=1")
    assert "\n" not in str(raised.value)
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_status_about_one_request_costs_one_row(here: Callable[..., Path], server: ChatServer, status: int) -> None:
    server.script(SEED, server_says.error(status, "not this one"))
    out = here(["a\n", "b\n"])
    (refused,) = read_jsonl(out / "rejected.jsonl")
    assert (refused["index"], refused["reason"]) == (0, "refused by the server")
    assert refused["evidence"].endswith(f"HTTP {status}: not this one")
    assert server.counts()[SEED] == 1


def test_statuses_and_dates_that_pass_are_tried_again(here: Callable[..., Path], server: ChatServer) -> None:
    for index, status in enumerate((408, 409, 425, 429, 500, 599)):
        server.script(SEED + index, server_says.error(status, Retry_After="0"))
    # A date that is past means now, one that no calendar holds means nothing.
    server.script(SEED + 6, server_says.error(503, Retry_After="Thu, 01 Jan 1970 00:00:00 GMT"))
    server.script(SEED + 7, server_says.error(503, Retry_After=f"Mon, 01 Jan {'9' * 30} 00:00:00 GMT"))
    begun = time.monotonic()
    out = here([f"line {number}\n" for number in range(8)])
    assert time.monotonic() - begun < 20
    assert len(read_jsonl(out / "rows.jsonl")) == 8
    assert set(server.counts().values()) == {2}


@pytest.mark.parametrize(
    "wait", ["3700", formatdate(time.time() + 90_000, usegmt=True)], ids=["of seconds", "until a date"]
)
def test_a_wait_of_more_than_an_hour_ends_the_run_and_says_how_long_it_is(
    here: Callable[..., Path], server: ChatServer, wait: str
) -> None:
    # A quota of the day: nobody wants to find the program asleep, or his answers lost.
    server.script(SEED + 1, server_says.error(429, "come back later", Retry_After=wait))
    with pytest.raises(UserError, match=r"come back later; it asks to wait (3700|8999\d|9000\d|899\d\d) s") as raised:
        here(["a\n", "b\n", "c\n"], "teacher.concurrency=1")
    assert "\n" not in str(raised.value)
    assert [request.seed for request in server.requests] == [SEED, SEED + 1]


def test_a_server_that_echoes_the_key_in_a_refusal_does_not_spread_it(program: Program) -> None:
    program.server.script(SEED + 4, server_says.error(400, "bad row, sent with {authorization}"))
    assert program.run("teacher.concurrency=1").status == 0
    reasons = {row.get("index"): row["reason"] for row in read_jsonl(program.out / "rejected.jsonl")}
    assert reasons[4] == "refused by the server"


def test_a_request_that_fails_at_every_try_stops_the_run_which_later_goes_on_from_there(
    program: Program, undisturbed: Program
) -> None:
    program = replace(program, code=Path(shutil.copytree(program.code, program.place / "code")))
    broken = server_says.error(500, "still broken")
    program.server.script(SEED + 5, broken, broken)
    stopped = program.run("teacher.concurrency=2", "teacher.max_attempts=2")
    assert stopped.status == 1
    assert "2 attempts" in stopped.only_line
    assert "still broken" in stopped.only_line
    kept = program.journalled()
    assert {SEED + index for index in kept} == set(program.server.counts()) - {SEED + 5}

    # The corpus has changed meanwhile: what was begun is finished with the snippets that it was begun with.
    (program.code / "a_first.py").write_text("new = 1\n")
    assert program.run("teacher.concurrency=2", "teacher.max_attempts=2").status == 0
    assert program.result() == undisturbed.result()
    once = {request.seed: 1 for request in undisturbed.server.requests}
    assert program.server.counts() == {**once, SEED + 5: 3}


def test_a_server_that_is_not_there_is_named(program: Program) -> None:
    ended = program.run("teacher.base_url=http://127.0.0.1:9/v1", "teacher.max_attempts=2")
    assert ended.status == 1
    assert "127.0.0.1:9" in ended.only_line
    assert "2 attempts" in ended.only_line


@pytest.mark.parametrize(
    ("scheme", "user", "words"),
    [("http", f"me:{SECRET}@", "no user name or password"), ("ftp", "", "http://"), ("", "", "http://")],
)
@pytest.mark.parametrize("place", ["teacher.base_url", "OPENAI_BASE_URL"])
def test_an_address_with_a_password_or_without_http_is_refused_before_anything_is_asked(
    program: Program, place: str, scheme: str, user: str, words: str
) -> None:
    # A password in it would reach the manifest and every message.
    address = program.server.base_url.removeprefix("http://")
    url = f"{scheme}://{user}{address}" if scheme else address
    if place == "OPENAI_BASE_URL":
        ended = program.run("teacher.base_url=null", OPENAI_BASE_URL=url)
    else:
        ended = program.run(f"teacher.base_url={url}")
    assert ended.status == 1
    assert ended.only_line.startswith(f"error: {place}: ")
    assert words in ended.only_line
    assert program.server.requests == []
    assert not program.out.exists()


def test_the_address_in_the_environment_is_where_requests_go(program: Program, undisturbed: Program) -> None:
    assert program.run("teacher.base_url=null", OPENAI_BASE_URL=program.server.base_url).status == 0
    assert program.result() == undisturbed.result()


@pytest.mark.parametrize("key", ["two words", "line\nend", "pasted-key\n", "\u00e9t\u00e9", "tab\t"], ids=ascii)
def test_a_key_that_cannot_be_one_is_told_in_one_line_before_anything_is_asked(program: Program, key: str) -> None:
    # HTTP's own words about such a header show the key.
    ended = program.run(OPENAI_API_KEY=key)
    assert ended.status == 1
    assert ended.only_line.startswith("error: teacher.api_key_env: OPENAI_API_KEY holds ")
    assert key.strip() not in ended.only_line
    assert program.server.requests == []
    assert not program.out.exists()


def test_a_server_that_refuses_everything_stops_the_run_before_it_rejects_every_row(program: Program) -> None:
    program.server.reply = server_says.error(400, "unknown parameter: seed")
    ended = program.run("teacher.concurrency=4")
    assert ended.status == 1
    assert "unknown parameter: seed" in ended.only_line
    assert len(program.server.requests) < COUNT
    assert program.journalled() == set()


# --- nothing lost, nothing paid twice --------------------------------------------------------------------------------


def test_killed_at_any_instant_the_same_command_ends_in_the_same_result_and_pays_nothing_twice(
    program: Program, undisturbed: Program
) -> None:
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


def test_a_signal_lets_the_requests_in_flight_finish_and_keeps_their_answers(
    program: Program, undisturbed: Program
) -> None:
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
        assert 5 <= len(program.server.requests) - before <= 6

    program.server.reply = server_says.answer()
    assert program.run("teacher.concurrency=3").status == 0
    assert program.result() == undisturbed.result()
    assert set(program.server.counts().values()) == {1}


def test_a_signal_does_not_wait_for_a_retry_that_is_far_off(program: Program) -> None:
    program.server.script(SEED + 3, server_says.error(429, Retry_After="900"))
    process = program.start("teacher.concurrency=2")
    program.await_count(process, program.server.finished.__len__, COUNT - 1)
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


def test_a_full_disk_ends_in_one_line_and_the_same_command_goes_on_when_there_is_room(
    program: Program, undisturbed: Program
) -> None:
    program.server.reply = server_says.answer(padding="p" * 20_000)
    process = program.start("teacher.concurrency=3")
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


# --- the original's files --------------------------------------------------------------------------------------------


def test_a_fingerprint_is_the_sha_256_of_the_settings_one_after_the_other() -> None:
    settings = (976, 0.0, "teacher", 8192, 1, 15, 1000, None, "python", 150000, "Use {code}.", "Be good.", 10)
    # printf %s '9760.0teacher81921151000Nonepython150000Use {code}.Be good.10' | sha256sum
    assert fingerprint(settings) == "aab04"


def test_the_fingerprint_in_a_file_name_is_found_with_and_without_a_tag() -> None:
    assert fingerprint_in("data-python-2f455-0_40-20240101_000000.jsonl") == "2f455"
    assert fingerprint_in("data-2f455-0_40-20240101_000000.jsonl") == "2f455"
    assert fingerprint_in("data-00000-11111-0_40-20240101_000000.jsonl") == "11111"
    assert fingerprint_in("rows.jsonl") is None


def former_file(place: Path, undisturbed: Program, name_fingerprint: str, **changes: Any) -> tuple[Path, list[dict]]:
    """A file as the original would have left it after index 10, of whose answers it dropped the one to index 4."""
    rows = [row for row in read_jsonl(undisturbed.out / "rows.jsonl") if row["index"] <= 10 and row["index"] != 4]
    rows = [{**row, "solution": f"theirs {row['index']} é", **changes} for row in rows]
    return write_jsonl(place / f"data-python-{name_fingerprint}-0_40-20240101_000000.jsonl", rows), rows


def test_the_rows_of_an_interrupted_original_run_are_taken_over_and_not_paid_again(
    program: Program, undisturbed: Program
) -> None:
    own = json.loads((undisturbed.out / "manifest.json").read_bytes())["original_fingerprint"]
    path, theirs = former_file(program.place, undisturbed, own)
    ended = program.run(f"data.generate.continue_from={path}")
    assert (ended.status, ended.stderr) == (0, "")
    ours = [row for row in read_jsonl(undisturbed.out / "rows.jsonl") if row["index"] > 10]
    assert (program.out / "rows.jsonl").read_bytes() == path.read_bytes() + b"".join(
        json.dumps(row).encode() + b"\n" for row in ours
    )
    assert set(program.server.counts()) == {SEED + row["index"] for row in ours}
    rejected = {row.get("index"): row["reason"] for row in read_jsonl(program.out / "rejected.jsonl")}
    assert "continued" in rejected[4]
    assert len(rejected) + len(theirs) + len(ours) == COUNT + 1


def test_a_foreign_file_to_continue_is_refused_before_anything_is_asked(program: Program, undisturbed: Program) -> None:
    path, _ = former_file(program.place, undisturbed, "00000", seed="another snippet")
    ended = program.run(f"data.generate.continue_from={path}")
    assert ended.status == 1
    warning, error = ended.stderr.splitlines()
    assert warning.startswith("warning: ")
    assert "fingerprint 00000" in warning
    assert error.startswith("error: ")
    assert f"{path}: index 0" in error
    assert program.server.requests == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"\n\n", "empty"),
        (b'{"raw_index": 5, "index": 0, "seed": "s", "problem": "p", "sol', "is empty"),
        (b'{"raw_index": 5, "index": 0, "seed": "s", "problem": "p", "sol\n', "line 1"),
        (b'{"raw_index": 5, "index": 0, "seed": "s", "problem": "p"}\n', "solution"),
        (b'{"raw_index": 5, "index": 7, "seed": "s", "problem": "p", "solution": "x"}\n', "index 7"),
        (b'{"raw_index": 5, "index": [0], "seed": "s", "problem": "p", "solution": "x"}\n', r"index \[0\]"),
        (b'{"raw_index": 5, "index": true, "seed": "s", "problem": "p", "solution": "x"}\n', "index True"),
        (b'{"raw_index": 4, "index": 0, "seed": "s", "problem": "p", "solution": "x"}\n', "another snippet"),
    ],
)
def test_a_file_to_continue_that_does_not_fit_is_refused_with_its_fault(
    tmp_path: Path, content: bytes, words: str
) -> None:
    path = tmp_path / "data-2f455-0_40-20240101_000000.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=words) as raised:
        read_former_run(path, {0: Snippet(5, "s"), 1: Snippet(6, "t")})
    assert path.name in str(raised.value)


def test_the_line_that_the_original_was_killed_in_is_ignored_and_its_snippet_asked(
    program: Program, undisturbed: Program
) -> None:
    own = json.loads((undisturbed.out / "manifest.json").read_bytes())["original_fingerprint"]
    path, theirs = former_file(program.place, undisturbed, own)
    path.write_bytes(path.read_bytes()[:-20])
    assert theirs[-1]["index"] == 10
    ended = program.run(f"data.generate.continue_from={path}")
    assert (ended.status, ended.stderr) == (0, "")
    assert SEED + 9 not in program.server.counts()
    made = {row["index"]: row for row in read_jsonl(program.out / "rows.jsonl")}
    assert made[9] == theirs[-2]
    assert made[10] == next(row for row in read_jsonl(undisturbed.out / "rows.jsonl") if row["index"] == 10)


# --- what a user gets wrong ------------------------------------------------------------------------------------------


def test_all_mistakes_in_the_config_are_named_at_once_before_anything_is_asked(program: Program) -> None:
    ended = program.run(
        "data.generate.path=nowhere",
        "data.generate.tag=a-b",
        "data.generate.min_lines=16",
        "data.generate.continue_from=nothing.jsonl",
        "prompt.user='no place for a snippet'",
        "teacher.concurrency=0",
        "teacher.timeout=nan",
        OPENAI_API_KEY="",
    )
    assert ended.status == 1
    lines = ended.stderr.splitlines()
    keys = (
        "data.generate.path=nowhere",
        "data.generate.tag=a-b",
        "data.generate.max_lines=15",
        "data.generate.continue_from=nothing.jsonl",
        "prompt.user",
        "teacher.concurrency=0",
        "teacher.timeout=nan",
        "OPENAI_API_KEY",
    )
    assert [[line for line in lines if key in line] != [] for key in keys] == [True] * len(keys)
    assert len(lines) == len(keys)
    assert program.server.requests == []
    assert not program.out.exists()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ([f"data.generate.seed_code_start_index={COUNT}"], f"gives only {COUNT} snippets"),
        (["data.generate.data_dir=rust"], "has no rust files"),
    ],
)
def test_a_mistake_that_shows_later_is_one_line_and_costs_nothing(
    program: Program, overrides: list[str], words: str
) -> None:
    ended = program.run(*overrides)
    assert ended.status == 1
    assert ended.only_line.startswith("error: ")
    assert words in ended.only_line
    assert program.server.requests == []


def test_a_tokenizer_that_cannot_be_had_is_told_before_the_corpus_is_read(program: Program) -> None:
    # A corpus of the hub takes minutes to read.
    (program.place / "model").mkdir()
    ended = program.run("teacher.tokenizer=./model", "data.generate.data_dir=rust")
    assert ended.status == 1
    assert ended.only_line.startswith("error: teacher.tokenizer=./model: ")
    assert not (program.out / "snippets.jsonl").exists()


def test_a_model_to_serve_is_made_into_a_folder_below_the_root_by_name_and_digest(
    settings: Callable[..., config.Generate], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The digest keeps two files of one name apart; the root is where everything that is made belongs.
    file = tmp_path / "tiny.gguf"
    file.write_bytes(b"weights")
    stage = settings("stage=generate", "teacher=local", f"teacher.serve={file}", f"out={tmp_path}/made")
    folder = Path(stage.root) / "models" / f"tiny-{hashlib.sha256(b'weights').hexdigest()[:8]}"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    served_from = []
    monkeypatch.setattr(local_server, "serving", lambda place, *_: served_from.append(place) or nullcontext("url"))
    with Artifact(stage, {}, [file]) as artifact, generate.served(stage, artifact) as url:
        assert url == "url"
    assert served_from == [folder]


def test_the_last_snippets_of_a_corpus_are_fewer_than_asked_for(program: Program, undisturbed: Program) -> None:
    assert program.run(f"data.generate.seed_code_start_index={COUNT - 3}", "data.generate.max_new_data=50").status == 0
    late = [row for row in read_jsonl(undisturbed.out / "rows.jsonl") if row["index"] >= COUNT - 3]
    assert read_jsonl(program.out / "rows.jsonl") == late


def test_a_prompt_that_is_not_utf_8_is_a_mistake_of_the_user(program: Program) -> None:
    # \udce9 stands for the lone byte that a terminal set to Latin-1 sends for é.
    ended = program.run("prompt.system='caf\udce9'")
    assert ended.status == 1
    assert "prompt.system" in ended.only_line


# --- datasets --------------------------------------------------------------------------------------------------------


def golden_documents() -> list[dict]:
    with gzip.open(GOLDEN / "seeds" / "documents.jsonl.gz") as file:
        return [json.loads(line) for line in file.read().split(b"\n") if line]


def snippets_of(directory: Path) -> list[dict]:
    return [row for row in read_jsonl(directory / "snippets.jsonl") if "index" in row]


def test_a_folder_of_json_lines_gives_the_snippets_that_the_original_drew(program: Program) -> None:
    documents = golden_documents()
    folder = program.place / "dataset"
    write_jsonl(folder / "train-1.jsonl", documents[:100])
    write_jsonl(folder / "train-2.jsonl", documents[100:])
    ended = program.run(
        "data/generate=dataset",
        f"data.generate.dataset_name={folder}",
        "data.generate.chunk_size=64",
        "data.generate.seed_code_start_index=20",
        "data.generate.max_new_data=100",
    )
    assert ended.status == 0, ended.stderr
    assert snippets_of(program.out) == read_jsonl(GOLDEN / "seeds" / "expected_chunk64_start20_n100.jsonl")
    assert len(program.server.requests) == 100


def test_one_language_of_a_dataset_in_starcoders_form_gives_the_snippets_that_the_original_drew(
    program: Program,
) -> None:
    from datasets import Dataset

    documents = golden_documents()
    rows = [{"max_stars_repo_path": "a.py", "id": str(number), **row} for number, row in enumerate(documents)]
    folder = program.place / "starcoderdata"
    for name, part in {
        "python/train-00000-of-00002": rows[:150],
        "python/train-00001-of-00002": rows[150:],
        "java/train-00000-of-00001": [{**row, "content": "class Other {}"} for row in rows],
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Dataset.from_list(part).to_parquet(folder / f"{name}.parquet")
    ended = program.run(
        "data/generate=starcoderdata", f"data.generate.dataset_name={folder}", "data.generate.max_new_data=8"
    )
    assert ended.status == 0, ended.stderr
    assert snippets_of(program.out) == read_jsonl(GOLDEN / "seeds" / "expected.jsonl")[:8]


def test_a_dataset_that_cannot_be_had_ends_in_one_line(program: Program) -> None:
    ended = program.run("data/generate=dataset", "data.generate.dataset_name=owner/no-such-dataset")
    assert ended.status == 1
    assert ended.only_line.startswith("error: data.generate.dataset_name=owner/no-such-dataset")
    assert program.server.requests == []


@pytest.mark.parametrize(
    "lines",
    [
        b'{"text": "no such column"}\n',
        b'{"content": 5}\n',
        b'{"content": ["a", "b"]}\n',
        b'{"content": "cut o',
        b'{"content": "\\ud800 is half a character"}\n',
        b"\xff\xfe\n",
    ],
    ids=lambda lines: lines.decode(errors="replace").strip(),
)
def test_a_dataset_of_another_form_is_a_mistake_that_names_it(tmp_path: Path, lines: bytes) -> None:
    (tmp_path / "data.jsonl").write_bytes(lines)
    with pytest.raises(UserError, match=r"data\.generate\.dataset_name=") as raised:
        list(hub_documents(str(tmp_path), None, 10))
    assert "\n" not in str(raised.value)


def test_a_document_that_is_null_is_one_without_lines(tmp_path: Path) -> None:
    # One such row among the 150,000 of a corpus must not keep anybody from using it.
    write_jsonl(tmp_path / "data.jsonl", [{"content": "a\n"}, {"content": None}, {"content": "b\n"}])
    drawn = list(draw(hub_documents(str(tmp_path), None, 10), chunk_size=10, seed=1, min_lines=1, max_lines=1))
    assert drawn == [Snippet(0, "a\n"), Undrawable(1, drawn[1].reason), Snippet(2, "b\n")]


def test_a_folder_that_is_missing_or_without_data_is_a_mistake_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name, part in ((tmp_path / "missing", None), (tmp_path / "empty", None), (tmp_path, "python")):
        with pytest.raises(UserError, match=r"data\.generate\.dataset_name=") as raised:
            list(hub_documents(str(name), part, 10))
        assert "\n" not in str(raised.value)
