"""A snapshot of any number of snippets is written and read as a stream, in the documented order."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from magicoder.runtime.errors import UserError
from magicoder.seeds.snapshot import read_skipped, read_snippets, write_snippets
from magicoder.seeds.snippets import SkippedDocument, SkippedFile, Snippet, draw_snippets
from magicoder.storage.files import read_rows
from magicoder.storage.rejected import Rejection
from tests.support import GOLDEN, read_jsonl


def golden(chunk_size: int) -> Iterator[Snippet | SkippedDocument]:
    documents = (row["content"] for row in read_rows(GOLDEN / "seeds" / "documents.jsonl.gz"))
    return draw_snippets(documents, chunk_size=chunk_size, seed=976, min_lines=1, max_lines=15)


def test_snapshot_is_that_of_the_original(tmp_path: Path) -> None:
    expected = read_jsonl(GOLDEN / "seeds" / "expected.jsonl")
    assert write_snippets(tmp_path / "all.jsonl", golden(1000), 976, 0, 10**9) == len(expected)
    assert read_jsonl(tmp_path / "all.jsonl") == expected
    write_snippets(tmp_path / "some.jsonl", golden(64), 976, 20, 100)
    assert read_jsonl(tmp_path / "some.jsonl") == read_jsonl(GOLDEN / "seeds" / "expected_chunk64_start20_n100.jsonl")


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "snippets.jsonl"
    source = {"path": "a.py", "first_line": 3}
    drawn = [
        SkippedFile("vendor", Rejection("vendored folder", "vendor")),
        Snippet(0, "a\u2028\x0c\ud800\r\n", source),
        SkippedDocument(1, Rejection("empty document")),
        SkippedDocument(2, Rejection("no function", {"path": "c.py"})),
        Snippet(3, "\0"),
    ]
    assert write_snippets(path, drawn, 976, 0, 10) == 2
    assert {snippet for _, snippet in snippets_without_source(path)} == {(0, "a\u2028\x0c\ud800\r\n"), (3, "\0")}
    assert [index for index, _ in read_snippets(path)] == [0, 1]
    assert [snippet.provenance for _, snippet in read_snippets(path) if snippet.raw_index == 0] == [source]
    assert list(read_skipped(path)) == [
        {"reason": "vendored folder", "path": "vendor", "evidence": "vendor"},
        {"reason": "empty document", "raw_index": 1},
        {"reason": "no function", "raw_index": 2, "evidence": {"path": "c.py"}},
    ]
    assert [child.name for child in path.parent.iterdir()] == ["snippets.jsonl"]


def snippets_without_source(path: Path) -> list[tuple[int, tuple[int, str]]]:
    return [(index, (snippet.raw_index, snippet.text)) for index, snippet in read_snippets(path)]


def test_short_corpus_is_an_error_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"seed_code_start_index=2: the corpus has only 2 snippets"):
        write_snippets(tmp_path / "s.jsonl", [Snippet(0, "a"), Snippet(1, "b")], 976, 2, 10)
    assert list(tmp_path.iterdir()) == []


def test_corpus_that_fails_midway_leaves_no_file(tmp_path: Path) -> None:
    def failing() -> Iterator[Snippet]:
        yield Snippet(0, "a")
        raise UserError("gone")

    with pytest.raises(UserError, match="gone"):
        write_snippets(tmp_path / "s.jsonl", failing(), 976, 0, 10)
    assert list(tmp_path.iterdir()) == []


LARGE = """
import resource, sys
from pathlib import Path
from magicoder.seeds.snapshot import read_snippets, write_snippets
from magicoder.seeds.snippets import Snippet
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
write_snippets(Path(sys.argv[1]), [Snippet(0, "a")], 976, 0, 1)
before = peak()
corpus = (Snippet(number, "x" * 1000) for number in range(150_000))
assert write_snippets(Path(sys.argv[1]), corpus, 976, 0, 150_000) == 150_000
assert sum(1 for _ in read_snippets(Path(sys.argv[1]))) == 150_000
print(peak() - before)
"""


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    """150,000 documents, as documented: their snippets have 150 MB, and memory must not."""
    line = [sys.executable, "-c", LARGE, str(tmp_path / "snippets.jsonl")]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 20_000
