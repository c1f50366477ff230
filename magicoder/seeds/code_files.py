"""Files of source code below a folder, and what is left out before any of it is read."""

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from magicoder.seeds.git import Repository
from magicoder.seeds.snippets import LeftOut

VENDORED = frozenset(
    (
        *(".git", ".hg", ".svn"),
        *("node_modules", "bower_components", "vendor", "third_party", "third-party", "thirdparty", "Pods", "Carthage"),
        *("site-packages", "dist-packages", ".venv", "venv", ".tox", ".nox", ".eggs"),
        *("dist", "build", ".build", "obj"),
    )
)
"""Names of folders with code of others, or made from code."""

GENERATED_NAME = re.compile(
    r".*_pb2(_grpc)?\.py|.*\.(pb|grpc\.pb)\.(cc|h)|.*\.(pb|grpc)\.swift|.*_pb\.ts|.*_generated\.(h|rs|ts|swift)"
    r"|.*\.(g|g\.i|designer|generated)\.cs|.*\.(generated|gen)\.(ts|tsx|rs|swift|php|java|py|h|cpp)"
    r"|(moc|qrc)_.*\.cpp|ui_.*\.h",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class CodeFile:
    """A file to read. `relative` is its path below the folder as the system spells it, `name` one that can be shown."""

    path: Path
    relative: str
    name: str


def code_files(folder: Path, suffixes: tuple[str, ...], repository: Repository | None) -> Iterator[CodeFile | LeftOut]:
    """Files with one of the suffixes in the order of their paths: all, or what the repository tracks.

    folder: without symbolic links on the way to it.
    """
    for item in _walk(folder) if repository is None else _listed(repository, suffixes):
        if isinstance(item, LeftOut):
            yield item
        elif item.endswith(suffixes):
            yield _judged(folder, item)


def shown(path: str) -> str:
    """A path that is valid text: bytes of it that are not UTF-8 are spelled out."""
    return os.fsencode(path).decode("utf-8", errors="backslashreplace")


def _walk(folder: Path) -> Iterator[str | LeftOut]:
    """Every file below the folder; folders of others' code and those that cannot be read are left out."""
    waiting = [folder]
    while waiting:
        path = waiting.pop()
        relative = str(path.relative_to(folder))
        try:
            if not stat.S_ISDIR(path.lstat().st_mode):
                # A link to a folder is not followed: it may lead out, or round in a circle.
                yield _link(folder, relative) if path.is_dir() else relative
            elif path != folder and path.name in VENDORED:
                yield LeftOut(shown(relative), "vendored folder", path.name)
            else:
                waiting += sorted(path.iterdir(), reverse=True)
        except OSError as error:
            yield LeftOut(shown(relative), "unreadable", error.strerror)


def _listed(repository: Repository, suffixes: tuple[str, ...]) -> Iterator[str | LeftOut]:
    """Every tracked file; a folder of others' code is told of once, as is one of which nothing is tracked."""
    told = set()
    everything = [(path, True) for path in repository.tracked]
    everything += [(path, False) for path in repository.untracked if path.endswith((*suffixes, "/"))]
    for path, is_tracked in sorted(everything, key=lambda item: item[0].split("/")):
        vendored = next((place for place in _folders_above(path) if place.rpartition("/")[2] in VENDORED), None)
        if vendored is None:
            yield path if is_tracked else LeftOut(shown(path), "not tracked by git", "git ls-files --others")
        elif vendored not in told:
            told.add(vendored)
            yield LeftOut(shown(vendored), "vendored folder", vendored.rpartition("/")[2])


def _folders_above(path: str) -> list[str]:
    """`a`, `a/b` of `a/b/c`."""
    return list(accumulate(path.split("/")[:-1], "{}/{}".format))


def _judged(folder: Path, relative: str) -> CodeFile | LeftOut:
    """The file, unless what is known of it without reading it speaks against it."""
    path, name = folder / relative, shown(relative)
    try:
        mode = path.lstat().st_mode
    except OSError as error:
        return LeftOut(name, "unreadable", error.strerror)
    if stat.S_ISLNK(mode) or os.path.realpath(path) != str(path):
        return _link(folder, relative)
    if not stat.S_ISREG(mode):
        return LeftOut(name, "no regular file", "git submodule" if stat.S_ISDIR(mode) else stat.filemode(mode))
    if GENERATED_NAME.fullmatch(path.name):
        return LeftOut(name, "generated file", path.name)
    return CodeFile(path, relative, name)


def _link(folder: Path, relative: str) -> LeftOut:
    return LeftOut(shown(relative), "symbolic link", shown(os.path.realpath(folder / relative)))
