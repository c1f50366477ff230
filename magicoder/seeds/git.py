"""What git knows of a folder; its configuration is as little trusted as its files: nothing that it names is run."""

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
    untracked: list[str]  # a folder of which nothing is tracked is one entry, with a slash at its end
    _committed: dict[str, bytes]

    def is_dirty(self, path: str, content: bytes) -> bool:
        """Whether the content is another one, byte for byte, than that of the commit."""
        committed = self._committed.get(path)
        if committed is None:
            return True
        algorithm = "sha1" if len(committed) == 20 else "sha256"
        return hashlib.new(algorithm, b"blob %d\0" % len(content) + content).digest() != committed


def repository_of(folder: Path) -> Repository | None:
    """None where git is not at hand, refuses (a broken repository, another owner), or tracks no file of the folder."""
    root, tracked = _git(folder, "rev-parse", "--show-toplevel"), _git(folder, "ls-files", "-z")
    if root is None or not tracked:
        return None
    commit = _git(folder, "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
    url = _git(folder, "config", "--get", "remote.origin.url")
    return Repository(
        root=Path(os.fsdecode(root.removesuffix(b"\n"))),
        url=None if url is None else public_url(url.decode("utf-8", errors="replace").strip()),
        commit=None if commit is None else commit.decode().strip(),
        tracked=_paths(tracked),
        untracked=_paths(_git(folder, "ls-files", "-z", "--others", "--directory", "--no-empty-directory") or b""),
        _committed={} if commit is None else _committed(_git(folder, "ls-tree", "-r", "-z", "HEAD") or b""),
    )


def public_url(url: str) -> str | None:
    """The address without user, password, query and fragment, all of which may be secrets.

    None for what is no address of a server: a path, or a command for a helper of git.
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


def _git(folder: Path, *arguments: str) -> bytes | None:
    """What a git command prints; None if there is no git or it fails."""
    line = ["git", "-c", "core.fsmonitor=false", "-C", str(folder), *arguments]
    # Variables of a git that called this program would point it elsewhere; nothing may be fetched.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment = {**kept, "GIT_OPTIONAL_LOCKS": "0", "GIT_ALLOW_PROTOCOL": "none", "GIT_NO_LAZY_FETCH": "1"}
    try:
        done = subprocess.run(line, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout if done.returncode == 0 else None


def _paths(listing: bytes) -> list[str]:
    """The paths of a listing that ends each with a NUL; one with a merge conflict is listed several times."""
    return list(dict.fromkeys(os.fsdecode(path) for path in listing.split(b"\0") if path))


def _committed(listing: bytes) -> dict[str, bytes]:
    """Each file's identity in the commit: lines of mode, type, identity, a tab and the path."""
    identities = {}
    for line in filter(None, listing.split(b"\0")):
        description, path = line.split(b"\t", 1)
        identities[os.fsdecode(path)] = bytes.fromhex(description.split(b" ")[2].decode())
    return identities
