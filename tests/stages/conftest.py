"""What tests of the train stage share: rows, the stage and the program run in this process, an undisturbed run."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import main
from magicoder import config
from magicoder.runtime.signals import STOP_SIGNALS
from magicoder.stages import train
from tests.stages.trainings import ROWS, arguments
from tests.support import run_main, write_jsonl


@pytest.fixture
def training_folder(tmp_path: Path) -> Path:
    """A folder with the rows to train on."""
    write_jsonl(tmp_path / "rows.jsonl", ROWS)
    return tmp_path


@pytest.fixture
def train_here(
    training_folder: Path,
    tiny_model: Path,
    settings: Callable[..., config.TrainConfig],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Path]:
    """train_here("KEY=VALUE"): run the stage in this process, in the folder; the directory that it made."""
    monkeypatch.chdir(training_folder)
    torch.set_num_threads(1)  # as in the programs that tests start

    def run(*more: str) -> Path:
        chosen = settings(*arguments(tiny_model, f"out={training_folder}/made", *more))
        train.run(chosen)
        return Path(chosen.out)

    return run


@pytest.fixture
def program(
    training_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """program("KEY=VALUE"): run the program in this process, in the folder; exit status, output and errors."""
    monkeypatch.chdir(training_folder)
    for set_by_the_program in ("TQDM_DISABLE", "HYDRA_FULL_ERROR"):
        monkeypatch.setenv(set_by_the_program, "1")
    torch.set_num_threads(1)

    def run(*line: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["main.py", *line])
        handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
        capsys.readouterr()
        try:
            status = main.main()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        return status, *capsys.readouterr()

    return run


@pytest.fixture(scope="session")
def undisturbed(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a finished run that nothing disturbed, its parameters in bfloat16 as documented."""
    folder = tmp_path_factory.mktemp("undisturbed")
    write_jsonl(folder / "rows.jsonl", ROWS)
    finished = run_main(*arguments(tiny_model), cwd=folder)
    assert (finished.returncode, finished.stderr) == (0, "")
    return folder / "outputs" / "magicoder"
