"""Config of the preprocess stage."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Optional

from omegaconf import MISSING

from magicoder.config.bounds import one_of
from magicoder.config.identity import location
from magicoder.config.stage import StageConfig

PREPROCESS_KEYS = ("src-instruct", "evol-instruct", "codealpaca", "combine")


@dataclass
class PreprocessingConfig:
    """`data.preprocess`: rows of one form become instruction and response."""

    key: str = MISSING
    data_files: Optional[list[str]] = location()

    def check(self) -> Iterator[str]:
        yield from one_of(PREPROCESS_KEYS, key=self.key)


@dataclass
class PreprocessDataConfig:
    preprocess: PreprocessingConfig = field(default_factory=PreprocessingConfig)


@dataclass
class InstructionPromptConfig:
    """`prompt` of preprocess: what is put around a problem; `{problem}` stands for it."""

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
