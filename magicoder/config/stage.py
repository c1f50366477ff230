"""Config that every stage has."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from magicoder.config.identity import execution


@dataclass
class StageConfig:
    """Keys that every stage has."""

    stage: ClassVar[str]

    # The folder under which every stage has a directory of its own.
    root: str = execution("outputs")
    # This stage's own directory.
    out: str = execution()
    # Delete what `out` holds and start anew.
    overwrite: bool = execution(False)

    def check(self) -> Iterator[str]:
        for name, directory in (("root", self.root), ("out", self.out)):
            if not directory.strip():
                yield f"{name}: is empty; name a directory"
