"""Doubts: what costs a row, and when a run stops instead."""

import pytest

from magicoder.generation.outcomes import REASONS_BY_CODE
from magicoder.runtime.errors import UserError
from magicoder.teacher.circuit_breaker import CODES_ABOUT_A_ROW, MAX_FAILURES_IN_A_ROW, CircuitBreaker
from magicoder.teacher.errors import CODES_ABOUT_LENGTH, RetriesExhausted
from magicoder.teacher.records import Answered, Refused, Unanswered, Usage

ANSWER = Answered(0, 9, 1, 0.0, "stop", Usage(1, 1), {})


def refused(index: int) -> Refused:
    return Refused(index, "no", None)


def failed(index: int) -> Unanswered:
    return Unanswered(index, "gone", 1)


def test_only_a_later_answer_makes_a_refusal_final() -> None:
    breaker = CircuitBreaker(answered=True, reject_failed_rows=False, failed_before=())
    left_before = breaker.seen
    assert breaker.settle(refused(1), left_before) == []
    left_after = breaker.seen
    assert breaker.settle(ANSWER, left_before) == [ANSWER]
    assert breaker.settle(ANSWER, left_after) == [refused(1), ANSWER]


def test_failures_between_answers_stop_nothing_but_a_row_of_them() -> None:
    breaker = CircuitBreaker(answered=True, reject_failed_rows=True, failed_before=())
    for index in range(50):
        breaker.settle(refused(index) if index % 2 else failed(index), 0)
        breaker.raise_if_open()
        breaker.settle(ANSWER, 0)
    with pytest.raises(RetriesExhausted, match="rows are left without an answer"):
        for index in range(50, 50 + MAX_FAILURES_IN_A_ROW):
            breaker.settle(refused(index), 0)
            breaker.raise_if_open()
    assert {record.index for record in breaker.list_unsettled()} == set(range(50 + MAX_FAILURES_IN_A_ROW))
    assert all(getattr(record, "left", False) for record in breaker.list_unsettled())


def test_row_that_failed_before_is_given_up_if_others_succeed() -> None:
    breaker = CircuitBreaker(answered=True, reject_failed_rows=True, failed_before={1})
    assert breaker.settle(failed(1), 0) == [failed(1)]
    assert breaker.settle(failed(2), 0) == []
    never = CircuitBreaker(answered=False, reject_failed_rows=True, failed_before={1})
    assert never.settle(failed(1), 0) == []
    with pytest.raises(UserError):
        never.finish()


def test_refusal_about_the_row_itself_needs_no_proof() -> None:
    assert set(CODES_ABOUT_A_ROW) < set(REASONS_BY_CODE)
    breaker = CircuitBreaker(answered=False, reject_failed_rows=False, failed_before=())
    record = Refused(1, "no", "content_filter")
    assert breaker.settle(record, 0) == [record]


def test_rows_that_are_all_too_long_are_the_configs_fault() -> None:
    breaker = CircuitBreaker(answered=False, reject_failed_rows=False, failed_before=())
    too_long = [Refused(index, "too long", CODES_ABOUT_LENGTH[0]) for index in (1, 2)]
    assert breaker.settle(too_long[0], 0) == []
    with pytest.raises(UserError, match=r"refuses every request: too long; set teacher\.model_max_tokens"):
        breaker.finish()
    answered = CircuitBreaker(answered=True, reject_failed_rows=False, failed_before=())
    assert answered.settle(too_long[1], 0) == [too_long[1]]
