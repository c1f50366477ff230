"""The stages: one module each. `validate(config)` finds mistakes before any work, `run(config)` does the work."""

import importlib
from types import ModuleType
from typing import NamedTuple

from magicoder.config import (
    SOURCES,
    CleanConfig,
    DecontaminateConfig,
    GenerateConfig,
    PreprocessConfig,
    StageConfig,
    TrainConfig,
)
from magicoder.config.composition import register_node
from magicoder.curation.benchmarks import BENCHMARKS


class Stage(NamedTuple):
    """One entry of the registry.

    config: the schema of its config. module: imported only when the stage is validated or run, because it may be
    heavy. summary: one line for the help.
    """

    config: type[StageConfig]
    module: str
    summary: str

    def load(self) -> ModuleType:
        """Import the module of the stage."""
        return importlib.import_module(self.module)


STAGES: dict[str, Stage] = {
    "generate": Stage(
        GenerateConfig,
        "magicoder.stages.generate",
        "seed snippets of real code inspire a teacher: problems with solutions",
    ),
    "clean": Stage(CleanConfig, "magicoder.stages.clean", "join the rows, shuffle them, remove duplicates"),
    "decontaminate": Stage(
        DecontaminateConfig, "magicoder.stages.decontaminate", "remove rows that contain a benchmark's text"
    ),
    "preprocess": Stage(PreprocessConfig, "magicoder.stages.preprocess", "turn rows into instruction and response"),
    "train": Stage(TrainConfig, "magicoder.stages.train", "fine-tune a model on them"),
}
"""Every stage in the order of the pipeline. Help, schemas and imports of stages are derived from it."""


def load_stage(config: StageConfig) -> ModuleType:
    """Import the module of the stage that `config` belongs to."""
    return STAGES[config.stage].load()


def register_configs() -> None:
    """Give Hydra the schema of each stage, and the paths of the registered benchmarks as `/base/benchmarks`."""
    for name, stage in STAGES.items():
        register_node("schema", name, stage.config, package="_global_")
    for name, seeds in SOURCES.items():
        register_node("schema/seeds", name, seeds)
    paths = {name: {"path": benchmark.path} for name, benchmark in BENCHMARKS.items()}
    register_node("base", "benchmarks", {"benchmarks": paths})
