"""List the source files below a folder, and skip what can be judged without reading it."""

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from magicoder.seeds.git import Repository
from magicoder.seeds.snippets import SkippedFile
from magicoder.storage.rejected import Rejection

VENDORED = frozenset(
    (
        *(".git", ".hg", ".svn"),
        *("node_modules", "bower_components", "vendor", "third_party", "third-party", "thirdparty", "Pods", "Carthage"),
        *("site-packages", "dist-packages", ".venv", "venv", ".tox", ".nox", ".eggs"),
        *("dist", "build", ".build", "obj"),
    )
)
"""Names of folders with code of others, or with build products."""

GENERATED_NAME = re.compile(
    r".*_pb2(_grpc)?\.py|.*\.(pb|grpc\.pb)\.(cc|h)|.*\.(pb|grpc)\.swift|.*_pb\.ts|.*_generated\.(h|rs|ts|swift)"
    r"|.*\.(g|g\.i|designer|generated)\.cs|.*\.(generated|gen)\.(ts|tsx|rs|swift|php|java|py|h|cpp)"
    r"|(moc|qrc)_.*\.cpp|ui_.*\.h",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class CodeFile:
    """A file to read. relative: its path below the folder, as the system spells it. name: the same as valid text."""

    path: Path
    relative: str
    name: str


def list_code_files(
    folder: Path, suffixes: tuple[str, ...], repository: Repository | None
) -> Iterator[CodeFile | SkippedFile]:
    """Yield files with one of the suffixes in the order of their paths: all of them, or those that the repository
    tracks.

    folder: a path without symbolic links.
    """
    for item in _walk(folder) if repository is None else _list_tracked(repository, suffixes):
        if isinstance(item, SkippedFile):
            yield item
        elif item.endswith(suffixes):
            yield _judge(folder, item)


def make_printable(path: str) -> str:
    """Return a path as valid text: bytes that are not UTF-8 are escaped."""
    return os.fsencode(path).decode("utf-8", errors="backslashreplace")


def _walk(folder: Path) -> Iterator[str | SkippedFile]:
    """Yield every file below the folder; vendored and unreadable folders are skipped."""
    waiting = [folder]
    while waiting:
        path = waiting.pop()
        relative = str(path.relative_to(folder))
        try:
            if not stat.S_ISDIR(path.lstat().st_mode):
                # A link to a folder is not followed: it may lead outside, or into a cycle.
                yield _skip_link(folder, relative) if path.is_dir() else relative
            elif path != folder and path.name in VENDORED:
                yield SkippedFile(make_printable(relative), Rejection("vendored folder", path.name))
            else:
                waiting += sorted(path.iterdir(), reverse=True)
        except OSError as error:
            yield SkippedFile(make_printable(relative), Rejection("unreadable", error.strerror))


def _list_tracked(repository: Repository, suffixes: tuple[str, ...]) -> Iterator[str | SkippedFile]:
    """Yield every tracked file; a vendored folder is reported once, and so is one without tracked files."""
    reported = set()
    everything = [(path, True) for path in repository.tracked]
    everything += [(path, False) for path in repository.untracked if path.endswith((*suffixes, "/"))]
    for path, is_tracked in sorted(everything, key=lambda item: item[0].split("/")):
        vendored = next((folder for folder in _list_parents(path) if folder.rpartition("/")[2] in VENDORED), None)
        if vendored is None:
            yield path if is_tracked else _skip(path, "not tracked by git", "git ls-files --others")
        elif vendored not in reported:
            reported.add(vendored)
            yield _skip(vendored, "vendored folder", vendored.rpartition("/")[2])


def _list_parents(path: str) -> list[str]:
    """Return `a`, `a/b` for `a/b/c`."""
    return list(accumulate(path.split("/")[:-1], "{}/{}".format))


def _judge(folder: Path, relative: str) -> CodeFile | SkippedFile:
    """Return the file, or skip it for its type, its name or a link, without reading it."""
    path = folder / relative
    try:
        mode = path.lstat().st_mode
    except OSError as error:
        return _skip(relative, "unreadable", error.strerror)
    if stat.S_ISLNK(mode) or os.path.realpath(path) != str(path):
        return _skip_link(folder, relative)
    if not stat.S_ISREG(mode):
        return _skip(relative, "no regular file", "git submodule" if stat.S_ISDIR(mode) else stat.filemode(mode))
    if GENERATED_NAME.fullmatch(path.name):
        return _skip(relative, "generated file", path.name)
    return CodeFile(path, relative, make_printable(relative))


def _skip_link(folder: Path, relative: str) -> SkippedFile:
    return _skip(relative, "symbolic link", make_printable(os.path.realpath(folder / relative)))


def _skip(relative: str, reason: str, evidence: object) -> SkippedFile:
    return SkippedFile(make_printable(relative), Rejection(reason, evidence))
