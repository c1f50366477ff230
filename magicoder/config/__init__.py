"""The vocabulary of the config tree: one module a stage, one dataclass a node.

Values and their meaning are in `conf/`. Here are the types, the bounds (each `check` yields the violations) and the
fields that bear on the result. A field made with `execution()` cannot change what a run makes (devices, logging,
concurrency), so it is not part of a run's identity and may differ between two runs of a directory.
"""

from magicoder.config.clean import CleanConfig, CleanDataConfig, CleaningConfig
from magicoder.config.decontaminate import (
    BenchmarkConfig,
    DecontaminateConfig,
    DecontaminateDataConfig,
    DecontaminationConfig,
)
from magicoder.config.generate import (
    SOURCES,
    BatchConfig,
    DrawnCodeConfig,
    EvolutionConfig,
    GenerateConfig,
    GenerateDataConfig,
    HubCodeConfig,
    InstructionsConfig,
    LocalCodeConfig,
    PriceConfig,
    RequestConfig,
    RowsConfig,
    SeedsConfig,
    SnippetsConfig,
    TeacherConfig,
    TeacherPromptConfig,
    WorkedExampleConfig,
)
from magicoder.config.preprocess import (
    InstructionPromptConfig,
    PreprocessConfig,
    PreprocessDataConfig,
    PreprocessingConfig,
)
from magicoder.config.stage import StageConfig
from magicoder.config.train import (
    ModelConfig,
    ParallelConfig,
    RecipeConfig,
    TrackConfig,
    TrainConfig,
    TrainingPromptConfig,
)

__all__ = [
    "SOURCES",
    "BatchConfig",
    "BenchmarkConfig",
    "CleanConfig",
    "CleanDataConfig",
    "CleaningConfig",
    "DecontaminateConfig",
    "DecontaminateDataConfig",
    "DecontaminationConfig",
    "DrawnCodeConfig",
    "EvolutionConfig",
    "GenerateConfig",
    "GenerateDataConfig",
    "HubCodeConfig",
    "InstructionPromptConfig",
    "InstructionsConfig",
    "LocalCodeConfig",
    "ModelConfig",
    "ParallelConfig",
    "PreprocessConfig",
    "PreprocessDataConfig",
    "PreprocessingConfig",
    "PriceConfig",
    "RecipeConfig",
    "RequestConfig",
    "RowsConfig",
    "SeedsConfig",
    "SnippetsConfig",
    "StageConfig",
    "TeacherConfig",
    "TeacherPromptConfig",
    "TrackConfig",
    "TrainConfig",
    "TrainingPromptConfig",
    "WorkedExampleConfig",
]
