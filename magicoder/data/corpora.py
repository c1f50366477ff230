"""Where documents of source code come from: a folder, or a dataset read through `datasets`."""

import sysconfig
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

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
        if path.suffix in SUFFIXES[language] and "site-packages" not in path.parts and path.is_file()
    )
    if not paths:
        raise UserError(f"data.generate.path={folder}: has no {language} files ({', '.join(SUFFIXES[language])})")
    for path in paths[:at_most]:
        yield path.read_bytes().decode("utf-8", errors="replace")


def hub_documents(dataset_name: str, data_dir: str | None, at_most: int | None) -> Iterator[str]:
    """The column `content` of a dataset's split `train`, streamed, so that no more is fetched than is used.

    Errors: UserError if the dataset cannot be had or has no such column.
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HfHubHTTPError

    place = f"{dataset_name}{f' ({data_dir})' if data_dir else ''}"
    try:
        rows = load_dataset(dataset_name, data_dir=data_dir, split="train", streaming=True)
        for row in islice(rows, at_most):
            yield row["content"]
    except KeyError as error:
        raise UserError(f"data.generate.dataset_name={place}: has no column {error}") from error
    except (DatasetsError, HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"data.generate.dataset_name={place}: cannot be read: {reason}") from error
