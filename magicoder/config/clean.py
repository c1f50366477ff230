"""Config of the clean stage."""

from dataclasses import dataclass, field
from typing import ClassVar

from omegaconf import MISSING

from magicoder.config.identity import location
from magicoder.config.stage import StageConfig


@dataclass
class CleaningConfig:
    """`data.clean`: which files are joined, shuffled and rid of duplicates."""

    data_files: list[str] = location()
    seed: int = MISSING
    no_filter: bool = MISSING


@dataclass
class CleanDataConfig:
    clean: CleaningConfig = field(default_factory=CleaningConfig)


@dataclass
class CleanConfig(StageConfig):
    """Config of one run of the clean stage."""

    stage: ClassVar[str] = "clean"

    data: CleanDataConfig = field(default_factory=CleanDataConfig)
