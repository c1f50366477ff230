"""Documents of source code from a folder, or through `datasets` from a folder of the hub's form."""

from pathlib import Path

import pytest

from magicoder.data.corpora import hub_documents, local_documents, standard_library
from magicoder.errors import UserError
from tests.conftest import write_jsonl


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = {
        "b.py": b"b\r\n\x0cend",
        "a/z.py": b"z",
        "a/latin.py": b"caf\xe9",
        "a/notes.txt": b"no code",
        "lib/site-packages/other.py": b"installed",
        "c.rs": b"fn main() {}",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return tmp_path


def test_folder_is_read_in_the_order_of_its_paths(folder: Path) -> None:
    """On every machine the same: a folder's own order differs from one file system to the next."""
    assert list(local_documents(folder, "python", None)) == ["caf\ufffd", "z", "b\r\n\x0cend"]
    assert list(local_documents(folder, "python", 2)) == ["caf\ufffd", "z"]
    assert list(local_documents(folder, "rust", None)) == ["fn main() {}"]


def test_standard_library_is_real_code() -> None:
    document = next(local_documents(standard_library(), "python", 1))
    assert "import" in document


@pytest.mark.parametrize(
    ("name", "language", "complaint"),
    [
        ("nowhere", "python", "no such folder"),
        ("a", "fortran", "data.generate.data_dir=fortran: choose one of python, typescript"),
        ("a", "rust", r"has no rust files \(\.rs\)"),
    ],
)
def test_folder_that_gives_nothing_is_a_line_that_says_why(
    folder: Path, name: str, language: str, complaint: str
) -> None:
    with pytest.raises(UserError, match=complaint):
        list(local_documents(folder / name, language, None))


def test_dataset_without_the_column_content_is_named(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "corpus" / "train.jsonl", [{"text": "a"}])
    with pytest.raises(UserError, match=r"data\.generate\.dataset_name=.*has no column content"):
        list(hub_documents(str(tmp_path / "corpus"), None, None))


def test_dataset_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.generate\.dataset_name=.*nowhere: cannot be read") as caught:
        list(hub_documents(f"{tmp_path}/nowhere", None, None))
    assert len(caught.value.problems[0].splitlines()) == 1


def test_part_of_a_dataset_is_read_from_its_folder(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "corpus" / "python" / "train.jsonl", [{"content": "python"}])
    write_jsonl(tmp_path / "corpus" / "java" / "train.jsonl", [{"content": "java"}])
    assert list(hub_documents(f"{tmp_path}/corpus", "java", None)) == ["java"]


def test_document_without_text_counts_as_empty(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "corpus" / "train.jsonl", [{"content": "a"}, {"content": None}])
    assert list(hub_documents(f"{tmp_path}/corpus", None, None)) == ["a", ""]
