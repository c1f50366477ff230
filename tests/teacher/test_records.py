"""Records on disk: every kind comes back, and so do the lines of former versions."""

import json

import pytest

from magicoder.teacher.records import (
    Answered,
    NotCharged,
    Note,
    PromptTooLong,
    Record,
    Refused,
    Sent,
    Unanswered,
    Usage,
    decode_head,
    decode_record,
    encode_record,
)

ANSWER = {"choices": [{"message": {"content": 'a quote: ", "answer": {'}, "finish_reason": "stop"}]}
LINES: list[tuple[dict, Record | Note]] = [
    (
        {
            "index": 3,
            "max_tokens": 50,
            "attempts": 2,
            "seconds": 0.5,
            "noted": True,
            "batch": True,
            "finish_reason": "stop",
            "usage": [7, 5],
            "answer": ANSWER,
        },
        Answered(3, 50, 2, 0.5, "stop", Usage(7, 5), ANSWER, noted=True, by_batch=True),
    ),
    ({"index": 3, "refused": "no", "code": "content_filter"}, Refused(3, "no", "content_filter")),
    ({"index": 3, "refused": "no", "code": None, "left": True}, Refused(3, "no", None, left=True)),
    ({"index": 3, "unanswered": "reset", "attempts": 4}, Unanswered(3, "reset", 4)),
    ({"index": 3, "unanswered": "reset", "attempts": 4, "left": True}, Unanswered(3, "reset", 4, left=True)),
    ({"index": 3, "no_room": 9000}, PromptTooLong(3, 9000)),
    ({"index": 3, "sent": [10, 50]}, Sent(3, Usage(10, 50))),
    ({"index": 3, "sent": [10, 50], "batch": True}, Sent(3, Usage(10, 50), by_batch=True)),
    ({"index": 3, "not_charged": True}, NotCharged(3)),
]


@pytest.mark.parametrize(("fields", "record"), LINES, ids=[type(record).__name__ for _, record in LINES])
def test_a_record_has_the_documented_line(fields: dict, record: Record | Note) -> None:
    """Byte for byte: journals of former versions are continued, and those of this one read by them."""
    line = json.dumps(fields).encode() + b"\n"
    assert encode_record(record) == line
    assert decode_record(line) == record


def test_a_head_is_the_record_without_its_answer() -> None:
    fields, record = LINES[0]
    head = decode_head(json.dumps(fields).encode() + b"\n")
    assert isinstance(head, Answered) and isinstance(record, Answered)
    assert head == Answered(3, 50, 2, 0.5, "stop", Usage(7, 5), {}, noted=True, by_batch=True)


def test_lines_without_later_fields_are_read() -> None:
    assert decode_record(b'{"index": 1, "refused": "kept"}') == Refused(1, "kept", None)
    assert decode_record(b'{"index": 1, "usage": [1, 2], "answer": {}}') == Answered(
        1, 0, 0, 0.0, None, Usage(1, 2), {}
    )


def test_usage_is_added_and_subtracted_by_kind() -> None:
    assert Usage(1, 2) + Usage(3, 5) - Usage(1, 1) == Usage(3, 6)
