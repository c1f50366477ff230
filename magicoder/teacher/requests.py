"""The request that a snippet becomes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from magicoder.config import Teacher, TeacherPrompt

# Tokens left free for what a server adds around the messages; the original's number.
MARGIN = 10


class NoRoom(Exception):
    """A prompt so long that no token is left for an answer."""

    def __init__(self, prompt_tokens: int) -> None:
        self.prompt_tokens = prompt_tokens
        super().__init__(f"{prompt_tokens} tokens")


@dataclass(frozen=True)
class RequestMaker:
    """Makes the body of a chat completion out of a snippet, as the original does."""

    teacher: Teacher
    prompt: TeacherPrompt
    seed: int
    count_tokens: Callable[[str], int]

    def body(self, index: int, snippet: str) -> dict[str, Any]:
        """The JSON body of the request for the snippet at `index`. Errors: NoRoom if its prompt is too long."""
        user = self.prompt.user.replace("{code}", snippet)
        prompt_tokens = self.count_tokens(user)
        max_tokens = min(self.teacher.max_new_tokens, self.teacher.model_max_tokens - prompt_tokens - MARGIN)
        if max_tokens <= 0:
            raise NoRoom(prompt_tokens)
        return {
            "model": self.teacher.model,
            "messages": [*self._opening(), {"role": "user", "content": user}],
            "n": 1,
            "temperature": self.teacher.temperature,
            "seed": self.seed + index,
            "max_tokens": max_tokens,
        }

    def _opening(self) -> list[dict[str, str]]:
        messages = [{"role": "system", "content": self.prompt.system}]
        for example in self.prompt.examples:
            messages.append({"role": "user", "content": example.user})
            messages.append({"role": "assistant", "content": example.assistant})
        return messages
