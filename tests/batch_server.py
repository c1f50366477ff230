"""A server of OpenAI's Files and Batches on the loopback interface, which works batches off; faults are scripted."""

import email
import json
import re
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.chat_server import completion

Body = dict[str, Any]
Fate = Callable[["BatchServer", "Batch"], None]
Fault = Callable[["Handler"], bool]


@dataclass
class Batch:
    """A batch as the server keeps it."""

    number: int
    input: list[Body]
    told: Body
    output: list[bytes] = field(default_factory=list)
    errors: list[bytes] = field(default_factory=list)

    @property
    def seeds(self) -> list[int]:
        return [line["body"]["seed"] for line in self.input]

    def answer(self, line: Body, **changes: Any) -> None:
        self.result(line, 200, completion(line["body"], **changes))

    def result(self, line: Body, status: int, body: Any) -> None:
        response = {"status_code": status, "request_id": "req_1", "body": body}
        content = json.dumps({"id": "r", "custom_id": line["custom_id"], "response": response, "error": None}).encode()
        (self.output if status == 200 else self.errors).append(content + b"\n")

    def expire(self, line: Body) -> None:
        error = {"code": "batch_expired", "message": "This request could not be executed in time."}
        content = {"id": "r", "custom_id": line["custom_id"], "response": None, "error": error}
        self.errors.append(json.dumps(content).encode() + b"\n")


# --- fates: what becomes of a batch once it is worked off ------------------------------------------------------------


def complete(server: "BatchServer", batch: Batch) -> None:
    """Answer every request, the last one first."""
    for line in reversed(batch.input):
        batch.answer(line)
    server.end(batch, "completed")


def end_half_done(status: str) -> Fate:
    """Answer every other request, and run out of time, or be cancelled, ahead of the rest."""

    def fate(server: "BatchServer", batch: Batch) -> None:
        for place, line in enumerate(batch.input):
            (batch.expire if place % 2 else batch.answer)(line)
        server.end(batch, status)

    return fate


def fail(code: str, message: str) -> Fate:
    """Refuse the whole file."""

    def fate(server: "BatchServer", batch: Batch) -> None:
        batch.told["errors"] = {
            "object": "list",
            "data": [{"code": code, "message": message, "line": 1, "param": None}],
        }
        server.end(batch, "failed")

    return fate


def each(**by_seed: Callable[[Batch, Body], None]) -> Fate:
    """Answer all but the rows `seed_N`, which are done in ways of their own."""

    def fate(server: "BatchServer", batch: Batch) -> None:
        for line in batch.input:
            by_seed.get(f"seed_{line['body']['seed']}", Batch.answer)(batch, line)
        server.end(batch, "completed")

    return fate


def refuse(batch: Batch, line: Body) -> None:
    """Turn a single row away."""
    batch.result(line, 400, {"error": {"message": "not this one", "code": "invalid_prompt"}})


def fall_over(batch: Batch, line: Body) -> None:
    """Fail within the server."""
    batch.result(line, 500, {"error": {"message": "fell over", "code": None}})


def babble(batch: Batch, line: Body) -> None:
    """Send a body that is not a chat completion, with status 200."""
    batch.result(line, 200, {"choices": []})


# --- faults: what goes wrong with the next requests over HTTP --------------------------------------------------------


def error(status: int, message: str = "a fault of the test") -> Fault:
    """Do nothing, and say so."""

    def fault(handler: "Handler") -> bool:
        content = json.dumps({"error": {"message": message, "type": "test", "param": None, "code": None}})
        handler.send(status, content.encode())
        return True

    return fault


def lose_the_reply(handler: "Handler") -> bool:
    """Do what is asked and close the connection without a word."""
    handler.silent = True
    return False


def torn_download(handler: "Handler") -> bool:
    """Send a file up to the middle of a line, as if it were the whole."""
    handler.torn = True
    return False


