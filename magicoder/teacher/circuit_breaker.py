"""Whether a fault is of a row or of the server: others that are answered tell."""

from collections.abc import Container, Iterable

from magicoder.runtime.errors import UserError
from magicoder.teacher.errors import RetriesExhausted
from magicoder.teacher.journal import Record

IN_A_ROW = 8
"""So many refusals and failures without an answer in between mean that something else is wrong than a row."""

CODES_ABOUT_A_ROW = ("context_length_exceeded", "content_filter", "content_policy_violation")
"""Refusals by which a server shows that it has looked at the very row."""


class CircuitBreaker:
    """Holds back what would cost a row until an answer to a later request shows that the server is there for others."""

    def __init__(
        self, *, answered: bool, give_up: bool, failed_before: Container[int], at_most: int | None = IN_A_ROW
    ) -> None:
        """answered: whether requests like these were ever answered. failed_before: rows that a former run left.

        give_up: whether rows without an answer are rejected. Otherwise they are left for the next run.
        at_most: so many faults in a row are too many; None where results come in no order that tells anything.
        """
        self.answered = answered
        self._give_up, self._failed_before, self._at_most = give_up, failed_before, at_most
        self._waiting: dict[int, tuple[int, Record]] = {}
        self._left: list[Record] = []
        self._in_a_row = 0
        self.seen = 0
        """Records that have come: what a request is to remember when it leaves."""

    def __contains__(self, index: int) -> bool:
        """Whether a row has a record that waits."""
        return index in self._waiting

    def certain(self, record: Record, departed: int) -> list[Record]:
        """What may be journalled now that this record of an answer, a refusal or a failure has come.

        departed: what `seen` was when its request left. An answer tells nothing about faults that came later than that.
        """
        self.seen += 1
        if "answer" in record:
            self.answered, self._in_a_row = True, 0
            return [*self._settled(departed if self._at_most is not None else self.seen), record]
        if record.get("code") in CODES_ABOUT_A_ROW:
            return [record]
        # What has failed in two runs, in one of which others were answered, has had its chance.
        had_its_chance = self._give_up and record["index"] in self._failed_before
        if self.answered and (self._at_most is None or had_its_chance):
            return list(self._as_told([record]))
        self._waiting[record["index"]] = self.seen, record
        self._in_a_row += 1
        return []

    def check(self) -> None:
        """Errors: UserError if too many faults have come without an answer in between."""
        if self._at_most is not None and self._in_a_row >= self._at_most:
            raise self._nothing_else()

    def at_the_end(self) -> list[Record]:
        """What may be journalled once all others are through. Errors: UserError if not one request was answered."""
        if self._waiting and not self.answered:
            raise self._nothing_else()
        return self._settled(self.seen)

    def unsettled(self) -> list[Record]:
        """What is to be journalled of those that still wait when the work ends early: that they had a chance."""
        return [{**record, "left": True} for _, record in self._waiting.values()]

    def check_left(self) -> None:
        """Errors: Unanswered if rows are left for the next run."""
        if self._left:
            first = self._left[0]
            raise RetriesExhausted(f"row {first['index']}: {first['unanswered']}; {_kept(len(self._left))}")

    def _settled(self, departed: int) -> list[Record]:
        """Those of the waiting that had come by then."""
        settled = [record for came, record in self._waiting.values() if came <= departed]
        for record in settled:
            del self._waiting[record["index"]]
        return list(self._as_told(settled))

    def _as_told(self, records: Iterable[Record]) -> Iterable[Record]:
        for record in records:
            if "refused" in record or self._give_up:
                yield record
            else:
                self._left.append(record)
                yield {**record, "left": True}

    def _nothing_else(self) -> UserError:
        """What to say where nothing but refusals and failures comes."""
        _, first = next(iter(self._waiting.values()))
        if "refused" in first and not self.answered:
            return UserError(f"the teacher refuses every request: {first['refused']}")
        words = first["refused"] if "refused" in first else first["unanswered"]
        return RetriesExhausted(f"{words}; {_kept(len(self._left) + len(self._waiting))}")


def _kept(left: int) -> str:
    rows = "1 row is" if left == 1 else f"{left} rows are"
    return (
        f"{rows} left without an answer; the others are kept, and the same command goes on from there "
        "(with teacher.give_up=true it rejects such rows)"
    )
