"""Checkpoints resume bit for bit, are whole or absent, and hold the state at the moment of the call."""

import errno
import resource
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from transformers import AutoModelForCausalLM

from magicoder.storage.files import TEMPORARY_PREFIX
from magicoder.training import checkpoint, list_checkpoints
from magicoder.training.adafactor import Adafactor
from magicoder.training.checkpoint import Checkpoints
from magicoder.training.distributed import World

STOCHASTIC = {"rounding": "stochastic", "master_weights": False, "seed": 3}
MASTER = {"rounding": "stochastic", "master_weights": True, "seed": 3}


class Run:
    """A bfloat16 model with tied embeddings and one frozen parameter, its optimizer, and their checkpoints."""

    def __init__(self, folder: Path, directory: Path, world: World, keep: int, **options: Any) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
        next(self.model.get_decoder().layers[0].input_layernorm.parameters()).requires_grad_(False)
        self.optimizer = Adafactor(self.model.parameters(), lr=1e-3, **options)
        self.checkpoints = Checkpoints(directory, keep, world, self.model, self.optimizer)

    def advance(self, updates: range) -> None:
        """Each a function of its number."""
        for number in updates:
            inputs = torch.randint(300, (2, 10), generator=torch.Generator().manual_seed(number))
            self.model(input_ids=inputs, labels=inputs).loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()

    def save(self, update: int) -> None:
        """Write a checkpoint to its end."""
        self.checkpoints.save(update)
        self.checkpoints.finish()

    def state(self) -> list[torch.Tensor]:
        """Copies of all that a checkpoint holds."""
        entries = [entry for state in self.optimizer.state.values() for entry in state.values()]
        return [torch.as_tensor(tensor).detach().clone() for tensor in [*self.model.parameters(), *entries]]


@pytest.fixture
def run(tiny_model: Path, tmp_path: Path, world: World) -> Callable[..., Run]:
    def new(keep: int = 1, **options: Any) -> Run:
        return Run(tiny_model, tmp_path, world, keep, **(options or MASTER))

    return new


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


@pytest.mark.parametrize("options", [STOCHASTIC, MASTER, {"rounding": "nearest"}])
def test_a_resumed_run_goes_on_bit_for_bit(run: Callable[..., Run], options: dict[str, Any]) -> None:
    undisturbed = run(**options)
    undisturbed.advance(range(4))
    undisturbed.save(4)
    kept = undisturbed.state()
    undisturbed.advance(range(4, 8))

    resumed = run(**options)
    assert resumed.checkpoints.resume() == 4
    assert same(resumed.state(), kept)
    resumed.advance(range(4, 8))
    assert same(resumed.state(), undisturbed.state())
    assert not same(resumed.state(), kept)


def test_without_a_checkpoint_a_run_begins(run: Callable[..., Run]) -> None:
    assert run().checkpoints.resume() == 0


def test_checkpoints_are_in_the_order_of_updates_and_copies_are_none(tmp_path: Path) -> None:
    for name in ("999999", "1000000", "000020", "old", "000020-copy"):
        (tmp_path / f"checkpoint-{name}").mkdir()
    updates = [path.name.removeprefix("checkpoint-") for path in list_checkpoints(tmp_path)]
    assert updates == ["000020", "999999", "1000000"]


def test_newest_checkpoints_are_kept_and_the_newest_resumed(run: Callable[..., Run], tmp_path: Path) -> None:
    saving = run(keep=2)
    for update in (1, 9, 10, 200):
        saving.advance(range(1))
        saving.save(update)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-000010", "checkpoint-000200"]
    assert sorted(tmp_path.iterdir()) == list_checkpoints(tmp_path)
    resumed = run()
    assert resumed.checkpoints.resume() == 200
    assert same(resumed.state(), saving.state())


