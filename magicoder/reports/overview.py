"""Print a table of the finished stages below a folder: `python -m magicoder.reports.overview DIRECTORY`."""

import sys
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from magicoder.runtime.console import say
from magicoder.storage.artifact import MANIFEST, find_owner
from magicoder.storage.files import read_json


def find_manifests(root: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Return every finished directory below `root` with its manifest, in the order of their start."""
    found = [(path.parent, read_json(path)) for path in root.rglob(MANIFEST) if find_owner(path) is not None]
    return sorted(found, key=lambda entry: entry[1]["began"])


def build_table(root: Path) -> Table:
    """Return a table with a row for each finished directory."""
    overview = Table(title=escape(f"Finished below {root}"), title_justify="left", box=SIMPLE_HEAD)
    overview.add_column("stage", no_wrap=True)
    for name in ("in", "out", "rejected", "seconds"):
        overview.add_column(name, justify="right", no_wrap=True)
    overview.add_column("directory", overflow="fold")
    for directory, manifest in find_manifests(root):
        counts = manifest["counts"]
        out = counts["out"] if "out" in counts else f"{counts['updates']} updates"
        cells = (counts["in"], out, counts.get("rejected", ""), f"{manifest['seconds']:.1f}")
        overview.add_row(manifest["stage"], *map(str, cells), escape(str(directory.relative_to(root))))
    return overview


def main() -> int:
    """Print the table of the folder on the command line."""
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        say("usage: python -m magicoder.reports.overview DIRECTORY", error=True)
        return 1
    Console().print(build_table(Path(sys.argv[1])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
