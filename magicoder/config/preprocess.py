"""Config of the preprocess stage."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from omegaconf import MISSING

from magicoder.config.bounds import require_one_of, require_paths
from magicoder.config.identity import later, location
from magicoder.config.stage import StageConfig


@dataclass
class PreprocessingConfig:
    """`data.preprocess`: turn rows of one format into instruction and response."""

    key: str = MISSING
    data_files: Any = location()
    columns: Any = later(implied=None)
    bad_rows: str = later(implied="error")

    def check(self) -> Iterator[str]:
        if self.data_files is not None:
            yield from require_paths(data_files=self.data_files)
        if self.columns is not None and not is_renaming(self.columns):
            yield f"columns={self.columns}: give the name in the file of each column: {{OURS: THEIRS}}"
        yield from require_one_of(("error", "reject"), bad_rows=self.bad_rows)


def is_renaming(value: Any) -> bool:
    """Return whether a value maps texts to texts."""
    return isinstance(value, dict) and all(isinstance(text, str) for pair in value.items() for text in pair)


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
