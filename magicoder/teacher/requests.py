"""The request that a snippet, or any other text, becomes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from magicoder.config import TeacherConfig, TeacherPromptConfig
from magicoder.runtime.text import encodable

MARGIN = 10
"""Tokens left free for what a server adds around the messages; the original's number."""

AROUND_A_MESSAGE = 8
"""Tokens that a chat template puts around each message, at most; for what a request may cost, not for its room."""

Messages = list[dict[str, str]]


@dataclass(frozen=True)
class PromptTooLong:
    """In place of a request: its prompt is so long that no token is left for an answer."""

    prompt_tokens: int


@dataclass(frozen=True)
class Request:
    """What is asked for the row `index`: the JSON body of a chat completion, and the most tokens it can come to."""

    index: int
    body: dict[str, Any]
    prompt_tokens: int

    @property
    def max_tokens(self) -> int:
        """Tokens that the answer has at most."""
        return self.body["max_tokens"]


def prefix_messages(prompt: TeacherPromptConfig) -> Messages:
    """The messages ahead of each request: the system's, and the worked examples."""
    messages = [{"role": "system", "content": prompt.system}]
    for example in prompt.examples:
        messages.append({"role": "user", "content": example.user})
        messages.append({"role": "assistant", "content": example.assistant})
    return messages


class RequestMaker:
    """Makes requests behind the same opening messages, as the original does."""

    def __init__(
        self, teacher: TeacherConfig, prefix_messages: Messages, seed: int, count_tokens: Callable[[str], int]
    ) -> None:
        """seed: plus its index, that of each request."""
        self._teacher, self._opening, self._seed = teacher, prefix_messages, seed
        self._count_tokens = count_tokens
        self._opening_tokens = MARGIN + sum(
            count_tokens(message["content"]) + AROUND_A_MESSAGE for message in [*prefix_messages, {"content": ""}]
        )

    def request(self, index: int, user: str) -> Request | PromptTooLong:
        """The request that ends in the message `user`.

        The room for the answer is counted as the original counts it, without the opening.
        """
        user = encodable(user)  # servers, and the readers of request files, refuse half a character
        prompt_tokens = self._count_tokens(user)
        max_tokens = min(self._teacher.max_new_tokens, self._teacher.model_max_tokens - prompt_tokens - MARGIN)
        if max_tokens <= 0:
            return PromptTooLong(prompt_tokens)
        body = {
            "model": self._teacher.model,
            "messages": [*self._opening, {"role": "user", "content": user}],
            "n": 1,
            "temperature": self._teacher.temperature,
            "seed": self._seed + index,
            "max_tokens": max_tokens,
        }
        return Request(index, body, self._opening_tokens + prompt_tokens)
