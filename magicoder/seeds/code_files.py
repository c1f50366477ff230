"""List the source files below a folder, and skip what can be judged without reading it."""

import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from magicoder.seeds.git import Repository, find_repository, is_marked
from magicoder.seeds.snippets import SkippedFile
from magicoder.storage.rejected import Rejection

VENDORED = frozenset(
    (
        *(".git", ".hg", ".svn"),
        *("node_modules", "bower_components", "vendor", "third_party", "third-party", "thirdparty", "Pods", "Carthage"),
        *("site-packages", "dist-packages", ".venv", "venv", ".tox", ".nox", ".eggs"),
        *("dist", "build", ".build", "obj", ".ipynb_checkpoints"),
    )
)
"""Names of folders with code of others, or with build products."""

GENERATED_NAME = re.compile(
    r".*_pb2(_grpc)?\.py|.*\.(pb|grpc\.pb)\.(cc|h)|.*\.(pb|grpc)\.swift|.*_pb\.ts|.*_generated\.(h|rs|ts|swift)"
    r"|.*\.(g|g\.i|designer|generated)\.cs|.*\.(generated|gen)\.(ts|tsx|rs|swift|php|java|py|h|cpp)"
    r"|(moc|qrc)_.*\.cpp|ui_.*\.h",
    re.IGNORECASE,
)
STUB = ".pyi"
"""Signatures without bodies: nothing in it inspires a problem."""

Suffixes = Mapping[str, tuple[str, ...]]
"""The suffixes of each language. Those in lower case match in any case: old systems wrote `A.PY`."""


@dataclass(frozen=True)
class CodeFile:
    """A file to read.

    relative: its path below the folder, as the system spells it. name: the same as valid text. repository: the one that
    it belongs to.
    """

    path: Path
    relative: str
    name: str
    language: str
    repository: Repository | None

    def is_dirty(self, content: bytes) -> bool | None:
        """Return whether the content differs from that of the commit; None outside of a repository."""
        if self.repository is None:
            return None
        return self.repository.is_dirty(str(self.path.relative_to(self.repository.folder)), content)


@dataclass(frozen=True)
class _Listed:
    """A file or link that exists or is tracked, not judged yet."""

    relative: str
    repository: Repository | None


def list_code_files(
    folder: Path, suffixes: Suffixes, repository: Repository | None, untracked: bool = False
) -> Iterator[CodeFile | SkippedFile]:
    """Yield files with one of the suffixes in the order of their paths.

    folder: a path without symbolic links. untracked: take all files, not only those that a repository tracks.
    """
    listed = (
        _walk(folder, suffixes, repository, untracked)
        if repository is None or untracked
        else _list_tracked(folder, suffixes, repository)
    )
    for item in listed:
        if isinstance(item, SkippedFile):
            yield item
        elif (language := find_language(item.relative, suffixes)) is not None:
            yield _judge(folder, item, language)


def find_language(path: str, suffixes: Suffixes) -> str | None:
    """Return the first language with a suffix of the path; None for other files."""
    lowered = path.lower()
    for language, endings in suffixes.items():
        if any((path if ending != ending.lower() else lowered).endswith(ending) for ending in endings):
            return language
    return None


def make_printable(path: str) -> str:
    """Return a path as valid text: bytes that are not UTF-8 are escaped."""
    return os.fsencode(path).decode("utf-8", errors="backslashreplace")


def _walk(
    folder: Path, suffixes: Suffixes, repository: Repository | None, untracked: bool
) -> Iterator[_Listed | SkippedFile]:
    """Yield every file below the folder; vendored and unreadable folders are skipped.

    Of a repository below the folder its tracked files are taken, or all with `untracked`; of one that git cannot read,
    none.
    """
    waiting = [(folder, repository)]
    while waiting:
        path, repository = waiting.pop()
        relative = str(path.relative_to(folder))
        try:
            if not stat.S_ISDIR(path.lstat().st_mode):
                # A link to a folder is not followed: it may lead outside, or into a cycle.
                yield _skip_link(folder, relative) if path.is_dir() else _Listed(relative, repository)
                continue
            if path != folder and path.name in VENDORED:
                yield _skip(relative, "vendored folder", path.name)
                continue
            if path != folder and is_marked(path):
                found = find_repository(path)
                if not untracked:
                    yield from _list_found(folder, suffixes, path, found)
                    continue
                repository = found if isinstance(found, Repository) else None
            waiting += [(child, repository) for child in sorted(path.iterdir(), reverse=True)]
        except OSError as error:
            yield _skip(relative, "unreadable", error.strerror)


