"""Config that every stage has."""

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
