"""The request that a snippet becomes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from magicoder.config import Teacher, TeacherPrompt

# Tokens left free for what a server adds around the messages; the original's number.
MARGIN = 10


@dataclass(frozen=True)
class RequestMaker:
    """Makes the body of a chat completion out of a snippet, as the original does."""

    teacher: Teacher
    prompt: TeacherPrompt
    seed: int
    count_tokens: Callable[[str], int]

    def body(self, index: int, snippet: str) -> dict[str, Any] | None:
        """The JSON body of the request for the snippet at `index`; None if its prompt leaves no room for an answer."""
        user = self.prompt.user.replace("{code}", snippet)
        room = self.teacher.model_max_tokens - self.count_tokens(user) - MARGIN
        max_tokens = min(self.teacher.max_new_tokens, room)
        if max_tokens <= 0:
            return None
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
