"""Config of the decontaminate stage."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Optional

from omegaconf import MISSING

from magicoder.config.identity import location
from magicoder.config.stage import StageConfig


@dataclass
class BenchmarkConfig:
    """Where one benchmark is read; it bears identity by its content, or by the name of what is fetched."""

    path: str = location()


@dataclass
class DecontaminationConfig:
    """`data.decontaminate`: rows that contain a benchmark's text are taken out."""

    data_files: list[str] = location()
    columns: list[str] = MISSING
    benchmarks: dict[str, BenchmarkConfig] = MISSING
    apps_solutions: bool = MISSING
    cache: Optional[str] = location()

    def check(self) -> Iterator[str]:
        known = ("mbpp", "human_eval", "apps", "gsm8k", "ds_1000")
        for name in self.benchmarks:
            if name not in known:
                yield f"benchmarks.{name}: no such benchmark; known are {', '.join(known)}"
        if not self.benchmarks:
            yield "benchmarks: name at least one"
        if not self.columns:
            yield "columns: name at least one"
        if self.apps_solutions and "apps" not in self.benchmarks:
            yield "apps_solutions=true: needs benchmarks.apps"


@dataclass
class DecontaminateDataConfig:
    decontaminate: DecontaminationConfig = field(default_factory=DecontaminationConfig)


@dataclass
class DecontaminateConfig(StageConfig):
    """Config of one run of the decontaminate stage."""

    stage: ClassVar[str] = "decontaminate"

    data: DecontaminateDataConfig = field(default_factory=DecontaminateDataConfig)
