"""Documents of source code through `datasets` from a folder of the hub's form."""

from pathlib import Path

import pytest

from magicoder.runtime.errors import UserError
from magicoder.seeds.corpora import find_standard_library, stream_documents
from tests.support import write_jsonl


def test_standard_library_is_real_code() -> None:
    assert "import" in (find_standard_library() / "json" / "__init__.py").read_text()


def test_dataset_without_the_column_content_is_named(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "corpus" / "train.jsonl", [{"text": "a"}])
    with pytest.raises(UserError, match=r"data\.generate\.dataset_name=.*has no column content"):
        list(stream_documents(str(tmp_path / "corpus"), None, None))


def test_dataset_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.generate\.dataset_name=.*nowhere: cannot be read") as caught:
        list(stream_documents(f"{tmp_path}/nowhere", None, None))
    assert len(caught.value.problems[0].splitlines()) == 1


def test_part_of_a_dataset_is_read_from_its_folder(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "corpus" / "python" / "train.jsonl", [{"content": "python"}])
    write_jsonl(tmp_path / "corpus" / "java" / "train.jsonl", [{"content": "java"}])
    assert list(stream_documents(f"{tmp_path}/corpus", "java", None)) == ["java"]


def test_document_without_text_counts_as_empty(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "corpus" / "train.jsonl", [{"content": "a"}, {"content": None}])
    assert list(stream_documents(f"{tmp_path}/corpus", None, None)) == ["a", ""]
