"""Config of the decontaminate stage."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Optional

from omegaconf import MISSING

from magicoder.config.bounds import require_one_of, require_paths
from magicoder.config.identity import later, location
from magicoder.config.stage import StageConfig


@dataclass
class BenchmarkConfig:
    """The location of one benchmark; it bears identity by its content, or by its address if it is fetched."""

    path: str = location()


@dataclass
class DecontaminationConfig:
    """`data.decontaminate`: rows that contain a benchmark's text are taken out."""

    data_files: Any = location()
    columns: list[str] = MISSING
    benchmarks: dict[str, BenchmarkConfig] = MISSING
    detectors: list[str] = later(implied=["substrings"])
    apps_solutions: bool = MISSING
    cache: Optional[str] = location()
    bad_rows: str = later(implied="error")

    def check(self) -> Iterator[str]:
        yield from require_paths(data_files=self.data_files)
        yield from require_one_of(("error", "reject"), bad_rows=self.bad_rows)
        if not self.benchmarks:
            yield "benchmarks: name at least one"
        if not self.columns:
            yield "columns: name at least one"
        if not self.detectors:
            yield "detectors: name at least one"
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
