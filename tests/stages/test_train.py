"""What the train stage makes of rows: a model with its tokenizer, its curve, its samples and its card."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from magicoder import config
from magicoder.runtime.errors import Interrupted
from magicoder.training import publish
from magicoder.training.tokenization import tokenize_rows
from tests.stages.trainings import (
    ROWS,
    UPDATES,
    arguments,
    assert_close_result,
    checkpoints,
    curve,
    during,
    names,
    signalled,
)
from tests.support import command, read_jsonl, run_command, run_main, write_jsonl

MODEL = {
    *("config.json", "generation_config.json", "model.safetensors"),
    *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
}


# --- what is published -----------------------------------------------------------------------------------------------


def test_finished_run_leaves_the_documented_files_and_no_others(undisturbed: Path) -> None:
    for_people = {"README.md", "loss_curve.png", "samples.jsonl"}
    assert names(undisturbed) == MODEL | for_people | {"rejected.jsonl", "metrics.jsonl", "manifest.json"}
    manifest = json.loads((undisturbed / "manifest.json").read_text())
    assert set(manifest["outputs"]) == MODEL | {"rejected.jsonl"}
    loss = round(curve(undisturbed)[-1][1], 4)
    assert manifest["counts"] == {"in": 24, "cut": 0, "rejected": 0, "updates": UPDATES, "loss": loss}
    with Image.open(undisturbed / "loss_curve.png") as image:
        assert image.format == "PNG"
    assert "24, 0 of them truncated" in (undisturbed / "README.md").read_text()


def test_saved_model_has_every_weight_in_its_training_dtype(undisturbed: Path) -> None:
    model, report = AutoModelForCausalLM.from_pretrained(undisturbed, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert model.dtype == torch.bfloat16
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_chat_messages_give_exactly_the_training_tokens(
    undisturbed: Path, tmp_path: Path, settings: Callable[..., config.TrainConfig]
) -> None:
    template = settings("stage=train").prompt.template
    tokenizer = AutoTokenizer.from_pretrained(undisturbed)
    trained = tokenize_rows(ROWS, tokenizer, template, 1216, tmp_path / "sequences")
    generator = pipeline("text-generation", model=str(undisturbed))
    for number, row in enumerate(ROWS[:3]):
        question = [{"role": "user", "content": row["instruction"]}]
        answered = [*question, {"role": "assistant", "content": row["response"]}]
        assert tokenizer.apply_chat_template(answered)["input_ids"] == trained[number].tolist()
        prompt: Any = generator(question, max_new_tokens=1, do_sample=False, return_tensors=True)
        given = prompt[0]["generated_token_ids"][: trained.prompt_lengths[number]]
        assert given == trained[number][: trained.prompt_lengths[number]].tolist()


def test_every_update_is_noted_with_what_it_cost(undisturbed: Path) -> None:
    noted = read_jsonl(undisturbed / "metrics.jsonl")
    assert [row["update"] for row in noted] == list(range(1, UPDATES + 1))
    assert [row["learning_rate"] for row in noted[:4]] == pytest.approx([0.0, 5e-3, 1e-2, 9e-3])
    assert noted[0]["update_norm"] == 0.0
    for row in noted:
        assert set(row) == {
            *("update", "loss", "learning_rate", "update_norm", "tokens", "supervised_tokens", "padding"),
            *("operations", "memory", "seconds", "tokens_per_second"),
        }
        assert row["update_norm"] > 0.0 or row["update"] == 1
        assert row["tokens"] > row["supervised_tokens"] > 0
        assert row["padding"] == 0.0
        assert row["memory"] > 100e6  # of a process with torch in it
        assert row["tokens_per_second"] == pytest.approx(row["tokens"] / row["seconds"])


def test_the_first_instructions_are_answered_before_and_after(undisturbed: Path) -> None:
    rows = read_jsonl(undisturbed / "samples.jsonl")
    assert [(row["instruction"], row["expected"]) for row in rows] == [
        (row["instruction"], row["response"]) for row in ROWS[:2]
    ]
    assert all(set(row) == {"instruction", "expected", "before", "after"} for row in rows)
    assert any(row["before"] != row["after"] for row in rows)


def test_second_training_starts_from_the_first_weights(train_here: Callable[..., Path], undisturbed: Path) -> None:
    second = curve(train_here("train=evol", f"model.init={undisturbed}"))
    assert second[0][2] == 0.0  # a fresh schedule
    assert second[0][1] < curve(undisturbed)[0][1]  # but not fresh weights


def test_finished_run_is_complete_or_refused_by_its_identity(
    train_here: Callable[..., Path], undisturbed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = f"out={undisturbed}"
    before = {path: path.stat().st_mtime_ns for path in undisturbed.iterdir()}
    train_here(directory, "train.logging_steps=7", "train.layout=padded", "track.samples=0")
    of_flags = ("train.global_batch_size=null", "train.documented_devices=1")
    train_here(directory, *of_flags, "train.gradient_accumulation_steps=2")
    assert capsys.readouterr().out.count("is complete") == 2
    with pytest.raises(Exception, match=r"train\.learning_rate was 0\.01, is 0\.002"):
        train_here(directory, "train.learning_rate=2e-3")
    with pytest.raises(Exception, match=r"train\.global_batch_size was 4, is 6"):
        train_here(directory, *of_flags, "train.gradient_accumulation_steps=3")
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_leftover_checkpoints_of_a_complete_run_are_removed(
    train_here: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def killed(directory: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(publish, "discard_work", killed)
        train_here("out=left", "train.num_train_epochs=1")
    assert {"manifest.json", "checkpoint-000006", "sequences"} <= names(Path("left"))
    out = train_here("out=left", "train.num_train_epochs=1")
    assert "is complete" in capsys.readouterr().out
    assert not names(out) & {"checkpoint-000006", "sequences"}


# --- rows that are not as they should be -----------------------------------------------------------------------------


def test_truncated_and_unsupervised_rows_are_counted_and_located(
    train_here: Callable[..., Path], training_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    endless = {"instruction": "word " * 200, "response": "never seen"}
    long = {"instruction": "Count.", "response": "x = 1\n" * 100}
    more = write_jsonl(training_folder / "more.jsonl", [long, endless])
    more.write_text(more.read_text().replace("\n", "\n\n", 1))  # an empty line counts as a line, not as a row
    out = train_here(
        "train.datafile_paths=[rows.jsonl,more.jsonl]",
        "train.max_training_seq_length=200",
        "train.num_train_epochs=1",
        "train.tokens_per_device=512",
    )
    said = capsys.readouterr().out
    assert "2 of 26 rows were truncated to max_training_seq_length=200" in said
    assert "1 rows have no supervised token" in said
    evidence = {"file": "more.jsonl", "line": 3, "limit": 200}
    assert read_jsonl(out / "rejected.jsonl") == [{**endless, "reason": "nothing to learn", "evidence": evidence}]
    counts = json.loads((out / "manifest.json").read_text())["counts"]
    assert (counts["in"], counts["cut"], counts["rejected"]) == (26, 2, 1)


def test_fewer_rows_than_an_update_takes_are_one_update_an_epoch(
    train_here: Callable[..., Path], training_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_jsonl(training_folder / "rows.jsonl", ROWS[:5])
    out = train_here("train.global_batch_size=16", "train.num_train_epochs=3")
    assert "5 rows are fewer than global_batch_size: an epoch is one update of all of them" in capsys.readouterr().out
    noted = read_jsonl(out / "metrics.jsonl")
    assert len(noted) == 3
    assert len({row["tokens"] for row in noted}) == 1


def test_half_a_character_in_a_row_stops_no_training(train_here: Callable[..., Path], training_folder: Path) -> None:
    # A teacher that is cut off in the middle of an emoji leaves one; JSON carries it, tokenizers raise TypeError.
    write_jsonl(training_folder / "rows.jsonl", [*ROWS[:3], {"instruction": "smile \ud83d", "response": "\ud83d = 1"}])
    assert len(curve(train_here())) == 2


# --- how it is carried out -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("plain")


@pytest.fixture
def plain(train_here: Callable[..., Path], plain_folder: Path) -> Path:
    """A training in float32 without any means of saving memory or time; made once for all tests."""
    finished = (plain_folder / "manifest.json").exists()
    return plain_folder if finished else train_here("train.bf16=false", "train.layout=padded", f"out={plain_folder}")


@pytest.mark.parametrize(
    "way",
    [
        ["train.layout=padded", "train.logits=chunked"],
        ["train.layout=padded", "parallel.activation_checkpointing=on"],
        ["train.layout=padded", "model.attention=eager"],
        ["train.tokens_per_device=1216", "train.logits=chunked", "parallel.activation_checkpointing=on"],
    ],
    ids=["chunked logits", "activation checkpointing", "eager attention", "packed, with both"],
)
def test_what_saves_memory_changes_no_more_than_rounding(
    train_here: Callable[..., Path], plain: Path, capsys: pytest.CaptureFixture[str], way: list[str]
) -> None:
    assert_close_result(train_here("train.bf16=false", *way), plain)
    said = "on" if "parallel.activation_checkpointing=on" in way else "off"
    assert f"activation checkpointing {said}" in capsys.readouterr().out.splitlines()[-2]


@pytest.mark.long
def test_compiled_layers_change_no_more_than_rounding(plain: Path, training_folder: Path, tiny_model: Path) -> None:
    line = command(*arguments(tiny_model, "train.compile=true", "train.bf16=false"))
    compiled = run_command(line, cwd=training_folder, TORCH_LOGS="graph_code")
    assert compiled.returncode == 0, compiled.stderr[-2000:]
    assert compiled.stderr.count("TRACED GRAPH") >= 2  # one a layer at the least
    assert_close_result(training_folder / "outputs" / "magicoder", plain)


def test_so_many_checkpoints_are_kept_as_are_asked_for(
    train_here: Callable[..., Path], training_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signalled(monkeypatch, 5, signal.SIGTERM)
    with pytest.raises(Interrupted):
        train_here("train.keep_checkpoints=2")
    assert checkpoints(training_folder / "made") == ["checkpoint-000004", "checkpoint-000005"]


def test_checkpoint_is_written_when_its_minutes_are_over(
    train_here: Callable[..., Path], training_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed() -> None:
        raise RuntimeError("killed")

    during(monkeypatch, 5, killed)
    for minutes, kept in ((1e-6, [["checkpoint-000004"], ["checkpoint-000005"]]), (60.0, [[]])):
        directory = f"every-{minutes}"
        with pytest.raises(RuntimeError, match="killed"):
            train_here("train.save_every=1000", f"train.save_every_minutes={minutes}", f"out={directory}")
        assert checkpoints(training_folder / directory) in kept


# --- sweeps ----------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_sweep_ranks_jobs_repeats_nothing_and_writes_no_secret(
    training_folder: Path, tiny_model: Path, program: Callable[..., tuple[int, str, str]]
) -> None:
    secret = "sk-never-written-anywhere"
    sweep = ["-m", *arguments(tiny_model, "track=wandb", "train.num_train_epochs=1")]
    sweep[sweep.index("train.learning_rate=1e-2")] = "train.learning_rate=1e-5,1e-2,1e-3"
    keys = {"OPENAI_API_KEY": secret, "HF_TOKEN": secret}
    finished = run_main(*sweep, cwd=training_folder, WANDB_MODE="offline", **keys)
    assert finished.returncode == 0, finished.stderr
    folder = training_folder / "outputs" / "sweeps" / "magicoder"
    jobs = [path for path in folder.iterdir() if path.is_dir()]
    losses = {}
    for job in jobs:
        manifest = json.loads((job / "manifest.json").read_text())
        losses[manifest["config"]["train"]["learning_rate"]] = manifest["counts"]["loss"]
        assert list((job / "wandb").glob("offline-run-*"))
    assert sorted(losses) == [1e-5, 1e-3, 1e-2]
    ranked = [
        line.split("|")[2].strip() for line in (folder / "sweep.md").read_text().splitlines() if "<code>train" in line
    ]
    assert ranked == [f"{loss:.4f}" for loss in sorted(losses.values())]
    assert (folder / "sweep.png").exists()
    assert secret not in finished.stdout + finished.stderr
    assert all(secret.encode() not in path.read_bytes() for path in training_folder.rglob("*") if path.is_file())
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}
    status, output, _ = program(*sweep)
    assert status == 0
    assert output.count("is complete") == 3
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_rows_of_two_files_of_one_name_are_told_apart(train_here: Callable[..., Path], training_folder: Path) -> None:
    row = {"instruction": "word " * 200, "response": "x"}
    for name in ("oss", "evol"):
        write_jsonl(training_folder / name / "rows.jsonl", [*ROWS[:3], row])
    out = train_here("train.datafile_paths=[oss/rows.jsonl,evol/rows.jsonl]", "train.max_training_seq_length=200")
    files = [row["evidence"]["file"] for row in read_jsonl(out / "rejected.jsonl")]
    assert len(set(files)) == 2