# --- the server ------------------------------------------------------------------------------------------------------


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "BatchServer"
    silent = torn = False

    def do_GET(self) -> None:
        self.serve(b"")

    def do_POST(self) -> None:
        self.serve(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or self.chunks())

    def serve(self, content: bytes) -> None:
        self.silent = self.torn = False
        url = urlsplit(self.path)
        with self.server.lock:
            self.server.calls.append(f"{self.command} {url.path}")
            key = next((key for key in self.server.faults if re.fullmatch(key, self.server.calls[-1])), None)
            fault = self.server.faults[key].popleft() if key is not None and self.server.faults[key] else None
            if fault is not None and fault(self):
                return
            status, answer = self.server.reply(self.command, url.path, parse_qs(url.query), self.headers, content)
        if self.silent:
            self.close_connection = True
        else:
            self.send(status, answer[: len(answer) // 2 + 9] if self.torn else answer)

    def chunks(self) -> bytes:
        """A body that is sent in chunks."""
        content = b""
        while size := int(self.rfile.readline(), 16) if self.headers.get("Transfer-Encoding") == "chunked" else 0:
            content += self.rfile.read(size)
            self.rfile.readline()
        return content

    def send(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class BatchServer(ThreadingHTTPServer):
    """Finishes each batch at the second status request; `fates` scripts the outcome of the next ones."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.fates: deque[Fate] = deque()
        self.faults: dict[str, deque[Fault]] = {}
        self.holding = False  # while true, no batch comes to its end
        self.queue: int | None = None  # requests that may wait at once
        self.batches: list[Batch] = []
        self.files: dict[str, bytes] = {}
        self.paid: Counter[int] = Counter()  # how often each seed was answered
        self.calls: list[str] = []
        self.lock = threading.RLock()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def script(self, call: str, *faults: Fault) -> None:
        """Let these go wrong with the next calls like `POST /v1/batches`, a regular expression."""
        self.faults.setdefault(call, deque()).extend(faults)

    def reply(self, method: str, path: str, query: dict, headers: Any, content: bytes) -> tuple[int, bytes]:
        parts = path.removeprefix("/v1/").split("/")
        match method, parts:
            case "POST", ["files"]:
                return 200, json.dumps(self.add_file(uploaded(headers["Content-Type"], content))).encode()
            case "GET", ["files", name, "content"] if name in self.files:
                return 200, self.files[name]
            case "POST", ["batches"]:
                return 200, json.dumps(self.create(json.loads(content))).encode()
            case "GET", ["batches"]:
                return 200, json.dumps(self.page(query)).encode()
            case "GET", ["batches", name] if any(batch.told["id"] == name for batch in self.batches):
                return 200, json.dumps(self.look_at(name)).encode()
        return 404, json.dumps({"error": {"message": f"no {path} here", "code": None}}).encode()

    def add_file(self, content: bytes) -> Body:
        name = f"file-{len(self.files) + 1}"
        self.files[name] = content
        return {"id": name, "object": "file", "bytes": len(content), "created_at": int(time.time()), "purpose": "batch",
                "filename": "batch.jsonl", "status": "processed"}  # fmt: skip

    def create(self, asked: Body) -> Body:
        assert (asked["endpoint"], asked["completion_window"]) == ("/v1/chat/completions", "24h")
        lines = [json.loads(line) for line in self.files[asked["input_file_id"]].splitlines()]
        assert len({line["custom_id"] for line in lines}) == len(lines)
        told = {"id": f"batch_{len(self.batches) + 1}", "object": "batch", "status": "validating", "errors": None,
                "created_at": int(time.time()), "metadata": asked["metadata"], **asked}  # fmt: skip
        self.batches.append(Batch(len(self.batches) + 1, lines, told))
        return told

    def page(self, query: dict) -> Body:
        newest_first = [batch.told for batch in reversed(self.batches)]
        names = [told["id"] for told in newest_first]
        begin = names.index(query["after"][0]) + 1 if "after" in query else 0
        told = newest_first[begin : begin + 2]  # pages of two, so that tests come to the second
        return {"object": "list", "data": told, "has_more": begin + 2 < len(names),
                "first_id": None, "last_id": told[-1]["id"] if told else None}  # fmt: skip

    def look_at(self, name: str) -> Body:
        batch = next(batch for batch in self.batches if batch.told["id"] == name)
        if batch.told["status"] == "validating":
            waiting = sum(len(other.input) for other in self.batches if other.told["status"] == "in_progress")
            if self.queue is not None and waiting + len(batch.input) > self.queue:
                fail("token_limit_exceeded", "Enqueued token limit reached.")(self, batch)
            else:
                batch.told["status"] = "in_progress"
        elif batch.told["status"] == "in_progress" and not self.holding:
            (self.fates.popleft() if self.fates else complete)(self, batch)
        return batch.told

    def end(self, batch: Batch, status: str) -> None:
        batch.told |= {"status": status, f"{status}_at": int(time.time()) + 60}
        for key, lines in (("output_file_id", batch.output), ("error_file_id", batch.errors)):
            batch.told[key] = self.add_file(b"".join(lines))["id"] if lines else None
        seeds = {line["custom_id"]: line["body"]["seed"] for line in batch.input}
        self.paid.update(seeds[json.loads(line)["custom_id"]] for line in batch.output)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is killed closes its connections in the middle of anything."""


def uploaded(content_type: str, content: bytes) -> bytes:
    """The file of a form."""
    form = email.message_from_bytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + content)
    for part in form.get_payload():
        if part.get_param("name", header="Content-Disposition") == "file":
            return part.get_payload(decode=True)
    raise AssertionError("a form without a file")


@contextmanager
def batch_server() -> Iterator[BatchServer]:
    """A server that lives for the length of the block."""
    server = BatchServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
