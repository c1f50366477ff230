"""The API key: named in the config, held by the environment alone."""

import os

from magicoder.config import Teacher
from magicoder.errors import UserError

# What the SDK wants to hear where a server asks for no key.
NO_KEY = "none"


def api_key(teacher: Teacher) -> str:
    """The key to authenticate with. Errors: UserError if its environment variable is not set."""
    if teacher.api_key_env is None:
        return NO_KEY
    key = os.environ.get(teacher.api_key_env)
    if not key:
        raise UserError(
            f"teacher.api_key_env: the environment variable {teacher.api_key_env} is not set; put the API key into it"
        )
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise UserError(f"teacher.api_key_env: {teacher.api_key_env} holds blanks or characters that no API key has")
    return key
