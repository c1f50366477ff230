"""Find the rows that a stage reads, and identify them by their content."""

from collections.abc import Iterable
from glob import glob
from pathlib import Path

from magicoder.runtime.console import say
from magicoder.runtime.errors import UserError
from magicoder.storage.artifact import MANIFEST, ROWS, STARTED, find_owner
from magicoder.storage.files import Source, digest, read_json
from magicoder.storage.formats import ENDINGS
from magicoder.storage.hub import PREFIX, parse_address


def resolve_inputs(patterns: str | Iterable[str], made_by: str, stage: str | None = None) -> list[Source]:
    """Return the rows that `patterns` name: files, directories of finished stages, shell patterns for either, or
    addresses of the hub. One pattern needs no list.

    A directory that only a shell pattern names is left out if its stage has not finished. made_by: the stage that would
    write the rows, for the message. stage: the one that reads them, and prints what it leaves out; None prints nothing.
    Errors: UserError naming everything that is missing, or if nothing remains.
    """
    found: list[Source] = []
    left_out: list[Path] = []
    missing: list[str] = []
    for pattern in list_patterns(patterns):
        if pattern.startswith(PREFIX):
            try:
                found.append(parse_address(pattern))
            except UserError as error:
                missing += error.problems
            continue
        is_pattern = any(character in pattern for character in "*?[") and not Path(pattern).exists()
        matches = sorted(glob(pattern, recursive=True)) if is_pattern else [pattern]
        if not matches:
            missing.append(f"{pattern}: matches nothing; run stage={made_by} first")
        for path in map(Path, matches):
            if is_pattern and _is_unfinished(path):
                left_out.append(path)
            elif not path.is_dir():
                found.append(path)
                missing += [] if path.exists() else [f"{path}: no such file; run stage={made_by} first"]
            elif (path / MANIFEST).exists() and (path / ROWS).exists():
                found.append(path / ROWS)
            else:
                missing.append(_describe_incomplete(path, made_by))
    if not found and not missing:
        missing = [f"{path}: is not complete, and nothing else matches; run its stage again" for path in left_out]
        missing = missing or [f"no input files are named; run stage={made_by} or name some"]
    if missing:
        raise UserError(missing)
    for path in left_out if stage is not None else ():
        say(f"{stage}: {path} is left out: it is not complete; run its stage again to include it", error=True)
    return found


def list_patterns(patterns: str | Iterable[str]) -> list[str]:
    """Return one pattern or several as a list; without values that are no text, which `check` of the config reports."""
    several = [patterns] if isinstance(patterns, str) or not isinstance(patterns, Iterable) else patterns
    return [pattern for pattern in several if isinstance(pattern, str)]


def _describe_incomplete(path: Path, made_by: str) -> str:
    """Return the error for a directory that is named and has no rows: a folder of data, or a stage's own."""
    entries = {entry.name for entry in path.iterdir()}
    data = sorted(entry for entry in entries if entry.endswith(ENDINGS))
    if data and not entries & {MANIFEST, STARTED, ROWS, ".lock"}:
        return f"{path}: is a folder of files; name them, for example {path}/*{Path(data[0]).suffix}"
    return f"{path}: is not complete; run stage={made_by} first"


def _is_unfinished(path: Path) -> bool:
    """Return whether a path is a directory without a manifest, or a file in the directory of a run in progress."""
    if path.is_dir():
        return not (path / MANIFEST).exists()
    return not path.with_name(MANIFEST).exists() and find_owner(path.with_name(STARTED)) is not None


def name_input(source: Source) -> str:
    """Return a name for an input that survives moving the project: its file name, with its folder for `rows.jsonl`, or
    its address on the hub."""
    if not isinstance(source, Path):
        return str(source)
    return f"{source.parent.name}/{source.name}" if source.name == ROWS and source.parent.name else source.name


def digest_inputs(sources: Iterable[Source]) -> dict[str, str]:
    """Return the identity of each input, under a name that survives moving the project: the SHA-256 of a file, the
    address of what is on the hub.

    Errors: UserError naming all that are unreadable, or no longer what the manifest beside them vouches for.
    """
    digests: dict[str, str] = {}
    problems: list[str] = []
    for source in sources:
        name = name_input(source)
        while name in digests:
            name = f"{name} (again)"
        if not isinstance(source, Path):
            digests[name] = str(source)
            continue
        try:
            digests[name] = digest(source)
        except OSError as error:
            problems.append(f"{source}: {error.strerror}")
        else:
            problems += _find_changes(source, digests[name])
    if problems:
        raise UserError(problems)
    return digests


def _find_changes(path: Path, digest_now: str) -> Iterable[str]:
    """Yield a problem if the rows of a finished stage are not those that its manifest has the SHA-256 of."""
    stage = find_owner(path.with_name(MANIFEST))
    if path.name != ROWS or stage is None:
        return
    digest_then = read_json(path.with_name(MANIFEST)).get("outputs", {}).get(ROWS, digest_now)
    if digest_then != digest_now:
        yield (
            f"{path}: was changed after stage={stage} wrote it: its SHA-256 is not the one in {MANIFEST}; to use your "
            f"edit, copy it to a file of another name and name that; else delete it and run stage={stage} again"
        )
