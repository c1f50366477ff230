"""Where documents of source code come from: a folder, or a dataset of the Hugging Face hub."""

import sysconfig
from collections.abc import Iterator
from pathlib import Path

from magicoder.data.hub import stream_rows
from magicoder.errors import UserError

SUFFIXES = {
    "python": (".py",),
    "typescript": (".ts", ".tsx"),
    "csharp": (".cs",),
    "rust": (".rs",),
    "swift": (".swift",),
    "php": (".php",),
    "java": (".java",),
    "cpp": (".cpp", ".cc", ".cxx", ".hpp", ".hh", ".h"),
    "shell": (".sh", ".bash"),
}


def standard_library() -> Path:
    """The folder of the running Python's own source: real code on every machine."""
    return Path(sysconfig.get_path("stdlib"))


def local_documents(folder: Path, language: str, at_most: int | None) -> Iterator[str]:
    """The text of files of `language` below `folder`, in the order of their paths; installed packages left out.

    Bytes that are not UTF-8 are replaced. Errors: UserError if there is no such folder or no such file in it.
    """
    if not folder.is_dir():
        raise UserError(f"data.generate.path={folder}: no such folder")
    if language not in SUFFIXES:
        raise UserError(f"data.generate.data_dir={language}: choose one of {', '.join(SUFFIXES)}")
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix in SUFFIXES[language]
        and "site-packages" not in path.relative_to(folder).parts
        and path.is_file()
    )
    if not paths:
        raise UserError(f"data.generate.path={folder}: has no {language} files ({', '.join(SUFFIXES[language])})")
    for path in paths[:at_most]:
        yield path.read_bytes().decode("utf-8", errors="replace")


def hub_documents(dataset_name: str, data_dir: str | None, at_most: int | None) -> Iterator[str]:
    """The column `content` of a dataset of the hub, or of a local folder of the same form.

    Errors: UserError if the dataset cannot be had or has no such column.
    """
    place = f"data.generate.dataset_name={dataset_name}{f' ({data_dir})' if data_dir else ''}"
    for row in stream_rows(dataset_name, place=place, at_most=at_most, data_dir=data_dir):
        if "content" not in row:
            raise UserError(f"{place}: has no column content; its columns are {', '.join(row)}")
        if not isinstance(row["content"], str | None):
            raise UserError(f"{place}: its column content holds no text but {type(row['content']).__name__}")
        yield row["content"] or ""
