"""The output-directory contract: one directory a stage, complete exactly when it has a manifest.

`started.json` names the owner of the directory, `manifest.json` means that it is complete. Both hold the identity: the
stage, the config that bears on the result and the SHA-256 of every input. A run with the same identity is recognized
as complete or resumed; with another it is refused and the difference is printed.
"""

import copy
import importlib.metadata
import json
import platform
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import filelock

import magicoder
from magicoder import config
from magicoder.config.identity import list_revisable_keys, select_identity, translate_identity
from magicoder.runtime.console import say
from magicoder.runtime.errors import UserError
from magicoder.storage.files import (
    TEMPORARY_PREFIX,
    Source,
    compute_new_file_mode,
    digest,
    read_json,
    write_json,
    write_rows,
)

MANIFEST = "manifest.json"
STARTED = "started.json"
ROWS = "rows.jsonl"
REJECTED = "rejected.jsonl"
METRICS = "metrics.jsonl"


class Artifact:
    """The directory of one stage's run, claimed by this process for the length of a `with` block.

    Example:
        with Artifact(settings, digest_inputs(files), reads=files) as artifact:
            if artifact.complete:
                artifact.announce_complete()
                return
            artifact.finish_rows(kept, rejected)
    """

    def __init__(
        self,
        settings: config.StageConfig,
        inputs: dict[str, str],
        reads: Iterable[Source] = (),
        has_progress: Callable[[Path], bool] = lambda directory: False,
    ) -> None:
        """Claim `settings.out` for a run with these settings and inputs (name -> SHA-256 or other fixed name).

        reads: files and folders that the run reads; none may be in the directory that it writes.
        has_progress: returns whether a directory holds work worth keeping. If not, a run begun with another config is
        discarded instead of refused.
        Errors: UserError if the directory belongs to another config, to another process, or to no stage at all.
        """
        self.directory = Path(settings.out)
        self.stage = settings.stage
        self.identity = build_identity(settings, inputs)
        self._revisable = list(list_revisable_keys(settings))
        self._has_progress = has_progress
        self._began = time.time()
        for path in reads:
            if isinstance(path, Path) and path.resolve().is_relative_to(self.directory.resolve()):
                raise UserError(
                    f"{path}: is read by this run and is inside the directory that it writes; choose another out=DIR"
                )
        self._lock = self._claim(settings.overwrite)

    def __enter__(self) -> "Artifact":
        """Return the artifact itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Release the directory."""
        self._lock.release()

    def path(self, name: str) -> Path:
        """Return the path of the file `name` in this directory."""
        return self.directory / name

    @property
    def complete(self) -> bool:
        """Whether a run with this identity has finished."""
        return self.path(MANIFEST).exists()

    def announce_complete(self) -> None:
        """Print that nothing is left to do."""
        announce_complete(self.stage, self.directory)

    def finish_rows(self, rows: Iterable[dict[str, Any]], rejected: Iterable[dict[str, Any]], **extra: Any) -> None:
        """Write `rows.jsonl` and `rejected.jsonl`, then the manifest."""
        kept = write_rows(self.path(ROWS), rows)
        dropped = write_rows(self.path(REJECTED), rejected)
        counts = {"in": kept + dropped, "out": kept, "rejected": dropped}
        self.finish([ROWS, REJECTED], counts, **extra)

    def finish(self, outputs: Iterable[str], counts: dict[str, Any], **extra: Any) -> None:
        """Write the manifest, last: from then on the directory is complete.

        outputs: names of the files that later stages read; the manifest has their SHA-256.
        counts: rows in and out. extra: further facts beside them.
        """
        manifest = {
            **self.identity,
            "counts": counts,
            **extra,
            "outputs": {name: digest(self.path(name)) for name in outputs},
            "versions": collect_versions(),
            "began": format_time(self._began),
            "ended": format_time(time.time()),
            "seconds": round(time.time() - self._began, 3),
        }
        write_json(self.path(MANIFEST), manifest)
        self.path(STARTED).unlink(missing_ok=True)
        say(f"{self.stage}: {describe(counts)} -> {self.directory}")
        require_rows(self.stage, self.directory, counts)

    def _claim(self, overwrite: bool) -> filelock.BaseFileLock:
        if self.directory.exists() and not self.directory.is_dir():
            raise UserError(f"{self.directory}: is a file, not a directory; choose another out=DIR")
        owned = any(find_owner(self.path(name)) is not None for name in (MANIFEST, STARTED))
        if self.directory.exists() and not owned and any(self._list_foreign()):
            raise UserError(f"{self.directory}: has files that no stage wrote; choose another out=DIR")
        self.directory.mkdir(parents=True, exist_ok=True)
        lock = self._acquire_lock()
        try:
            if overwrite and not self._is_resumable():
                self._empty()
            self._refuse_other()
            self._reopen_if_lost()
        except BaseException:
            lock.release()
            raise
        self._sweep_temporaries()
        if self.complete:
            self.path(STARTED).unlink(missing_ok=True)
        else:
            write_json(self.path(STARTED), self.identity)
        return lock

    def _acquire_lock(self) -> filelock.BaseFileLock:
        # The operating system releases it with the process, even if that is killed.
        # filelock applies an explicit mode regardless of the umask.
        lock = filelock.FileLock(self.path(".lock"), timeout=0, mode=compute_new_file_mode())
        try:
            lock.acquire()
        except filelock.Timeout as error:
            raise UserError(f"{self.directory}: another process is using it") from error
        return lock

    def _list_foreign(self) -> Iterable[Path]:
        ours = (".lock", TEMPORARY_PREFIX)
        return (entry for entry in self.directory.iterdir() if not entry.name.startswith(ours))

    def _empty(self) -> None:
        # First the mark, then the manifest: after a kill in between, the directory is still ours and no longer
        # complete.
        write_json(self.path(STARTED), {"stage": self.stage, "config": "being emptied", "inputs": {}})
        self.path(MANIFEST).unlink(missing_ok=True)
        for entry in self.directory.iterdir():
            if entry.name not in (".lock", STARTED):
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()

    def _reopen_if_lost(self) -> None:
        if self.complete:
            lost = [name for name in read_json(self.path(MANIFEST))["outputs"] if not self.path(name).exists()]
            if lost:
                say(f"{self.stage}: {', '.join(lost)} of {self.directory} is missing and will be made again")
                self._reopen()

    def _reopen(self) -> None:
        write_json(self.path(STARTED), self.identity)  # first: the directory must never be without an owner
        self.path(MANIFEST).unlink(missing_ok=True)

    def _apply_revisions(self, former: dict[str, Any]) -> dict[str, Any]:
        """Return a former identity with the revisable values of this run."""
        revised = copy.deepcopy(former)
        if not isinstance(revised.get("config"), dict):
            return revised
        for key in self._revisable:
            *path, last = key.split(".")
            then, now = revised["config"], self.identity["config"]
            for part in path:
                # A part whose keys all have the values that earlier versions implied is absent.
                then, now = then.setdefault(part, {}), now.get(part, {})
            if last in now:
                then[last] = now[last]
            else:
                then.pop(last, None)
            for depth in range(len(path), 0, -1):
                drop_if_empty(revised["config"], path[:depth])
        return revised

    def _sweep_temporaries(self) -> None:
        for entry in self.directory.glob(f"{TEMPORARY_PREFIX}*"):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    def _is_resumable(self) -> bool:
        """Return whether a run with this identity is in progress: it began by overwriting, and now resumes."""
        if self.complete or not self.path(STARTED).exists():
            return False
        return translate_identity(read_json(self.path(STARTED))) == self.identity

    def _refuse_other(self) -> None:
        for name, what in ((MANIFEST, "has the result of"), (STARTED, "was begun with")):
            if not self.path(name).exists():
                continue
            noted = read_json(self.path(name))
            former = translate_identity({key: noted.get(key) for key in self.identity})
            differences = list(compare_identities(former, self.identity))
            if differences and name == STARTED and not self._has_progress(self.directory):
                self._empty()
            elif differences and not any(compare_identities(self._apply_revisions(former), self.identity)):
                say(f"{self.stage}: {'; '.join(differences)}: re-deriving rows in {self.directory}")
                self._reopen()
            elif differences:
                raise UserError(
                    f"{self.directory}: {what} another config ({'; '.join(differences)}); "
                    "choose another out=DIR, or overwrite=true to start anew"
                )
            return


