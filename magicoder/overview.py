"""What went into and out of each finished stage below a folder: `python -m magicoder.overview DIRECTORY`."""

import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from magicoder.artifact import MANIFEST, describe
from magicoder.files import read_json

ORDER = ("generate", "clean", "decontaminate", "preprocess", "train")


def manifests(root: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Every finished directory below `root` with its manifest, in the order of the pipeline, then of time."""
    found = [(path.parent, read_json(path)) for path in root.rglob(MANIFEST)]
    return sorted(found, key=lambda entry: (ORDER.index(entry[1]["stage"]), entry[1]["ended"]))


def table(root: Path) -> Table:
    """A row for each finished directory."""
    overview = Table(title=f"Finished below {root}", title_justify="left")
    for name in ("stage", "in and out", "seconds"):
        overview.add_column(name)
    overview.add_column("directory", overflow="fold")
    for directory, manifest in manifests(root):
        counts = describe(manifest["counts"])
        overview.add_row(manifest["stage"], counts, f"{manifest['seconds']:.1f}", str(directory))
    return overview


def main() -> int:
    """Print the table of the folder that the command line names."""
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        print("usage: python -m magicoder.overview DIRECTORY", file=sys.stderr)
        return 1
    Console().print(table(Path(sys.argv[1])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
