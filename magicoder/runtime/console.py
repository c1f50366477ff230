"""Messages to the person at the terminal."""

import sys

from magicoder.runtime.ranks import is_first


def say(message: str, *, error: bool = False) -> None:
    """Print a message at once, from the first of several processes alone.

    error: print to standard error, for warnings and mistakes; results and progress belong on standard output.
    """
    if is_first():
        print(message, file=sys.stderr if error else sys.stdout, flush=True)