def drop_if_empty(tree: dict[str, Any], path: list[str]) -> None:
    """Remove the dictionary at a path of keys if it is empty, as in an identity."""
    for part in path[:-1]:
        tree = tree.get(part, {})
    if tree.get(path[-1]) == {}:
        del tree[path[-1]]


def build_identity(settings: config.StageConfig, inputs: dict[str, str]) -> dict[str, Any]:
    """Return the identity of a run: the stage, the config that bears on the result, every input."""
    return {"stage": settings.stage, "config": select_identity(settings), "inputs": inputs}


def is_complete(settings: config.StageConfig, inputs: dict[str, str]) -> bool:
    """Return whether `settings.out` has the complete result of this run, to be kept. Claims nothing."""
    directory = Path(settings.out)
    if settings.overwrite or find_owner(directory / MANIFEST) is None:
        return False
    manifest = translate_identity(read_json(directory / MANIFEST))
    same = all(manifest.get(key) == value for key, value in build_identity(settings, inputs).items())
    return (
        same and [*manifest["inputs"]] == [*inputs] and all((directory / name).exists() for name in manifest["outputs"])
    )


def announce_complete(stage: str, directory: Path) -> None:
    """Print that nothing is left to do. Errors: UserError if the stage kept no row."""
    counts = read_json(directory / MANIFEST)["counts"]
    say(f"{stage}: {directory} is complete ({describe(counts)})")
    require_rows(stage, directory, counts)


