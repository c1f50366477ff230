"""Snippets of one's own are taken as they are, with what their rows say of them."""

from pathlib import Path

import pytest

from magicoder.runtime.errors import UserError
from magicoder.seeds.own_rows import read_snippets
from magicoder.seeds.sampling import KEEP_ALL, SpanFilter
from magicoder.seeds.snippets import SkippedDocument, Snippet
from magicoder.storage.rejected import Rejection
from tests.support import write_jsonl


def test_rows_are_not_cut_and_keep_their_small_values(tmp_path: Path) -> None:
    text = "\r\n".join(f"line {number}" for number in range(100))
    rows = [{"path": "a.rs", "code": text, "license": None, "stars": 5, "blob": "x" * 999, "tags": ["a"]}, {"code": ""}]
    path = write_jsonl(tmp_path / "seeds.jsonl", rows)
    assert list(read_snippets(path, "code", None, KEEP_ALL)) == [
        Snippet(0, text, {"file": "seeds.jsonl", "path": "a.rs", "license": None, "stars": 5}),
        SkippedDocument(1, Rejection("empty document")),
    ]
    assert len(list(read_snippets(path, "code", 1, KEEP_ALL))) == 1


def test_rows_are_judged_like_other_snippets(tmp_path: Path) -> None:
    rows = [{"code": " \n"}, {"code": "a\n\nurl = 'ftp://me:" + "s3same@host'"}]
    path = write_jsonl(tmp_path / "seeds.jsonl", rows)
    left_out = list(read_snippets(path, "code", None, SpanFilter(skip_blank=True, skip_secrets=True)))
    assert left_out == [
        SkippedDocument(0, Rejection("blank snippet", {"line": 1})),
        SkippedDocument(1, Rejection("holds a secret", {"kind": "Basic Auth Credentials", "line": 3})),
    ]


def test_row_without_the_column_is_named(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "seeds.jsonl", [{"code": "a"}, {"text": "b"}])
    with pytest.raises(UserError, match=r"seeds\.jsonl, line 2: has no column code; its columns are text"):
        list(read_snippets(path, "code", None, KEEP_ALL))
