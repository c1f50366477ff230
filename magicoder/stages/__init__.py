"""The stages: one module each. `validate(config)` finds mistakes before any work, `run(config)` does the work."""

import importlib
from types import ModuleType
from typing import NamedTuple

from magicoder.config import (
    CleanConfig,
    DecontaminateConfig,
    GenerateConfig,
    PreprocessConfig,
    StageConfig,
    TrainConfig,
)


class Stage(NamedTuple):
    """One entry of the registry. module: imported only when the stage is validated or run, for it may be heavy."""

    config: type[StageConfig]
    module: str

    def load(self) -> ModuleType:
        """Import the module of the stage."""
        return importlib.import_module(self.module)


STAGES: dict[str, Stage] = {
    "generate": Stage(GenerateConfig, "magicoder.stages.generate"),
    "clean": Stage(CleanConfig, "magicoder.stages.clean"),
    "decontaminate": Stage(DecontaminateConfig, "magicoder.stages.decontaminate"),
    "preprocess": Stage(PreprocessConfig, "magicoder.stages.preprocess"),
    "train": Stage(TrainConfig, "magicoder.stages.train"),
}
"""Every stage in the order of the pipeline. Help, schemas, Makefile targets and imports are derived from it."""


def load_stage(config: StageConfig) -> ModuleType:
    """Import the module of the stage that `config` belongs to."""
    return STAGES[config.stage].load()
