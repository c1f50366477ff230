"""The API key: named in the config, held by the environment alone."""

import os
from dataclasses import dataclass, field

from magicoder.config import TeacherConfig
from magicoder.runtime.errors import UserError

NO_KEY = "none"
"""A placeholder: the SDK demands a key even for servers that need none."""
SHORTEST_SECRET = 8
"""Shorter keys are placeholders for servers that ask for none, and parts of honest words."""


@dataclass(frozen=True)
class Key:
    """A key, and the environment variable that holds it; None where the server asks for no key."""

    name: str | None
    value: str = field(default=NO_KEY, repr=False)

    def mask(self, message: str) -> str:
        """Replace the key in a message: servers echo it, and it must reach no file and no screen."""
        return message if len(self.value) < SHORTEST_SECRET else message.replace(self.value, "[API key]")


def read_api_key(teacher: TeacherConfig) -> Key:
    """Read the key from the environment. Errors: UserError if its variable is not set or holds no possible key."""
    if teacher.api_key_env is None:
        return Key(None)
    key = os.environ.get(teacher.api_key_env)
    if not key:
        raise UserError(
            f"teacher.api_key_env: the environment variable {teacher.api_key_env} is not set; put the API key into it"
        )
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise UserError(f"teacher.api_key_env: {teacher.api_key_env} holds blanks or characters that no API key has")
    return Key(teacher.api_key_env, key)
