"""Ask git about a folder. Its configuration is trusted as little as its files: no program that it names is run."""

import hashlib
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

SCHEMES = ("http", "https", "ssh", "git")


@dataclass(frozen=True)
class Repository:
    """A folder inside a work tree. Paths are relative to the folder, not to the root of the work tree."""

    root: Path
    url: str | None
    commit: str | None
    tracked: list[str]
    untracked: list[str]  # a folder without tracked files is one entry that ends with a slash
    _committed: dict[str, bytes]

    def is_dirty(self, path: str, content: bytes) -> bool:
        """Return whether the content differs from that of the commit by any byte."""
        committed = self._committed.get(path)
        if committed is None:
            return True
        algorithm = "sha1" if len(committed) == 20 else "sha256"
        return hashlib.new(algorithm, b"blob %d\0" % len(content) + content).digest() != committed


def find_repository(folder: Path) -> Repository | None:
    """Return the repository; None if git is missing, refuses (broken repository, another owner), or tracks no file
    here."""
    root, tracked = _run_git(folder, "rev-parse", "--show-toplevel"), _run_git(folder, "ls-files", "-z")
    if root is None or not tracked:
        return None
    commit = _run_git(folder, "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
    url = _run_git(folder, "config", "--get", "remote.origin.url")
    return Repository(
        root=Path(os.fsdecode(root.removesuffix(b"\n"))),
        url=None if url is None else redact_url(url.decode("utf-8", errors="replace").strip()),
        commit=None if commit is None else commit.decode().strip(),
        tracked=_parse_paths(tracked),
        untracked=_parse_paths(
            _run_git(folder, "ls-files", "-z", "--others", "--directory", "--no-empty-directory") or b""
        ),
        _committed={} if commit is None else _parse_tree(_run_git(folder, "ls-tree", "-r", "-z", "HEAD") or b""),
    )


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


def _run_git(folder: Path, *arguments: str) -> bytes | None:
    """Return the output of a git command; None if git is missing or fails."""
    line = ["git", "-c", "core.fsmonitor=false", "-C", str(folder), *arguments]
    # Variables of a git process that called this program would point to its repository; nothing may be fetched.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment = {**kept, "GIT_OPTIONAL_LOCKS": "0", "GIT_ALLOW_PROTOCOL": "none", "GIT_NO_LAZY_FETCH": "1"}
    try:
        done = subprocess.run(line, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout if done.returncode == 0 else None


def _parse_paths(listing: bytes) -> list[str]:
    """Parse NUL-terminated paths; git lists a path with a merge conflict several times."""
    return list(dict.fromkeys(os.fsdecode(path) for path in listing.split(b"\0") if path))


def _parse_tree(listing: bytes) -> dict[str, bytes]:
    """Parse each file's object id from lines of mode, type, object id, a tab and the path."""
    identities = {}
    for line in filter(None, listing.split(b"\0")):
        description, path = line.split(b"\t", 1)
        identities[os.fsdecode(path)] = bytes.fromhex(description.split(b" ")[2].decode())
    return identities
