"""Decide whether failures come from one row or from the server, judging by later requests that succeed."""

import dataclasses
from collections.abc import Container, Iterable

from magicoder.runtime.errors import UserError
from magicoder.teacher.errors import CODES_ABOUT_LENGTH, RetriesExhausted
from magicoder.teacher.records import Answered, Record, Refused, Unanswered

MAX_FAILURES_IN_A_ROW = 8
"""So many refusals and failures without an answer between them are not the fault of single rows."""

CODES_ABOUT_CONTENT = ("content_filter", "content_policy_violation")
CODES_ABOUT_A_ROW = (*CODES_ABOUT_LENGTH, *CODES_ABOUT_CONTENT)
"""Refusals by which a server shows that it has looked at the row."""

HINT_AT_LENGTH = (
    "; set teacher.model_max_tokens to what the model or the account takes, or teacher.max_new_tokens to less, and the "
    "same command continues"
)

Failure = Refused | Unanswered


class CircuitBreaker:
    """Holds back every record that would cost a row until a later request is answered.

    Example:
        breaker = CircuitBreaker(answered=False, reject_failed_rows=False, failed_before=set())
        departed = breaker.seen                    # when a request is sent
        journal.append(*breaker.settle(record, departed))
        breaker.raise_if_open()
    """

    def __init__(
        self,
        *,
        answered: bool,
        reject_failed_rows: bool,
        failed_before: Container[int],
        at_most: int | None = MAX_FAILURES_IN_A_ROW,
    ) -> None:
        """answered: requests like these were answered before. failed_before: rows that a former run left.

        reject_failed_rows: reject rows without an answer instead of leaving them to the next run.
        at_most: so many failures in a row open the breaker; None where the order of results means nothing.
        """
        self.answered = answered
        self._reject_failed_rows, self._failed_before, self._at_most = reject_failed_rows, failed_before, at_most
        self._waiting: dict[int, tuple[int, Failure]] = {}
        self._left: list[Failure] = []
        self._in_a_row = 0
        self.seen = 0
        """Number of records so far: a request remembers it when it is sent."""

    def __contains__(self, index: int) -> bool:
        """Return whether a record of this row is held back."""
        return index in self._waiting

    def settle(self, record: Record, departed: int) -> list[Record]:
        """Take a new record; return the records that may be journaled now.

        departed: the value of `seen` when its request was sent. An answer proves nothing about later failures: the
        server may have broken down between the two.
        """
        self.seen += 1
        if isinstance(record, Answered):
            self.answered, self._in_a_row = True, 0
            # Results of batches and files come in any order, so there each answer speaks for all.
            return [*self._release_until(departed if self._at_most is not None else self.seen), record]
        if not isinstance(record, Failure) or (isinstance(record, Refused) and self._is_about_the_row(record)):
            return [record]
        # A row that failed in two runs while others were answered has had its chance.
        had_its_chance = self._reject_failed_rows and record.index in self._failed_before
        if self.answered and (self._at_most is None or had_its_chance):
            return list(self._mark_left([record]))
        self._waiting[record.index] = self.seen, record
        self._in_a_row += 1
        return []

    def raise_if_open(self) -> None:
        """Errors: UserError if too many failures came without an answer between them."""
        if self._at_most is not None and self._in_a_row >= self._at_most:
            raise self._explain()

    def finish(self) -> list[Record]:
        """Return what may be journaled after the last request. Errors: UserError if not one request was answered."""
        if self._waiting and not self.answered:
            raise self._explain()
        return self._release_until(self.seen)

    def list_unsettled(self) -> list[Record]:
        """Return the records to journal for rows still held back when the work ends early: they are left."""
        return [dataclasses.replace(record, left=True) for _, record in self._waiting.values()]

    def raise_if_left(self) -> None:
        """Errors: RetriesExhausted if rows are left to the next run."""
        if self._left:
            first = self._left[0]
            raise RetriesExhausted(f"row {first.index}: {first.message}; {_count_left(len(self._left))}")

    def _is_about_the_row(self, record: Refused) -> bool:
        """Return whether a refusal needs no answer to others as a proof.

        If not one request was answered, every row may be too long because the config asks for too much.
        """
        return record.code in CODES_ABOUT_A_ROW and (self.answered or record.code not in CODES_ABOUT_LENGTH)

    def _release_until(self, departed: int) -> list[Record]:
        """Release the records that came no later than `departed`."""
        released = [record for came, record in self._waiting.values() if came <= departed]
        for record in released:
            del self._waiting[record.index]
        # They came before this request was sent, and the server answered it: the fault was theirs.
        return list(self._mark_left(released))

    def _mark_left(self, records: Iterable[Failure]) -> Iterable[Record]:
        for record in records:
            if isinstance(record, Refused) or self._reject_failed_rows:
                yield record
            else:
                self._left.append(record)
                yield dataclasses.replace(record, left=True)

    def _explain(self) -> UserError:
        """Build the error for a server that answers nothing."""
        _, first = next(iter(self._waiting.values()))
        if isinstance(first, Refused) and not self.answered:
            hint = HINT_AT_LENGTH if first.code in CODES_ABOUT_LENGTH else ""
            return UserError(f"the teacher refuses every request: {first.message}{hint}")
        return RetriesExhausted(f"{first.message}; {_count_left(len(self._left) + len(self._waiting))}")


def _count_left(left: int) -> str:
    rows = "1 row is" if left == 1 else f"{left} rows are"
    return (
        f"{rows} left without an answer; the others are kept, and the same command resumes "
        "(with teacher.reject_failed_rows=true it rejects such rows)"
    )
