"""A server of chat completions that costs next to nothing: `python bench/chat_mock.py LATENCY`, on one core.

It prints its port and answers every request after LATENCY seconds with the same completion. At each line of standard
input it prints how many it answered since the last one, and when the first of them came, by time.time().
"""

import asyncio
import json
import sys
import time

ANSWER = (
    "[Problem Description]\n" + "Write a function that sums a list. " * 20 + "\n[Solution]\n" + "return sum(x)\n" * 20
)


class Server(asyncio.Protocol):
    """One connection: requests with a Content-Length, answered one after another."""

    latency = 0.0
    answered = 0
    first: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport, self.received = transport, b""

    def data_received(self, data: bytes) -> None:
        self.received += data
        while (end := self.received.find(b"\r\n\r\n")) >= 0:
            head = self.received[:end].lower()
            length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
            if len(self.received) < end + 4 + length:
                return
            body, self.received = self.received[end + 4 : end + 4 + length], self.received[end + 4 + length :]
            Server.first = Server.first or time.time()
            asyncio.get_running_loop().call_later(Server.latency, self.answer, body)

    def answer(self, body: bytes) -> None:
        Server.answered += 1
        if not self.transport.is_closing():
            self.transport.write(RESPONSE)


def build_response() -> bytes:
    message = {"role": "assistant", "content": ANSWER}
    completion = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1700000000,
        "model": "mock",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}],
        "usage": {"prompt_tokens": 200, "completion_tokens": 250, "total_tokens": 450},
        "system_fingerprint": "fp_1",
    }
    body = json.dumps(completion).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


RESPONSE = build_response()


async def main() -> None:
    Server.latency = float(sys.argv[1])
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Server, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    while await loop.run_in_executor(None, sys.stdin.readline):
        print(json.dumps([Server.answered, Server.first]), flush=True)
        Server.answered, Server.first = 0, None


if __name__ == "__main__":
    asyncio.run(main())
