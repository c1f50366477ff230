"""Counting a prompt's tokens with OpenAI's own vocabulary and with a model's folder."""

from pathlib import Path

import pytest
import tiktoken

from magicoder.runtime.errors import UserError
from magicoder.teacher.tokens import load_token_counter
from tests.teacher.vocabulary import cache_vocabulary

MODEL = "gpt-3.5-turbo-1106"


@pytest.fixture
def offline_tiktoken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(cache_vocabulary(tmp_path)))


def test_own_encoding_counts_and_special_markers_are_plain_text(offline_tiktoken: None) -> None:
    count = load_token_counter("tiktoken", MODEL)
    # The example of OpenAI's own guide: t, ik, token, " is", " great", "!".
    assert count("tiktoken is great!") == 6
    assert count("<|endoftext|>") > 1
    assert count("") == 0
    assert count("\ud800 \x00 \U0001f600") > 3


def test_a_model_unknown_to_tiktoken_is_named() -> None:
    with pytest.raises(UserError, match=r"teacher\.model=Qwen/Qwen3.*teacher\.tokenizer"):
        load_token_counter("tiktoken", "Qwen/Qwen3")


def test_missing_vocabulary_says_where_to_put_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing leaves this machine, nothing listens there
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="TIKTOKEN_CACHE_DIR"):
        load_token_counter("tiktoken", MODEL)


def test_a_folders_tokenizer_counts_without_special_tokens(tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    text = "def wrap(self, text):\n    return '<s>'\n"
    plain = AutoTokenizer.from_pretrained(tiny_model).encode(text, add_special_tokens=False)
    assert load_token_counter(str(tiny_model), "any")(text) == len(plain) > 10


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UserError, match=f"^teacher.tokenizer={tmp_path}: ") as raised:
        load_token_counter(str(tmp_path), "any")
    assert "\n" not in str(raised.value)


def test_half_a_character_is_counted_by_a_folders_tokenizer_too(tiny_model: Path) -> None:
    # JSON carries a lone surrogate; a tokenizer raises TypeError for one.
    assert load_token_counter(str(tiny_model), "any")("a \ud83d b") == load_token_counter(str(tiny_model), "any")(
        "a ? b"
    )
