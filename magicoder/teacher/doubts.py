"""Whether a fault is of a row or of the server: others that are answered tell."""

from magicoder.errors import UserError
from magicoder.teacher.faults import Unanswered
from magicoder.teacher.journal import Record

IN_A_ROW = 8
"""So many refusals or failures, and not one answer, mean that something else is wrong than a row."""

CODES_ABOUT_A_ROW = ("context_length_exceeded", "content_filter", "content_policy_violation")
"""Refusals by which a server shows that it has looked at the very row."""


class Doubts:
    """Holds back what would cost a row until it is certain that no other row would have fared better.

    A refusal waits for the first answer, which shows that the server takes requests like these. A row that failed at
    all attempts waits for the next answer, which shows that the server is there.
    """

    def __init__(self, *, answered: bool, give_up: bool, at_most: float = IN_A_ROW) -> None:
        """answered: whether the server has answered requests like these before.

        give_up: whether rows without an answer are rejected in the end. Otherwise they are left for the next run.
        at_most: so many refusals or failures in a row end the work.
        """
        self.answered, self.give_up = answered, give_up
        self._at_most = at_most
        self._failures: list[Record] = []
        self._left: list[Record] = []
        self.refusals: dict[int, Record] = {}
        """Those that wait, by row."""

    def certain(self, record: Record) -> list[Record]:
        """What may be journalled now that this record has come.

        Errors: UserError if nothing but refusals comes, Unanswered if nothing but failures does.
        """
        if "answer" in record:
            self.answered = True
            return [*self._refused(), *self._failed(), record]
        if "unanswered" in record:
            self._failures.append(record)
            if len(self._failures) >= self._at_most:
                raise self._nothing_but_failures()
            return []
        self.refusals[record["index"]] = record
        if self.answered:
            return self._refused()
        if len(self.refusals) >= self._at_most:
            raise self._nothing_but_refusals()
        return []

    def at_the_end(self) -> list[Record]:
        """What may be journalled once all others are through. Errors: UserError if not one request was answered."""
        if any(record["code"] not in CODES_ABOUT_A_ROW for record in self.refusals.values()):
            raise self._nothing_but_refusals()
        if self._failures and not self.answered:
            raise self._nothing_but_failures()
        return [*self._refused(), *self._failed()]

    def check(self) -> None:
        """Errors: Unanswered if rows are left for the next run."""
        if self._left:
            raise Unanswered(
                f"row {self._left[0]['index']}: {self._left[0]['unanswered']}; {_kept(len(self._left))}; "
                "teacher.give_up=true rejects such rows"
            )

    def _refused(self) -> list[Record]:
        ready, self.refusals = list(self.refusals.values()), {}
        return ready

    def _failed(self) -> list[Record]:
        failures, self._failures = self._failures, []
        if self.give_up:
            return failures
        self._left += failures
        return []

    def _nothing_but_failures(self) -> Unanswered:
        return Unanswered(f"{self._failures[0]['unanswered']}; {_kept(len(self._left) + len(self._failures))}")

    def _nothing_but_refusals(self) -> UserError:
        first = next(iter(self.refusals.values()))
        return UserError(f"the teacher refuses every request: {first['refused']}")


def _kept(left: int) -> str:
    rows = "1 row is" if left == 1 else f"{left} rows are"
    return f"{rows} left without an answer; the others are kept, and the same command goes on from there"