def _list_found(
    folder: Path, suffixes: Suffixes, place: Path, found: Repository | Rejection | None
) -> Iterator[_Listed | SkippedFile]:
    """Yield the tracked files of a repository below the folder, or skip it. place: where it is."""
    if isinstance(found, Repository):
        yield from _list_tracked(folder, suffixes, found)
    elif found is not None:
        yield SkippedFile(make_printable(str(place.relative_to(folder))), found)


def _list_tracked(folder: Path, suffixes: Suffixes, repository: Repository) -> Iterator[_Listed | SkippedFile]:
    """Yield every tracked file, submodules included; a vendored folder is reported once, and so is one without tracked
    files."""
    reported = set()
    place = str(repository.folder.relative_to(folder))
    prefix = "" if place == "." else f"{place}/"
    listed = dict.fromkeys(repository.tracked, "file") | dict.fromkeys(repository.submodules, "submodule")
    others = (path for path in repository.untracked if path.endswith("/") or find_language(path, suffixes))
    everything = [*listed.items(), *((path, "untracked") for path in others)]
    for path, kind in sorted(everything, key=lambda item: item[0].split("/")):
        parents = _list_parents(path) + ([path] if kind == "submodule" else [])
        vendored = next((parent for parent in parents if parent.rpartition("/")[2] in VENDORED), None)
        if vendored is not None:
            if vendored not in reported:
                reported.add(vendored)
                yield _skip(prefix + vendored, "vendored folder", vendored.rpartition("/")[2])
        elif kind == "submodule":
            yield from _list_submodule(folder, suffixes, repository.folder / path)
        else:
            yield (
                _Listed(prefix + path, repository)
                if kind == "file"
                else _skip(prefix + path, "not tracked by git", "git ls-files --others")
            )


def _list_submodule(folder: Path, suffixes: Suffixes, place: Path) -> Iterator[_Listed | SkippedFile]:
    """Yield the files that an initialized submodule tracks: it is a repository with a commit of its own."""
    relative = str(place.relative_to(folder))
    if os.path.realpath(place) != str(place):
        yield _skip_link(folder, relative)
    elif not is_marked(place):
        yield _skip(relative, "submodule not initialized", "git submodule update --init")
    else:
        yield from _list_found(folder, suffixes, place, find_repository(place))


def _list_parents(path: str) -> list[str]:
    """Return `a`, `a/b` for `a/b/c`."""
    return list(accumulate(path.split("/")[:-1], "{}/{}".format))


def _judge(folder: Path, listed: _Listed, language: str) -> CodeFile | SkippedFile:
    """Return the file, or skip it for its type, its name or a link, without reading it."""
    relative = listed.relative
    path = folder / relative
    try:
        mode = path.lstat().st_mode
    except OSError as error:
        return _skip(relative, "unreadable", error.strerror)
    if stat.S_ISLNK(mode) or os.path.realpath(path) != str(path):
        return _skip_link(folder, relative)
    if not stat.S_ISREG(mode):
        return _skip(relative, "no regular file", stat.filemode(mode))
    if GENERATED_NAME.fullmatch(path.name):
        return _skip(relative, "generated file", path.name)
    if path.name.lower().endswith(STUB):
        return _skip(relative, "type stub", path.name)
    return CodeFile(path, relative, make_printable(relative), language, listed.repository)


def _skip_link(folder: Path, relative: str) -> SkippedFile:
    return _skip(relative, "symbolic link", make_printable(os.path.realpath(folder / relative)))


def _skip(relative: str, reason: str, evidence: object) -> SkippedFile:
    return SkippedFile(make_printable(relative), Rejection(reason, evidence))
