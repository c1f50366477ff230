"""Fixtures that all tests share: composed settings, no launcher, tiny models."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from magicoder import config
from magicoder.stages import register_configs
from tests.support import PROJECT, is_private, make_model


@pytest.fixture(scope="session", autouse=True)
def schemas() -> None:
    register_configs()


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Callable[..., config.StageConfig]]:
    """settings("stage=clean", "data.clean.no_filter=true"): the stage's dataclass, its root in this test's folder."""

    def composed(*overrides: str) -> config.StageConfig:
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
            tree = compose("config", overrides=[*overrides, f"root={tmp_path}/outputs"])
        return OmegaConf.to_object(tree)

    yield composed
    GlobalHydra.instance().clear()


@pytest.fixture(scope="session", autouse=True)
def no_launcher() -> Iterator[None]:
    """Hide the variables of a launcher: this process is a rank of nothing."""
    with pytest.MonkeyPatch.context() as patch:
        for name in filter(is_private, list(os.environ)):
            patch.delenv(name)
        yield


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a randomly initialized two-layer Llama and a byte-level BPE tokenizer: loads in a moment."""
    return make_model(tmp_path_factory.mktemp("tiny_model"))


@pytest.fixture(scope="session")
def untied_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, but what reads tokens and what writes them are two matrices."""
    return make_model(tmp_path_factory.mktemp("untied_model"), tie_word_embeddings=False)
