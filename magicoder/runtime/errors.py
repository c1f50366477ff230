"""Errors that end a run early without being a bug.

Exception
├── UserError       something the user can correct
└── Unfinished      the run waits for somebody else
BaseException
└── Interrupted     a signal stopped the run
"""

import signal
from collections.abc import Sequence


class UserError(Exception):
    """A mistake that the user can correct: a key, a file, a server. Shown without traceback, one line a problem."""

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class Interrupted(BaseException):
    """A signal stopped the run, and everything done so far is on disk.

    It is not an Exception, so that a sweep does not treat it as one failed job and continue with the next.
    """

    def __init__(self, signal_number: int, kept: str) -> None:
        self.exit_status = 128 + signal_number
        super().__init__(f"stopped by {signal.Signals(signal_number).name}: {kept}; the same command resumes")


class Unfinished(Exception):
    """The run has done its part; the message says what somebody else must do."""