def test_a_checkpoint_that_is_there_is_not_written_again(run: Callable[..., Run]) -> None:
    saving = run()
    saving.advance(range(1))
    saving.save(1)
    first = saving.state()
    saving.advance(range(1, 2))
    saving.save(1)
    resumed = run()
    assert resumed.checkpoints.resume() == 1
    assert same(resumed.state(), first)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A disk that writes nothing until this is set."""
    ready = threading.Event()

    class SlowWriter(FileSystemWriter):
        def write_data(self, *arguments: Any, **options: Any) -> Any:
            assert ready.wait(timeout=60)
            return super().write_data(*arguments, **options)

    monkeypatch.setattr(checkpoint, "FileSystemWriter", SlowWriter)
    yield ready
    ready.set()


def test_the_state_may_change_as_soon_as_its_saving_has_begun(run: Callable[..., Run], disk: threading.Event) -> None:
    saving = run()
    saving.advance(range(2))
    before = saving.state()
    saving.checkpoints.save(2)
    saving.advance(range(2, 4))
    disk.set()
    saving.checkpoints.finish()
    resumed = run()
    assert resumed.checkpoints.resume() == 2
    assert same(resumed.state(), before)
    assert not same(saving.state(), before)


def test_unfinished_checkpoint_is_neither_resumed_nor_awaited(
    run: Callable[..., Run], tmp_path: Path, disk: threading.Event
) -> None:
    saving = run()
    saving.advance(range(1))
    saving.checkpoints.save(1)
    saving.checkpoints.finish_if_written()
    # A process that is killed now leaves this.
    assert [path.name.startswith(TEMPORARY_PREFIX) for path in tmp_path.iterdir()] == [True]
    assert run().checkpoints.resume() == 0

    disk.set()
    deadline = time.monotonic() + 60
    while not list_checkpoints(tmp_path) and time.monotonic() < deadline:
        saving.checkpoints.finish_if_written()
    assert run().checkpoints.resume() == 1


def test_saving_waits_for_the_one_before(run: Callable[..., Run], tmp_path: Path, disk: threading.Event) -> None:
    saving = run(keep=5)
    saving.checkpoints.save(1)
    threading.Timer(0.2, disk.set).start()
    saving.checkpoints.save(2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-000001"]
    saving.checkpoints.finish()
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-000001", "checkpoint-000002"]


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """Writing beyond fails as on a full disk, but with EFBIG."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_full_disk_leaves_only_the_former_checkpoint(run: Callable[..., Run], tmp_path: Path) -> None:
    saving = run()
    saving.advance(range(2))
    saving.save(2)
    former = saving.state()
    saving.advance(range(2, 4))
    with files_no_larger_than(32_768), pytest.raises(OSError, match="checkpoint-000004") as failure:
        saving.save(4)
    assert failure.value.errno == errno.EFBIG
    assert failure.value.filename == str(tmp_path / "checkpoint-000004")
    assert list(tmp_path.iterdir()) == [tmp_path / "checkpoint-000002"]
    resumed = run()
    assert resumed.checkpoints.resume() == 2
    assert same(resumed.state(), former)
    # With room on the disk again, the same run saves its next checkpoint.
    saving.save(4)
    assert run().checkpoints.resume() == 4


def test_each_parameter_goes_on_with_its_own_count_of_steps(world: World, tmp_path: Path) -> None:
    """A parameter may have its first gradient later than others, as an expert that is seldom chosen."""

    def begun() -> tuple[torch.nn.Module, Adafactor, Checkpoints]:
        model = torch.nn.ParameterDict({"early": torch.ones(3), "late": torch.ones(3)})
        optimizer = Adafactor(reversed(list(model.parameters())), lr=1e-3)
        return model, optimizer, Checkpoints(tmp_path, 1, world, model, optimizer)

    model, optimizer, checkpoints = begun()
    for names in (("early",), ("early", "late")):
        for name in names:
            model[name].grad = torch.ones(3)
        optimizer.step()
        optimizer.zero_grad()
    checkpoints.save(2)
    checkpoints.finish()
    model, optimizer, checkpoints = begun()
    assert checkpoints.resume() == 2
    assert {name: optimizer.state[model[name]]["step"] for name in model} == {"early": 2, "late": 1}
