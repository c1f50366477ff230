"""Build the chat completion request for a snippet, or for any other text."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from magicoder.config import TeacherConfig, TeacherPromptConfig
from magicoder.runtime.text import make_encodable
from magicoder.teacher.records import PromptTooLong, Usage

MARGIN = 10
"""Tokens left free for the server's additions to the messages; the original's number."""

TOKENS_AROUND_A_MESSAGE = 8
"""The most tokens that a chat template puts around a message; they count for the cost of a request, not for its
room."""

Messages = list[dict[str, str]]


@dataclass(frozen=True)
class Request:
    """The request for the row `index`.

    body: JSON of a chat completion, before it is shaped for a server. prompt_tokens: the most that it can have.
    max_tokens: the token limit of the answer.
    """

    index: int
    body: dict[str, Any]
    prompt_tokens: int
    max_tokens: int

    @property
    def max_usage(self) -> Usage:
        """The most tokens that the request can be billed."""
        return Usage(self.prompt_tokens, self.max_tokens)


def prefix_messages(prompt: TeacherPromptConfig) -> Messages:
    """Return the messages ahead of each request: the system message, unless it is empty, and the worked examples."""
    messages = [{"role": "system", "content": prompt.system}] if prompt.system else []
    for example in prompt.examples:
        messages.append({"role": "user", "content": example.user})
        messages.append({"role": "assistant", "content": example.assistant})
    return messages


class RequestMaker:
    """Builds requests with the same prefix messages, as the original does."""

    def __init__(self, teacher: TeacherConfig, prefix: Messages, seed: int, count_tokens: Callable[[str], int]) -> None:
        """seed: added to the index of a request, it is the request's seed."""
        self._teacher, self._prefix, self._seed = teacher, prefix, seed
        self._count_tokens = count_tokens
        self._prefix_tokens = MARGIN + sum(
            count_tokens(message["content"]) + TOKENS_AROUND_A_MESSAGE for message in [*prefix, {"content": ""}]
        )

    def make(self, index: int, user: str) -> Request | PromptTooLong:
        """Build the request that ends with the message `user`.

        As in the original, the room for the answer does not count the prefix messages.
        """
        user = make_encodable(user)  # servers and readers of request files refuse lone surrogates
        prompt_tokens = self._count_tokens(user)
        max_tokens = min(self._teacher.max_new_tokens, self._teacher.model_max_tokens - prompt_tokens - MARGIN)
        if max_tokens <= 0:
            return PromptTooLong(index, prompt_tokens)
        body = {
            "model": self._teacher.model,
            "messages": [*self._prefix, {"role": "user", "content": user}],
            "n": 1,
            "temperature": self._teacher.temperature,
            "seed": self._seed + index,
            "max_tokens": max_tokens,
        }
        return Request(index, body, self._prefix_tokens + prompt_tokens, max_tokens)
