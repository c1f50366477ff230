"""Ask git about a folder. Its configuration is trusted as little as its files: no program that it names is run.

What git does not track may hold secrets, so a repository that git cannot read is never taken for a plain folder.
"""

import hashlib
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from magicoder.storage.rejected import Rejection

SCHEMES = ("http", "https", "ssh", "git")
SUBMODULE = b"160000"
"""The mode of a submodule in git's index."""

UNREADABLE = "repository that git cannot read"
NOTHING_TRACKED = "git tracks nothing here"

ANSWER_SECONDS = 20
"""A pipe in the place of git's files makes it wait forever."""

LISTING_SECONDS = 600
"""Whatever reads every file or folder may take long."""


class GitError(Exception):
    """Git is missing or refuses; the message is one line of its own words."""


@dataclass(frozen=True)
class Repository:
    """A folder inside a work tree. Paths are relative to the folder, not to the root of the work tree."""

    folder: Path
    root: Path
    url: str | None
    commit: str | None
    tracked: list[str]
    submodules: list[str]
    untracked: list[str]  # a folder without tracked files is one entry that ends with a slash
    _committed: dict[str, bytes]

    def is_dirty(self, path: str, content: bytes) -> bool:
        """Return whether the content differs from that of the commit by any byte."""
        committed = self._committed.get(path)
        if committed is None:
            return True
        algorithm = "sha1" if len(committed) == 20 else "sha256"
        return hashlib.new(algorithm, b"blob %d\0" % len(content) + content).digest() != committed


def find_repository(folder: Path) -> Repository | Rejection | None:
    """Return the repository of a folder; None if there is no `.git` in the folder or above it.

    A rejection, with git's own words, if git cannot read the repository or tracks no file below the folder.
    """
    if not any(is_marked(each) for each in (folder, *folder.parents)):
        return None
    try:
        root = _find_root(folder)
        tracked, submodules = _parse_index(_run_git(folder, "ls-files", "-z", "--stage"))
        untracked = _run_git(
            folder, "ls-files", "-z", "--others", "--directory", "--no-empty-directory", timeout=LISTING_SECONDS
        )
        commit = _run_git(folder, "rev-parse", "--verify", "--quiet", "HEAD^{commit}", may_fail=True)
        url = _run_git(folder, "config", "--get", "remote.origin.url", may_fail=True)
        committed = (
            _parse_tree(_run_git(folder, "ls-tree", "-r", "-z", "HEAD", timeout=LISTING_SECONDS, may_fail=True))
            if commit
            else {}
        )
    except GitError as error:
        return Rejection(UNREADABLE, str(error))
    if not tracked and not submodules:
        return Rejection(NOTHING_TRACKED, "git ls-files")
    return Repository(
        folder=folder,
        root=root,
        url=redact_url(url.decode("utf-8", errors="replace").strip()) if url else None,
        commit=commit.decode().strip() or None,
        tracked=tracked,
        submodules=submodules,
        untracked=_parse_paths(untracked),
        _committed=committed,
    )


def is_marked(folder: Path) -> bool:
    """Return whether a folder holds the `.git` of a repository, a worktree or a submodule, broken or not."""
    return os.path.lexists(folder / ".git")


def redact_url(url: str) -> str | None:
    """Return the address without user, password, query and fragment: each may hold a secret.

    None for anything but the address of a server: a path, or a command for a helper of git.
    """
    if "://" not in url:
        of_ssh = re.fullmatch(r"(?:[^/]*@)?([\w.-]+):(?!:)([^@?#]+)", url)
        return f"{of_ssh[1]}:{of_ssh[2]}" if of_ssh else None
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if parts.scheme not in SCHEMES or not host or "@" in parts.path:
        return None
    return f"{parts.scheme}://{host}{f':{port}' if port else ''}{parts.path}"


def _find_root(folder: Path) -> Path:
    """Return the root of the work tree that holds the folder. Errors: GitError."""
    root = Path(os.fsdecode(_run_git(folder, "rev-parse", "--show-toplevel").removesuffix(b"\n")))
    real = folder.resolve()
    if root not in (real, *real.parents):
        # core.worktree leads elsewhere, as in a submodule copied by hand.
        raise GitError(f"the work tree of the repository is another folder, {root}")
    return root


def _run_git(folder: Path, *arguments: str, timeout: float | None = None, may_fail: bool = False) -> bytes:
    """Return the output of a git command; nothing for one that fails and may. Errors: GitError."""
    line = ["git", "-c", "core.fsmonitor=false", "-C", str(folder), *arguments]
    # Variables of a git process that called this program would point to its repository; nothing may be fetched.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    ours = {"GIT_OPTIONAL_LOCKS": "0", "GIT_ALLOW_PROTOCOL": "none", "GIT_NO_LAZY_FETCH": "1", "LC_ALL": "C"}
    seconds = timeout or ANSWER_SECONDS
    try:
        done = subprocess.run(
            line, env={**kept, **ours}, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=seconds
        )
    except (FileNotFoundError, PermissionError, NotADirectoryError) as error:
        raise GitError("git is not installed, or may not be run") from error
    except subprocess.TimeoutExpired as error:
        raise GitError(f"git {arguments[0]} gave no answer within {seconds:g} seconds") from error
    if done.returncode == 0:
        return done.stdout
    if may_fail:
        return b""
    said = done.stderr.decode("utf-8", errors="backslashreplace").strip().splitlines()
    raise GitError(said[0].removeprefix("fatal: ") if said else f"git {arguments[0]} failed ({done.returncode})")


def _parse_index(listing: bytes) -> tuple[list[str], list[str]]:
    """Parse files and submodules from entries of mode, object id, stage, a tab and the path.

    A path with a merge conflict has several entries.
    """
    files: dict[str, None] = {}
    submodules: dict[str, None] = {}
    for entry in filter(None, listing.split(b"\0")):
        description, path = entry.split(b"\t", 1)
        (submodules if description.startswith(SUBMODULE) else files)[os.fsdecode(path)] = None
    return list(files), list(submodules)


def _parse_paths(listing: bytes) -> list[str]:
    """Parse NUL-terminated paths."""
    return [os.fsdecode(path) for path in listing.split(b"\0") if path]


def _parse_tree(listing: bytes) -> dict[str, bytes]:
    """Parse each file's object id from lines of mode, type, object id, a tab and the path."""
    identities = {}
    for line in filter(None, listing.split(b"\0")):
        description, path = line.split(b"\t", 1)
        identities[os.fsdecode(path)] = bytes.fromhex(description.split(b" ")[2].decode())
    return identities
