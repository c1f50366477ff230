"""Counting a prompt's tokens with OpenAI's own vocabulary and with a model's folder."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiktoken

from magicoder.runtime.errors import UserError
from magicoder.teacher.tokens import load_token_counter
from tests.support import PROJECT
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


def test_a_model_unknown_to_tiktoken_gets_a_default_count_and_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    count = load_token_counter("tiktoken", "Qwen/Qwen3")
    assert (count("x" * 30), count("")) == (10, 0)
    (line,) = capsys.readouterr().err.splitlines()
    assert "Qwen/Qwen3" in line
    assert "teacher.tokenizer" in line


@pytest.mark.parametrize("tokenizer", ["cl100k_base", "gpt-4", "gpt-3.5-turbo"])
def test_tiktokens_own_names_choose_its_vocabulary(offline_tiktoken: None, tokenizer: str) -> None:
    assert load_token_counter(tokenizer, "a model of nobody")("tiktoken is great!") == 6


def test_characters_are_counted_when_asked_for() -> None:
    assert load_token_counter("chars/4", MODEL)("x" * 9) == 3
    assert load_token_counter("chars/2.5", MODEL)("x" * 5) == 2


def test_a_tokenizer_alone_counts_without_loading_transformers(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_model / "tokenizer.json", tmp_path)
    script = """
import sys
from magicoder.teacher.tokens import load_token_counter
print(*(load_token_counter(place, "any")("def f(): return 1") for place in sys.argv[1:]))
print({"torch", "transformers"} & set(sys.modules))
"""
    command = [sys.executable, "-c", script, str(tmp_path), str(tmp_path / "tokenizer.json")]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, cwd=PROJECT)
    counts, heavy = ended.stdout.splitlines()
    expected = load_token_counter(str(tiny_model), "any")("def f(): return 1")
    assert counts == f"{expected} {expected}"
    assert heavy == "set()"


def test_a_broken_tokenizer_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=f"^teacher.tokenizer={tmp_path}: "):
        load_token_counter(str(tmp_path), "any")


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


def test_a_tokenizer_of_the_hub_counts_from_its_cache(tiny_model: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "hub" / "models--owner--name" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    shutil.copy(tiny_model / "tokenizer.json", snapshot)
    refs = tmp_path / "hub" / "models--owner--name" / "refs"
    refs.mkdir()
    (refs / "main").write_text("0" * 40)
    script = """
import sys
from magicoder.teacher.tokens import load_token_counter
print(load_token_counter("owner/name", "any")("def f(): return 1"), "transformers" in sys.modules)
"""
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=PROJECT, env=environment
    )
    assert ended.stdout.split() == [str(load_token_counter(str(tiny_model), "any")("def f(): return 1")), "False"]
