"""The train stage through the real program, on a tiny real model."""

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from magicoder import config
from magicoder.errors import Interrupted, UserError
from magicoder.stages import train
from magicoder.track import Tracker
from magicoder.training.loop import Training, UpdateReport
from tests.conftest import command, environment, read_jsonl, run_main, write_jsonl

ROWS = [
    {"instruction": f"Write a function that adds {number}.", "response": f"def add(x):\n    return x + {number}"}
    for number in range(24)
]


def arguments(model: Path, *more: str) -> list[str]:
    return [
        "stage=train",
        f"model.key={model}",
        "train.datafile_paths=[rows.jsonl]",
        "train.gradient_accumulation_steps=2",
        "train.warmup_steps=2",
        "train.learning_rate=1e-3",
        "train.save_every=1",
        "track=file",
        *more,
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "rows.jsonl", ROWS)
    return tmp_path


@pytest.fixture(scope="module")
def undisturbed(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run that nothing disturbed, its parameters in bfloat16 as documented."""
    folder = tmp_path_factory.mktemp("undisturbed")
    write_jsonl(folder / "rows.jsonl", ROWS)
    finished = run_main(*arguments(tiny_model), cwd=folder)
    assert finished.returncode == 0, finished.stderr
    return folder / "outputs" / "magicoder"


def curve(out: Path) -> list[tuple[int, float, float]]:
    return [(row["update"], row["loss"], row["learning_rate"]) for row in read_jsonl(out / "metrics.jsonl")]


def assert_same_model(one: Path, other: Path) -> None:
    ours, theirs = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_finished_run_leaves_a_model_its_curve_and_a_manifest_and_nothing_else(undisturbed: Path) -> None:
    visible = {path.name for path in undisturbed.iterdir() if not path.name.startswith(".")}
    model = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert visible == model | {"manifest.json", "metrics.jsonl"}
    manifest = json.loads((undisturbed / "manifest.json").read_text())
    assert manifest["counts"]["updates"] == len(curve(undisturbed)) == 12
    assert set(manifest["outputs"]) == model


def test_the_saved_model_loads_and_generates(undisturbed: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(undisturbed)
    tokenizer = AutoTokenizer.from_pretrained(undisturbed)
    assert model.dtype == torch.bfloat16
    prompt = tokenizer("def add", return_tensors="pt")
    written = model.generate(**prompt, max_new_tokens=5, do_sample=False)
    assert written.shape[1] > prompt["input_ids"].shape[1]


def test_the_second_training_starts_from_the_weights_of_the_first(undisturbed: Path, tiny_model: Path) -> None:
    folder = undisturbed.parent.parent
    finished = run_main(*arguments(tiny_model, "train=evol", "model.init=outputs/magicoder"), cwd=folder)
    assert finished.returncode == 0, finished.stderr
    second = curve(folder / "outputs" / "magicoder-s")
    assert second[0][2] == 0.0  # a fresh schedule
    assert second[0][1] < curve(undisturbed)[0][1]  # but not fresh weights


@pytest.mark.long
def test_killed_at_random_points_it_ends_with_the_same_weights_and_the_same_curve(
    folder: Path, tiny_model: Path, undisturbed: Path
) -> None:
    chance = random.Random(0)
    out = folder / "outputs" / "magicoder"
    kills = 0
    for _ in range(40):
        process = subprocess.Popen(command(*arguments(tiny_model)), cwd=folder, env=environment())
        aim = chance.randrange(1, 12)  # wait for this many updates, then for a moment within or after one
        while process.poll() is None and lines(out / "metrics.jsonl") < aim:
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.05))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        if process.wait() == 0:
            break
        if kills >= 4:
            assert run_main(*arguments(tiny_model), cwd=folder).returncode == 0
            break
    assert kills >= 2
    assert_same_model(out, undisturbed)
    assert curve(out) == curve(undisturbed)


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_sigterm_keeps_the_updates_that_are_done_and_the_same_command_goes_on(
    folder: Path, tiny_model: Path, undisturbed: Path
) -> None:
    out = folder / "outputs" / "magicoder"
    process = subprocess.Popen(
        command(*arguments(tiny_model, "train.save_every=1000")),  # so that only the signal saves
        cwd=folder,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None and lines(out / "metrics.jsonl") < 2:
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert len(errors.splitlines()) == 1
    assert "the same command goes on" in errors
    kept = lines(out / "metrics.jsonl")
    assert kept >= 2
    resumed = run_main(*arguments(tiny_model), cwd=folder)
    assert resumed.returncode == 0, resumed.stderr
    assert_same_model(out, undisturbed)
    assert curve(out) == curve(undisturbed)


@pytest.fixture
def here(
    folder: Path, tiny_model: Path, settings: Callable[..., config.Train], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    """here("KEY=VALUE"): run the stage in this process over `rows.jsonl`; the directory that it made."""
    monkeypatch.chdir(folder)

    def run(*more: str) -> Path:
        stage = settings(*arguments(tiny_model, "parallel.accelerator=cpu", f"out={folder}/made", *more))
        train.run(stage)
        return folder / "made"

    return run


@pytest.mark.parametrize("update", [0, 5, 12])
def test_a_signal_after_any_update_ends_with_its_status_and_its_updates_are_kept_before_the_tracker_ends(
    here: Callable[..., Path], folder: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch, update: int
) -> None:
    # The tracker's end may wait for a network until somebody loses patience and kills.
    updates, close = Training.updates, Tracker.close
    kept: list[list[str]] = []

    def interrupted(self: Training, start: int, stopping: Callable[[], bool]) -> Iterator[UpdateReport]:
        if update == start:
            os.kill(os.getpid(), signal.SIGTERM)
        for report in updates(self, start, stopping):
            if report.update == update:
                os.kill(os.getpid(), signal.SIGTERM)
            yield report

    def closing(self: Tracker) -> None:
        kept.append([path.name for path in (folder / "made").glob("checkpoint-*")])
        close(self)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "updates", interrupted)
        patch.setattr(Tracker, "close", closing)
        with pytest.raises(Interrupted, match=f"{update} of 12 updates are kept") as raised:
            here("train.save_every=1000")
    assert raised.value.exit_status == 143
    assert kept == [[f"checkpoint-{update:06d}"] if update else []]
    out = here("train.save_every=1000")
    assert curve(out) == curve(undisturbed)
    assert_same_model(out, undisturbed)


def test_checkpoints_that_a_killed_run_left_beside_its_finished_model_are_removed_when_it_is_found_complete(
    here: Callable[..., Path], folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train, "shutil", SimpleNamespace(rmtree=killed))
        here("train.num_train_epochs=1")
    assert (folder / "made" / "manifest.json").exists()
    assert list((folder / "made").glob("checkpoint-*"))
    capsys.readouterr()
    out = here("train.num_train_epochs=1")
    assert "is complete" in capsys.readouterr().out
    assert not list(out.glob("checkpoint-*"))


def test_half_a_character_in_a_row_stops_no_training(here: Callable[..., Path], folder: Path) -> None:
    # A teacher that is cut off in the middle of an emoji leaves one; JSON carries it, tokenizers raise TypeError.
    write_jsonl(folder / "rows.jsonl", [*ROWS[:3], {"instruction": "smile \ud83d", "response": "\ud83d = 1"}])
    assert len(curve(here())) == 2


@pytest.mark.parametrize(
    ("row", "more", "words"),
    [
        (
            ROWS[0],
            ["train.max_training_seq_length=5"],
            r"max_training_seq_length=5: leaves nothing to learn in any row",
        ),
        (
            {"instruction": "a", "response": "x = 1\n" * 200},
            ["train.max_training_seq_length=300"],
            r"max_training_seq_length=300: the model knows no more than 256 positions",
        ),
    ],
    ids=["prompts fill the limit", "a row is longer than the model's positions"],
)
def test_rows_that_this_model_cannot_learn_are_one_line(
    here: Callable[..., Path], folder: Path, row: dict[str, str], more: list[str], words: str
) -> None:
    write_jsonl(folder / "rows.jsonl", [row])
    with pytest.raises(UserError, match=words) as raised:
        here(*more)
    assert len(raised.value.problems) == 1
    assert "\n" not in str(raised.value)
    assert not (folder / "made" / "metrics.jsonl").exists()


def test_a_key_that_weights_and_biases_refuses_is_one_line(
    here: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("MODE", "online"), ("API_KEY", "too-short"), ("BASE_URL", "http://127.0.0.1:9")):
        monkeypatch.setenv(f"WANDB_{name}", value)
    with pytest.raises(UserError, match=r"track=wandb: .*; track=file does without") as raised:
        here("track=wandb")
    assert "\n" not in str(raised.value)
    assert "too-short" not in str(raised.value)


@pytest.mark.long
def test_a_sweep_has_a_directory_a_run_one_group_and_repeats_nothing(folder: Path, tiny_model: Path) -> None:
    sweep = ["-m", *arguments(tiny_model, "track=wandb", "train.num_train_epochs=1")]
    sweep[sweep.index("train.learning_rate=1e-3")] = "train.learning_rate=1e-5,2e-5,5e-5"
    finished = run_main(*sweep, cwd=folder, WANDB_MODE="offline")
    assert finished.returncode == 0, finished.stderr
    runs = sorted((folder / "outputs" / "sweeps" / "magicoder").iterdir())
    assert len(runs) == 3
    peaks = [json.loads((run / "manifest.json").read_text())["config"]["train"]["learning_rate"] for run in runs]
    assert sorted(peaks) == [1e-5, 2e-5, 5e-5]
    assert all(list((run / "wandb").glob("offline-run-*")) for run in runs)
    before = {path: path.stat().st_mtime_ns for path in (folder / "outputs").rglob("*.safetensors")}
    again = run_main(*sweep, cwd=folder)
    assert again.returncode == 0
    assert again.stdout.count("is complete") == 3
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_secret_in_the_environment_reaches_no_file(folder: Path, tiny_model: Path) -> None:
    secret = "sk-never-written-anywhere"
    finished = run_main(
        *arguments(tiny_model, "track=wandb", "train.num_train_epochs=1"),
        cwd=folder,
        OPENAI_API_KEY=secret,
        HF_TOKEN=secret,
        WANDB_MODE="offline",
    )
    assert finished.returncode == 0, finished.stderr
    assert secret not in finished.stdout + finished.stderr
    written = [path for path in folder.rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in written)
    assert all(secret.encode() not in path.read_bytes() for path in written)


def test_a_full_disk_ends_in_one_line_and_keeps_the_former_checkpoint(folder: Path, tiny_model: Path) -> None:
    out = folder / "outputs" / "magicoder"
    # The model's weights take 100 KB: with a limit of 40 KB a file no checkpoint can be written.
    limited = subprocess.run(
        ["bash", "-c", 'ulimit -f 40; trap "" XFSZ; exec "$@"', "bash", *command(*arguments(tiny_model))],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert limited.returncode == 1
    assert "Traceback" not in limited.stderr
    assert limited.stderr.strip().startswith("error:")
    assert not (out / "manifest.json").exists()
    assert not list(out.glob("checkpoint-*"))
    assert not list(out.glob(".unfinished-*"))
    assert run_main(*arguments(tiny_model), cwd=folder).returncode == 0


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["model.init=outputs/nowhere"], "model.init=outputs/nowhere: no such folder"),
        (["model.key=nothing here"], "model.key=nothing here: no such folder"),
        (["model.key=package:no_such_package/x.gguf"], "pip install"),
        (["train.datafile_paths=[missing.jsonl]"], "missing.jsonl: no such file; run stage=preprocess first"),
        (["train.datafile_paths=[empty.jsonl]"], "empty.jsonl: is empty"),
        (["train.datafile_paths=[torn.jsonl]"], "torn.jsonl, line 2: is not JSON"),
        (["train.datafile_paths=[columns.jsonl]"], "columns.jsonl, line 1: has no column response"),
        (["parallel.accelerator=gpu"], "there is no GPU"),
    ],
)
def test_bad_input_ends_in_one_line(folder: Path, tiny_model: Path, more: list[str], words: str) -> None:
    (folder / "empty.jsonl").touch()
    (folder / "torn.jsonl").write_text(json.dumps(ROWS[0]) + '\n{"instruction": "a",')
    write_jsonl(folder / "columns.jsonl", [{"instruction": "a"}])
    finished = run_main(*arguments(tiny_model, *more), cwd=folder)
    assert finished.returncode == 1
    assert len(finished.stderr.splitlines()) == 1, finished.stderr
    assert words in finished.stderr
    assert not (folder / "outputs" / "magicoder" / "manifest.json").exists()


def test_another_learning_rate_in_the_same_directory_is_refused_with_the_difference(
    undisturbed: Path, tiny_model: Path
) -> None:
    folder = undisturbed.parent.parent
    other = run_main(*arguments(tiny_model, "train.learning_rate=2e-3"), cwd=folder)
    assert other.returncode == 1
    assert "train.learning_rate was 0.001, is 0.002" in other.stderr
    logging = run_main(*arguments(tiny_model, "train.logging_steps=7"), cwd=folder)
    assert logging.returncode == 0
    assert "is complete" in logging.stdout
