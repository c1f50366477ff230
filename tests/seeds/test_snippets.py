"""Seed snippets are those that the original drew, in the order in which it asked about them."""

from collections.abc import Iterable
from pathlib import Path

import pytest

from magicoder.seeds.corpora import stream_documents
from magicoder.seeds.sampling import SpanFilter
from magicoder.seeds.snippets import SkippedDocument, Snippet, draw_snippets
from magicoder.storage.files import read_rows
from magicoder.storage.rejected import Rejection
from tests.support import GOLDEN

DOCUMENTED = {"chunk_size": 1000, "seed": 976, "min_lines": 1, "max_lines": 15}


def golden_documents() -> list[str]:
    return [row["content"] for row in read_rows(GOLDEN / "seeds" / "documents.jsonl.gz")]


def test_documents_from_datasets_keep_every_character(tmp_path: Path) -> None:
    """`datasets` must not cut or fold the line ends on which the draw depends."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "train.jsonl.gz").write_bytes((GOLDEN / "seeds" / "documents.jsonl.gz").read_bytes())
    assert list(stream_documents(str(folder), None, None)) == golden_documents()
    assert list(stream_documents(str(folder), None, 3)) == golden_documents()[:3]


def test_document_without_lines_is_named_and_draws_nothing() -> None:
    documents = [f"{number}a\n{number}b\n{number}c\n" for number in range(20)]
    with_gaps = ["", *documents[:9], "", "", *documents[9:], ""]
    drawn = list(draw_snippets(with_gaps, **DOCUMENTED))
    blanks = [each for each in drawn if isinstance(each, SkippedDocument)]
    assert [blank.raw_index for blank in blanks] == [0, 10, 11, 23]
    assert blanks[0].as_row() == {"reason": "empty document", "raw_index": 0}
    texts = [each.text for each in drawn if isinstance(each, Snippet)]
    assert texts == [each.text for each in draw_snippets(documents, **DOCUMENTED) if isinstance(each, Snippet)]


def test_position_of_a_document_counts_those_that_gave_nothing() -> None:
    drawn = list(draw_snippets(["a", "", "b"], **DOCUMENTED))
    assert [each.raw_index for each in drawn] == [0, 1, 2]


def test_further_snippets_of_a_document_follow_its_first() -> None:
    documents = ["".join(f"{number} {line}\n" for line in range(90)) for number in range(3)]
    drawn = [each for each in draw_snippets(documents, **DOCUMENTED, per_document=3) if isinstance(each, Snippet)]
    assert [each.raw_index for each in drawn] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert drawn[0] == next(draw_snippets(documents, **DOCUMENTED))
    assert len(set("".join(each.text for each in drawn).splitlines())) == sum(each.text.count("\n") for each in drawn)


def test_blank_snippet_of_a_corpus_is_kept_unless_asked() -> None:
    documents = [" \n", "a\n"]
    assert [type(each) for each in draw_snippets(documents, **DOCUMENTED)] == [Snippet, Snippet]
    found = list(draw_snippets(documents, **DOCUMENTED, span_filter=SpanFilter(skip_blank=True)))
    assert found == [SkippedDocument(0, Rejection("blank snippet", {"line": 1})), Snippet(1, "a\n")]


def test_documents_are_taken_one_at_a_time() -> None:
    """A corpus of hundreds of gigabytes is streamed: nothing beyond what is drawn may be fetched."""
    taken = []

    def endless() -> Iterable[str]:
        number = 0
        while True:
            taken.append(number)
            yield f"{number}\n"
            number += 1

    first = next(draw_snippets(endless(), **{**DOCUMENTED, "chunk_size": 10}))
    assert first == Snippet(0, "0\n")
    assert len(taken) == 1


@pytest.mark.parametrize("lines", [1, 4])
def test_snippet_has_the_number_of_lines_asked_for(lines: int) -> None:
    document = "".join(f"{number}\n" for number in range(1000))
    for each in draw_snippets([document] * 50, chunk_size=50, seed=976, min_lines=lines, max_lines=lines):
        assert isinstance(each, Snippet)
        assert each.text in document
        assert each.text.count("\n") <= lines
