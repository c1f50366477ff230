"""Mistakes of the train stage: one line, exit status 1, earlier results are kept."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from tests.stages.trainings import ROWS, arguments, checkpoints, curve, lines
from tests.support import make_model, write_jsonl

Program = Callable[..., tuple[int, str, str]]
Refusal = Callable[..., str]


@pytest.fixture
def refusal(program: Program, training_folder: Path, tiny_model: Path) -> Refusal:
    """refusal("KEY=VALUE"): the one line with which a training is refused before its first update."""

    def refused(*more: str) -> str:
        status, _, errors = program(*arguments(tiny_model, *more))
        assert status == 1
        (line,) = errors.splitlines()
        assert not any(map(lines, training_folder.rglob("metrics.jsonl")))
        assert not list(training_folder.rglob("manifest.json"))
        return line.removeprefix("error: ")

    return refused


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["train.optim=adamw"], "train.optim=adamw: choose one of adafactor"),
        (["model.init=outputs/nowhere"], "model.init=outputs/nowhere: no such folder"),
        (["model.key=nothing here"], "model.key=nothing here: no such folder"),
        (["model.key=package:no_such_package/x.gguf"], "pip install"),
        (["train.datafile_paths=[missing.jsonl]"], "missing.jsonl: no such file; run stage=preprocess first"),
        (["parallel.accelerator=gpu"], "parallel.accelerator=gpu: this machine has no GPU"),
        (
            ["train.max_training_seq_length=300", "train.tokens_per_device=299"],
            "train.tokens_per_device=299: must hold the longest sequence",
        ),
        (["train.global_batch_size=5"], "train.global_batch_size=5: must be a multiple of"),
        (["model.attention=sdpa"], "model.attention=sdpa: would let the sequences of a bin see each other"),
        (["parallel.devices=2", "-m"], "-m: each process that this program starts"),
        (["train.max_training_seq_length=5"], "max_training_seq_length=5: leaves no supervised token in any row"),
    ],
)
def test_a_mistake_in_the_command_is_one_line(refusal: Refusal, more: list[str], words: str) -> None:
    assert words in refusal(*more)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "rows.jsonl: is empty"),
        (json.dumps(ROWS[0]) + '\n{"instruction": "a",', "rows.jsonl, line 2: is not JSON"),
        (json.dumps(ROWS[0]) + '\n{"instruction": "a"}\n', "rows.jsonl, line 2: has no column response"),
        (json.dumps(ROWS[0]) + '\n{"response": "a"}\n', "rows.jsonl, line 2: has no column instruction"),
        ('{"instruction": "a", "response": null}\n', "rows.jsonl, line 1: column response is not text"),
    ],
)
def test_rows_that_are_none_are_one_line_with_their_place(
    refusal: Refusal, training_folder: Path, content: str, words: str
) -> None:
    (training_folder / "rows.jsonl").write_text(content)
    assert words in refusal()


def test_rows_longer_than_the_model_positions_are_one_line(refusal: Refusal, training_folder: Path) -> None:
    write_jsonl(training_folder / "rows.jsonl", [{"instruction": "a", "response": "x = 1\n" * 200}])
    line = refusal("train.max_training_seq_length=300")
    assert line == "train.max_training_seq_length=300: the model has only 256 positions"


def test_a_tokenizer_without_an_end_is_one_line(refusal: Refusal, tiny_model: Path, tmp_path: Path) -> None:
    endless = make_model(tmp_path / "endless")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(endless)
    assert refusal(f"model.key={endless}") == (
        f"model.key={endless}: the tokenizer has no end token, so no answer would ever end"
    )


def test_a_vocabulary_larger_than_the_embedding_is_one_line(refusal: Refusal, tmp_path: Path) -> None:
    small = make_model(tmp_path / "small", vocab_size=90)
    assert re.fullmatch(
        rf"model\.key={small}: the tokenizer has token \d+, the weights have 90 embeddings",
        refusal(f"model.key={small}"),
    )


def test_weights_of_another_architecture_are_one_line(refusal: Refusal, tmp_path: Path) -> None:
    other = make_model(tmp_path / "other", hidden_size=64, num_hidden_layers=1)
    line = refusal(f"model.init={other}")
    assert line.startswith(f"model.init={other}: is another model than model.key=")
    assert line.endswith("hidden_size 64 instead of 32, num_hidden_layers 1 instead of 2")


def test_a_key_that_weights_and_biases_refuses_is_one_line(refusal: Refusal, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("MODE", "online"), ("API_KEY", "too-short"), ("BASE_URL", "http://127.0.0.1:9")):
        monkeypatch.setenv(f"WANDB_{name}", value)
    line = refusal("track=wandb")
    assert re.fullmatch(r"track=wandb: .*; or use track=file", line)
    assert "too-short" not in line


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_non_finite_update_names_rows_and_keeps_the_checkpoint(
    program: Program, training_folder: Path, tmp_path: Path, layout: str
) -> None:
    sick = make_model(tmp_path / "sick", tie_word_embeddings=False)
    (token,) = AutoTokenizer.from_pretrained(sick)("~", add_special_tokens=False)["input_ids"]
    weights = load_file(sick / "model.safetensors")
    weights["model.embed_tokens.weight"][token] = float("nan")
    save_file(weights, sick / "model.safetensors", metadata={"format": "pt"})
    write_jsonl(training_folder / "first.jsonl", ROWS[:4])
    write_jsonl(training_folder / "rows.jsonl", [*ROWS[4:13], {"instruction": "Invert.", "response": "~x"}, *ROWS[13:]])
    files = "train.datafile_paths=[first.jsonl,rows.jsonl]"
    status, _, errors = program(*arguments(sick, files, f"train.layout={layout}", "out=made"))
    out = training_folder / "made"
    done = len(curve(out))
    assert 0 < done < 6
    assert status == 1
    (line,) = errors.splitlines()
    cause = f"error: update {done + 1}: the loss or the change of the weights is nan"
    told = rf"{cause}, in (.+); the last checkpoint, if any, is kept"
    rows = re.fullmatch(told, line)[1].split(", ")
    assert "rows.jsonl:10" in rows
    assert len(rows) <= 4  # those of its micro-batch or bin
    assert checkpoints(out) == [f"checkpoint-{done:06d}"]
