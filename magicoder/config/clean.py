"""Config of the clean stage."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from omegaconf import MISSING

from magicoder.config.bounds import require_one_of, require_paths
from magicoder.config.identity import later, location
from magicoder.config.stage import StageConfig


@dataclass
class CleaningConfig:
    """`data.clean`: which files are joined, shuffled and rid of duplicates."""

    data_files: Any = location()
    seed: int = MISSING
    no_filter: bool = MISSING
    bad_rows: str = later(implied="error")

    def check(self) -> Iterator[str]:
        yield from require_paths(data_files=self.data_files)
        yield from require_one_of(("error", "reject"), bad_rows=self.bad_rows)


@dataclass
class CleanDataConfig:
    clean: CleaningConfig = field(default_factory=CleaningConfig)


@dataclass
class CleanConfig(StageConfig):
    """Config of one run of the clean stage."""

    stage: ClassVar[str] = "clean"

    data: CleanDataConfig = field(default_factory=CleanDataConfig)
