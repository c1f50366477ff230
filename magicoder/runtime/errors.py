"""The two ways in which a run ends early without being a bug."""

import signal
from collections.abc import Sequence


class UserError(Exception):
    """Something the user can mend: a key, a file, a server. Shown without a traceback, a line for each problem."""

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class Interrupted(BaseException):
    """A signal asked the run to stop and everything done so far is on disk.

    No Exception, so that a sweep does not take it for one failed job and go on with the next.
    """

    def __init__(self, signal_number: int, kept: str) -> None:
        self.exit_status = 128 + signal_number
        super().__init__(
            f"stopped by {signal.Signals(signal_number).name}: {kept}; the same command goes on from there"
        )


class Unfinished(Exception):
    """The run has done its part, and waits for what somebody else must do; it says what."""
