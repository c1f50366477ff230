"""What tests of training share: one process, and one thread for models too small for more."""

from collections.abc import Iterator

import pytest
import torch

from magicoder.config import ParallelConfig
from magicoder.training.distributed import World, launch


@pytest.fixture(scope="session")
def world() -> World:
    return launch(ParallelConfig(strategy="auto", accelerator="cpu", devices="1", num_nodes=1, cpu_offload=False))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """More would wait for each other longer than such a small model computes, wherever other programs run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
