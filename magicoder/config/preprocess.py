"""Config of the preprocess stage."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Optional

from omegaconf import MISSING

from magicoder.config.identity import location
from magicoder.config.stage import StageConfig


@dataclass
class PreprocessingConfig:
    """`data.preprocess`: turn rows of one format into instruction and response."""

    key: str = MISSING
    data_files: Optional[list[str]] = location()


@dataclass
class PreprocessDataConfig:
    preprocess: PreprocessingConfig = field(default_factory=PreprocessingConfig)


@dataclass
class InstructionPromptConfig:
    """`prompt` of preprocess: the template around a problem, with `{problem}` as its placeholder."""

    instruction: str = MISSING

    def check(self) -> Iterator[str]:
        if "{problem}" not in self.instruction:
            yield "instruction: has no {problem}"


@dataclass
class PreprocessConfig(StageConfig):
    """Config of one run of the preprocess stage."""

    stage: ClassVar[str] = "preprocess"

    data: PreprocessDataConfig = field(default_factory=PreprocessDataConfig)
    prompt: InstructionPromptConfig = field(default_factory=InstructionPromptConfig)
