"""The processes of a training: how many there are to be, and what one alone does."""

import pytest
import torch

from magicoder.config import ParallelConfig
from magicoder.runtime.errors import UserError
from magicoder.training.distributed import count_devices, launch

TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "LOCAL_WORLD_SIZE": "4", "WORLD_SIZE": "8"}


def parallel(devices: str = "auto", *, accelerator: str = "auto", num_nodes: int = 1) -> ParallelConfig:
    return ParallelConfig(
        strategy="auto", accelerator=accelerator, devices=devices, num_nodes=num_nodes, cpu_offload=False
    )


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine without GPUs; a test may add some, and who started the processes."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    return monkeypatch


def test_without_a_gpu_one_process_runs_unless_more_are_chosen(machine: pytest.MonkeyPatch) -> None:
    assert count_devices(parallel()) == (1, 1)
    assert count_devices(parallel("3")) == (3, 1)


def test_every_gpu_is_used_unless_fewer_or_none_are_asked_for(machine: pytest.MonkeyPatch) -> None:
    machine.setattr(torch.cuda, "device_count", lambda: 4)
    assert count_devices(parallel()) == (4, 1)
    assert count_devices(parallel("2", num_nodes=3)) == (2, 3)
    assert count_devices(parallel(accelerator="cpu")) == (1, 1)


def test_devices_that_are_not_there_are_an_error(machine: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"parallel\.accelerator=gpu: this machine has no GPU"):
        count_devices(parallel(accelerator="gpu"))
    machine.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match=r"parallel\.devices=2: this machine has 1 GPU$"):
        count_devices(parallel("2"))


def test_processes_that_torchrun_started_are_as_many_as_it_says(machine: pytest.MonkeyPatch) -> None:
    for name, value in TORCHRUN.items():
        machine.setenv(name, value)
    assert count_devices(parallel()) == count_devices(parallel("4")) == (4, 2)
    with pytest.raises(UserError, match=r"parallel\.devices=2: 4 processes were started on each machine"):
        count_devices(parallel("2"))


def test_slurm_processes_are_counted_but_its_shell_is_not(machine: pytest.MonkeyPatch) -> None:
    machine.setenv("SLURM_NTASKS", "6")
    machine.setenv("SLURM_NNODES", "3")
    machine.setenv("SLURM_JOB_NAME", "train")
    assert count_devices(parallel()) == (2, 3)
    machine.setenv("SLURM_JOB_NAME", "bash")
    assert count_devices(parallel()) == (1, 1)


def test_one_process_alone_agrees_with_itself(machine: pytest.MonkeyPatch) -> None:
    alone = launch(parallel("1", accelerator="cpu"))
    assert (alone.kind, alone.rank, alone.size, alone.is_first, alone.device.type) == ("one", 0, 1, True, "cpu")
    assert alone.run_on_first(lambda: 7) == alone.broadcast(7) == 7
    assert alone.any(False, True) == [False, True]
    assert alone.gather("here") == ["here"]
    assert alone.sum(torch.tensor([2.0])).tolist() == [2.0]


@pytest.mark.parametrize("error", [UserError("no such row"), OSError(28, "disk full", "rows.jsonl"), KeyError("bug")])
def test_an_error_of_the_first_process_is_raised_as_it_was(machine: pytest.MonkeyPatch, error: Exception) -> None:
    def work() -> None:
        raise error

    with pytest.raises(type(error)) as raised:
        launch(parallel("1", accelerator="cpu")).run_on_first(work)
    assert raised.value is error