def require_rows(stage: str, directory: Path, counts: dict[str, Any]) -> None:
    """Errors: UserError if a stage has kept no row. It is complete all the same: it would not keep one another time."""
    if counts.get("out") == 0:
        raise UserError(f"{stage}: kept none of {counts['in']} rows; {directory / REJECTED} has the reasons")


def find_owner(path: Path) -> str | None:
    """Return the stage that wrote this manifest or `started.json`; None for any other file, or none."""
    try:
        noted = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    stage = noted.get("stage") if isinstance(noted, dict) and "config" in noted else None
    return (
        stage
        if isinstance(stage, str) and stage in {each.stage for each in config.StageConfig.__subclasses__()}
        else None
    )


def compare_identities(former: Any, now: Any, path: str = "") -> Iterable[str]:
    """Yield each key in which two identities differ, with its value then and now."""
    if isinstance(former, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*former, *now]):
            deeper = key if path in ("", "config") else f"{path}.{key}"
            yield from compare_identities(former.get(key), now.get(key), deeper)
        if path == "inputs" and former == now and [*former] != [*now]:
            yield f"{path} were in the order {', '.join(former)}, are in the order {', '.join(now)}"
    elif former != now:
        yield f"{path} was {truncate(former)}, is {truncate(now)}"


def truncate(value: Any) -> str:
    """Format a value in at most 60 characters, on one line."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def describe(counts: dict[str, Any]) -> str:
    """Format counts as a phrase: `in 12, out 10, rejected 2`."""
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in counts.items())


def format_time(seconds: float) -> str:
    """Format seconds since 1970 as UTC, in the form of ISO 8601."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def collect_versions() -> dict[str, str]:
    """Return the versions of packages that may bear on a result; recorded, never compared."""
    names = ("torch", "transformers", "lightning", "datasets", "openai", "tokenizers", "numpy")
    installed = {name: importlib.metadata.version(name) for name in names}
    return {"magicoder": magicoder.__version__, "python": platform.python_version(), **installed}
