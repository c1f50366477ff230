"""The train stage on several processes: the same updates whatever the layout, and one program for whoever starts it."""

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from tests.stages.trainings import (
    ROWS,
    arguments,
    assert_close_result,
    checkpoints,
    curve,
    lines,
    names,
    when_done,
)
from tests.support import command, environment, run_command, torchrun, write_jsonl

# Rows of very unequal length, one of them cut and one with nothing to learn. Five micro-batches an update are no
# multiple of two devices, and two of each epoch's twelve are left over.
UNEQUAL = [{**row, "response": row["response"] + "  # done\n" * (7 * place % 12)} for place, row in enumerate(ROWS)]
UNEQUAL[5]["response"] = "x = 1\n" * 100
UNEQUAL[9]["instruction"] = "word " * 200
RECIPE = (
    *("train.bf16=false", "train.global_batch_size=10", "train.num_train_epochs=3"),
    *("train.max_training_seq_length=200", "train.tokens_per_device=400", "track.samples=1"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parallel")
    write_jsonl(folder / "rows.jsonl", UNEQUAL)
    return folder


@pytest.fixture(scope="module")
def spread(folder: Path, tiny_model: Path, untied_model: Path) -> Callable[[str, str, Path], Path]:
    """spread(LAYOUT, STRATEGY, MODEL): what one sweep over all three made, within one group of two processes."""
    sweep = [
        *arguments(tiny_model, f"model.key={tiny_model},{untied_model}", *RECIPE),
        *("train.layout=padded,packed", "parallel.strategy=ddp,fsdp"),
        "train.name=${train.layout}-${parallel.strategy}",
    ]
    sweep.remove(f"model.key={tiny_model}")
    finished = run_command(torchrun(2, "-m", *sweep), cwd=folder, timeout=240)
    assert finished.returncode == 0, finished.stderr

    def made(layout: str, strategy: str, model: Path) -> Path:
        jobs = (folder / "outputs" / "sweeps" / f"{layout}-{strategy}").glob("*/manifest.json")
        (job,) = (each for each in jobs if json.loads(each.read_text())["config"]["model"]["key"] == str(model))
        return job.parent

    return made


@pytest.fixture
def alone(folder: Path, train_here: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """alone(NAME, "KEY=VALUE"): what one process makes of the same rows in this process; made once for all tests."""
    monkeypatch.chdir(folder)

    def made(name: str, *more: str) -> Path:
        out = folder / name
        return out if (out / "manifest.json").exists() else train_here(*RECIPE, f"out={out}", *more)

    return made


@pytest.mark.long
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize(
    ("strategy", "layout"),
    [("one", "packed"), ("ddp", "padded"), ("ddp", "packed"), ("fsdp", "padded"), ("fsdp", "packed")],
)
def test_layout_and_devices_change_updates_only_by_rounding(
    spread: Callable[..., Path],
    alone: Callable[..., Path],
    tiny_model: Path,
    untied_model: Path,
    strategy: str,
    layout: str,
    tied: bool,
) -> None:
    model = tiny_model if tied else untied_model
    single = alone(f"padded {tied}", "train.layout=padded", f"model.key={model}")
    assert len(curve(single)) == 6
    if strategy == "one":
        other = alone(f"{layout} {tied}", f"train.layout={layout}", f"model.key={model}")
    else:
        other = spread(layout, strategy, model)
    assert_close_result(other, single)


@pytest.mark.long
def test_sharded_tied_model_is_published_like_any_other(
    spread: Callable[..., Path], alone: Callable[..., Path], tiny_model: Path
) -> None:
    out = spread("packed", "fsdp", tiny_model)
    model, report = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    single = alone("padded True", "train.layout=padded", f"model.key={tiny_model}")
    assert names(out) == names(single)
    for name in ("chat_template.jinja", "tokenizer.json", "config.json", "rejected.jsonl", "samples.jsonl"):
        assert (out / name).read_bytes() == (single / name).read_bytes()
    counts = [json.loads((each / "manifest.json").read_text())["counts"] for each in (out, single)]
    assert counts[0] == counts[1]


@pytest.mark.long
def test_sweep_in_one_process_group_is_ranked_once(
    spread: Callable[..., Path], tiny_model: Path, untied_model: Path
) -> None:
    jobs = [spread("padded", "fsdp", model) for model in (tiny_model, untied_model)]
    text = (jobs[0].parent / "sweep.md").read_text()
    losses = sorted(json.loads((job / "manifest.json").read_text())["counts"]["loss"] for job in jobs)
    ranked = [row.split("|")[2].strip() for row in text.splitlines() if row.startswith("| <code>")]
    assert ranked == [f"{loss:.4f}" for loss in losses]
    assert (jobs[0].parent / "sweep.png").exists()


def test_memory_saving_options_change_only_rounding(folder: Path, alone: Callable[..., Path], tiny_model: Path) -> None:
    frugal = (
        *("parallel.reduce_gradients=each", "parallel.activation_checkpointing=on", "train.logits=chunked"),
        "parallel.cpu_offload=true",  # they are on the CPU already
    )
    finished = run_command(torchrun(2, *arguments(tiny_model, *RECIPE, "parallel=fsdp", *frugal)), cwd=folder)
    assert finished.returncode == 0, finished.stderr
    assert "activation checkpointing on" in finished.stdout
    single = alone("padded True", "train.layout=padded", f"model.key={tiny_model}")
    assert_close_result(folder / "outputs" / "magicoder", single)


# --- started by the program itself -----------------------------------------------------------------------------------


def test_started_processes_stop_together_and_flags_fix_the_batch(
    training_folder: Path, tiny_model: Path, train_here: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    same = ("train.bf16=false", "train.num_train_epochs=4")
    flags = ("train.global_batch_size=null", "train.gradient_accumulation_steps=2")  # times 2 times 2
    accumulated = (*flags, "parallel=ddp", "parallel.devices=2", "train.save_every=1000")
    process = subprocess.Popen(
        command(*arguments(tiny_model, *same, *accumulated)),
        cwd=training_folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    out = training_folder / "outputs" / "magicoder"
    assert when_done(process, out, 2)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)  # until the other process has ended too, for it holds the same pipes
    assert process.returncode == 143
    kept = lines(out / "metrics.jsonl")
    assert errors.count(f"stopped by SIGTERM: {kept} of 12 updates are kept; the same command resumes\n") == 1
    assert checkpoints(out) == [f"checkpoint-{kept:06d}"]
    eight = (*same, "train.global_batch_size=8")
    assert_close_result(train_here(*eight, f"out={out}"), train_here(*eight, "out=whole"))
    capsys.readouterr()
    train_here(*same, *flags, f"out={out}")  # the same update on one device
    assert "is complete" in capsys.readouterr().out


def test_a_mistake_is_told_once_whoever_starts_the_processes(folder: Path, tiny_model: Path) -> None:
    mistaken = arguments(tiny_model, "train.max_training_seq_length=5", "out=mistaken")
    found = "error: train.max_training_seq_length=5: leaves no supervised token in any row\n"
    several = run_command(torchrun(2, *mistaken), cwd=folder)
    assert several.returncode == 1
    assert several.stderr.count(found) == several.stderr.count("error: ") == 1


def test_several_processes_say_no_more_than_one(training_folder: Path, tiny_model: Path) -> None:
    process = subprocess.Popen(
        command(*arguments(tiny_model, "parallel=ddp", "parallel.devices=2", "train.num_train_epochs=50")),
        cwd=training_folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert when_done(process, training_folder, 2)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    assert len(errors.splitlines()) == 1, errors
