"""A server of chat completions on the loopback interface, real down to the socket, whose faults a test scripts."""

import hashlib
import json
import os
import socket
import struct
import sys
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Body = dict[str, Any]
Reply = Callable[["Handler", Body], None]


@dataclass(frozen=True)
class Request:
    """A request as it came: its body, and when by time.monotonic()."""

    body: Body
    headers: dict[str, str]
    time: float

    @property
    def seed(self) -> int:
        return self.body.get("seed", -1)  # a run may leave it out


def completion(body: Body, **changes: Any) -> Body:
    """The chat completion that answers `body`: the same for the same request. `content` and `finish_reason` may be
    changed, and every field of the whole."""
    key = hashlib.sha256(json.dumps([body["messages"], body.get("seed")]).encode()).hexdigest()
    solution = f"```\nsolve({body.get('seed')})\n```\n"
    content = f"Here it is.\n\n[Problem Description]\nProblem {key[:20]}.\n\n[Solution]\n{solution}"
    message = {"role": "assistant", "content": changes.pop("content", content)}
    return {
        "id": f"chatcmpl-{key[:8]}",
        "object": "chat.completion",
        "created": 1700000000,
        "model": body["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": changes.pop("finish_reason", "stop")}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12},
        "system_fingerprint": f"fp_{key[:6]}",
        **changes,
    }


# --- replies: what the server does with one request ------------------------------------------------------------------


def answer(**changes: Any) -> Reply:
    """A completion, changed as `completion` takes it."""
    return lambda handler, body: handler.send(200, json.dumps(completion(body, **changes)).encode())


def without_fingerprint(handler: "Handler", body: Body) -> None:
    """A completion as most servers send it, without `system_fingerprint`."""
    whole = completion(body)
    del whole["system_fingerprint"]
    handler.send(200, json.dumps(whole).encode())


def raw(content: bytes) -> Reply:
    """Status 200 with these bytes for a body."""
    return lambda handler, body: handler.send(200, content)


def error(status: int, message: str = "a fault of the test", code: str | None = None, **headers: str) -> Reply:
    """An error in the form of OpenAI's; `{authorization}` in the message stands for the header of that name."""

    def reply(handler: "Handler", body: Body) -> None:
        words = message.replace("{authorization}", handler.headers.get("Authorization", ""))
        content = json.dumps({"error": {"message": words, "type": "test", "param": None, "code": code}})
        handler.send(status, content.encode(), {name.replace("_", "-"): value for name, value in headers.items()})

    return reply


def no_answer(handler: "Handler", body: Body) -> None:
    """Close the connection without a word."""
    handler.close_connection = True


def reset_in_body(handler: "Handler", body: Body) -> None:
    """Reset the connection in the middle of the answer."""
    content = json.dumps(completion(body)).encode()
    handler.send_head(200, len(content))
    handler.wfile.write(content[: len(content) // 2])
    time.sleep(0.05)  # a reset overtakes earlier bytes; the client must see half of them
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    os.close(handler.connection.detach())
    handler.close_connection = True


def slow(seconds: float) -> Reply:
    """A completion after a while."""

    def reply(handler: "Handler", body: Body) -> None:
        time.sleep(seconds)
        answer()(handler, body)

    return reply


def hang(handler: "Handler", body: Body) -> None:
    """Neither answer nor close, as long as the server lives."""
    handler.close_connection = True
    handler.server.closing.wait()


def drip(handler: "Handler", body: Body) -> None:
    """Begin an answer and then send a blank now and then, for ten seconds, without ever coming to its words."""
    handler.close_connection = True
    handler.send_head(200, 1000)
    for _ in range(40):
        handler.wfile.write(b" ")
        if handler.server.closing.wait(0.25):
            return


def endless(megabytes: int) -> Reply:
    """A body of so many megabytes of blanks."""

    def reply(handler: "Handler", body: Body) -> None:
        handler.close_connection = True
        handler.send_head(200, megabytes << 20)
        for _ in range(megabytes):
            handler.wfile.write(b" " * (1 << 20))

    return reply


# --- the server ------------------------------------------------------------------------------------------------------


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: "ChatServer"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/v1/chat/completions":
            self.send(404, b"{}")
            return
        self.server.take(
            Request(body, {name.lower(): value for name, value in self.headers.items()}, time.monotonic())
        )(self, body)
        self.server.done(body)

    def send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_head(status, len(content), headers)
        self.wfile.write(content)

    def send_head(self, status: int, length: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(length),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


class ChatServer(ThreadingHTTPServer):
    """Answers every request, but for those whose reply is scripted, with `reply`."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply: Reply = answer()
        self.requests: list[Request] = []
        self.finished: list[int] = []  # seeds in the order in which the server was done with their requests
        self.closing = threading.Event()
        self._scripts: dict[int, deque[Reply]] = defaultdict(deque)
        self._lock = threading.Lock()

    @property
    def base_url(self) -> str:
        """What a client is given."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def script(self, seed: int, *replies: Reply) -> None:
        """Reply in these ways to the next requests with this seed."""
        self._scripts[seed].extend(replies)

    def counts(self) -> Counter[int]:
        """How often each seed was asked."""
        with self._lock:
            return Counter(request.seed for request in self.requests)

    def take(self, request: Request) -> Reply:
        """Record a request; return how to reply to it."""
        with self._lock:
            self.requests.append(request)
            script = self._scripts[request.seed]
            return script.popleft() if script else self.reply

    def done(self, body: Body) -> None:
        """Record that nothing more is sent for a request."""
        with self._lock:
            self.finished.append(body.get("seed", -1))

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is killed in the middle is what some tests are about; anything else is a fault of this file."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def chat_server() -> Iterator[ChatServer]:
    """A server that lives for the length of the block."""
    server = ChatServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()
