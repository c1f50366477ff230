"""The form of a rejected row."""

from magicoder.storage.rejected import Rejection


def test_reason_stands_first_and_evidence_last() -> None:
    assert list(Rejection("why", "because").as_row({"a": 1, "b": 2}).items()) == [
        ("reason", "why"),
        ("a", 1),
        ("b", 2),
        ("evidence", "because"),
    ]


def test_own_reason_and_evidence_of_a_row_give_way_to_ours() -> None:
    """Rows that an earlier run rejected may be fed in again; their verdict is not this one."""
    row = {"evidence": "old", "a": 1, "reason": "old"}
    assert list(Rejection("why").as_row(row).items()) == [("reason", "why"), ("a", 1), ("evidence", None)]
    assert row == {"evidence": "old", "a": 1, "reason": "old"}
