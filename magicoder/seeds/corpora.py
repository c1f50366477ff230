"""Find documents of source code: the standard library, or a dataset of the Hugging Face hub."""

import sysconfig
from collections.abc import Iterator
from pathlib import Path

from magicoder.runtime.errors import UserError
from magicoder.storage.hub import stream_rows

SUFFIXES = {
    "python": (".py", ".pyw", ".pyi", ".ipynb"),
    "typescript": (".ts", ".tsx", ".mts", ".cts"),
    "csharp": (".cs",),
    "rust": (".rs",),
    "swift": (".swift",),
    "php": (".php",),
    "java": (".java",),
    # `.C` is C++ by old custom, `.c` is C; the other suffixes count in any case.
    "cpp": (".cpp", ".cc", ".cxx", ".c++", ".C", ".hpp", ".hh", ".hxx", ".h++", ".h", ".ipp", ".tpp", ".inl"),
    "shell": (".sh", ".bash"),
}
"""The suffixes of the documented languages."""


def find_standard_library() -> Path:
    """Return the folder of the running Python's own source: real code on every machine."""
    return Path(sysconfig.get_path("stdlib"))


def stream_documents(dataset_name: str, data_dir: str | None, at_most: int | None) -> Iterator[str]:
    """Yield the column `content` of a dataset of the hub, or of a local folder of the same form.

    Errors: UserError if the dataset is unavailable or lacks the column.
    """
    place = f"data.generate.dataset_name={dataset_name}{f' ({data_dir})' if data_dir else ''}"
    for row in stream_rows(dataset_name, place=place, at_most=at_most, data_dir=data_dir):
        if "content" not in row:
            raise UserError(f"{place}: has no column content; its columns are {', '.join(row)}")
        if not isinstance(row["content"], str | None):
            raise UserError(f"{place}: its column content holds {type(row['content']).__name__}")
        yield row["content"] or ""
