"""Samples: a model's likeliest answers to prompts as it was trained on them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from magicoder.training import samples
from magicoder.training.loss import LossModule
from magicoder.training.samples import add_answers, build_prompts, write_instructions
from tests.support import read_jsonl, write_jsonl

TEMPLATE = "Q: {instruction} A: {response}"
PROMPT = "Q: Wrap {text} at 70 A: "


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture
def model(tiny_model: Path) -> Any:
    """With dropout as long as it is in training, untied and with weights so large that each token bears on the next."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, attention_dropout=0.5, tie_word_embeddings=False)
    with torch.no_grad():
        for parameter in model.get_decoder().layers.parameters():
            parameter.mul_(5.0)
    return model


def answers(model: Any, tokenizer: Any, build_prompts: list[str], most_tokens: int) -> list[str]:
    return samples.generate_answers(
        LossModule(model).train(model.training), tokenizer, build_prompts, most_tokens, model.device
    )


def likeliest(model: Any, tokenizer: Any, prompt: str, number: int) -> list[int]:
    """The tokens that follow, each by a pass over the whole text before it, without a cache."""
    tokens = [tokenizer.bos_token_id, *tokenizer(prompt, add_special_tokens=False)["input_ids"]]
    given = len(tokens)
    model.eval()
    with torch.no_grad():
        for _ in range(number):
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[given:]


def test_an_answer_is_the_likeliest_token_after_each_other(model: Any, tokenizer: Any) -> None:
    expected = likeliest(model, tokenizer, PROMPT, 12)
    model.train()
    assert answers(model, tokenizer, [PROMPT, "a"], 12)[0] == tokenizer.decode(expected)
    assert model.training, "the training goes on as it was"


def test_an_answer_ends_where_the_model_ends_it(model: Any, tokenizer: Any) -> None:
    tokens = likeliest(model, tokenizer, PROMPT, 12)
    end = next(place for place, token in enumerate(tokens) if place > 3 and token not in tokens[:place])
    head, eos = model.get_output_embeddings().weight, tokenizer.eos_token_id
    with torch.no_grad():
        head[[eos, tokens[end]]] = head[[tokens[end], eos]]
    assert answers(model, tokenizer, [PROMPT], 12) == [tokenizer.decode(tokens[:end])]


def test_prompt_with_little_room_gets_a_shorter_or_empty_answer(model: Any, tokenizer: Any) -> None:
    positions = model.config.max_position_embeddings
    word = tokenizer(" a", add_special_tokens=False)["input_ids"]
    room = 5
    nearly, too_long = (" a" * ((positions - 1 - left) // len(word)) for left in (room, 0))
    assert len(tokenizer(nearly, add_special_tokens=False)["input_ids"]) == positions - 1 - room
    short, none = answers(model, tokenizer, [nearly, too_long], 50)
    assert short == tokenizer.decode(likeliest(model, tokenizer, nearly, room))
    assert none == ""


def test_half_a_character_in_a_prompt_is_a_question_mark(model: Any, tokenizer: Any) -> None:
    assert answers(model, tokenizer, ["a \ud83d"], 5) == answers(model, tokenizer, ["a ?"], 5)


def test_instructions_are_written_with_expected_and_both_answers(tmp_path: Path) -> None:
    rows = [{"instruction": f"task {number}", "response": f"answer {number}"} for number in range(4)]
    files = [write_jsonl(tmp_path / f"{place}.jsonl", part) for place, part in enumerate((rows[:1], rows[1:]))]
    path = tmp_path / "samples.jsonl"
    write_instructions(path, files, 3)
    expected = [{"instruction": f"task {number}", "expected": f"answer {number}"} for number in range(3)]
    assert read_jsonl(path) == expected

    assert build_prompts(path, TEMPLATE) == [f"Q: task {number} A: " for number in range(3)]
    add_answers(path, ["a", "b", "c"], "before")
    noted = add_answers(path, ["d", "e", "f"], "after")
    assert noted == read_jsonl(path)
    assert noted == [
        {**row, "before": one, "after": other} for row, one, other in zip(expected, "abc", "def", strict=True)
    ]


def test_fewer_rows_than_samples_are_all_samples(tmp_path: Path) -> None:
    files = [write_jsonl(tmp_path / "rows.jsonl", [{"instruction": "task", "response": "answer"}])]
    write_instructions(tmp_path / "samples.jsonl", files, 3)
    assert len(read_jsonl(tmp_path / "samples.jsonl")) == 1
