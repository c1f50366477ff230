"""Count the tokens of a prompt with the teacher's own tokenizer."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from magicoder.models import find_source, load_tokenizer
from magicoder.runtime.console import say
from magicoder.runtime.errors import UserError
from magicoder.runtime.text import make_encodable
from magicoder.storage.hub import find_file

if TYPE_CHECKING:
    import tiktoken

TokenCounter = Callable[[str], int]
TOKENIZER_FILE = "tokenizer.json"
CHARACTERS_OF_A_TOKEN = 3
"""For a model without a known vocabulary. Code has 3 to 4 characters a token, so this counts rather too many."""


def load_token_counter(tokenizer: str, model: str) -> TokenCounter:
    """Return a function that counts the tokens of a text.

    tokenizer: `tiktoken` for OpenAI's encoding of `model`; the name of a model or an encoding of tiktoken; `chars/N`
    for a token every N characters; a folder, a `tokenizer.json` or a GGUF file; else a hub id. Errors: UserError if the
    tokenizer cannot be loaded.

    Example:
        count_tokens = load_token_counter("o200k_base", model="my-gateway/gpt-5-mini")
    """
    if (found := re.fullmatch(r"chars/(\d+(?:\.\d+)?)", tokenizer)) is not None and float(found[1]) > 0:
        return count_characters(float(found[1]))
    is_name = tokenizer == "tiktoken" or not Path(tokenizer).exists()
    if is_name and (counter := _load_tiktoken(tokenizer, model)) is not None:
        return counter
    try:
        return _load_file(tokenizer) or _load_with_transformers(tokenizer)
    except UserError as error:
        advice = "teacher.tokenizer=chars/3 counts without one"
        raise UserError([f"teacher.tokenizer={problem}; {advice}" for problem in error.problems]) from error


def count_characters(characters: float) -> TokenCounter:
    """Return a counter of one token every so many characters."""
    return lambda text: math.ceil(len(text) / characters)


def _load_tiktoken(tokenizer: str, model: str) -> TokenCounter | None:
    """Return the counter of a vocabulary of tiktoken, or of characters for an unknown model; None for other names."""
    import tiktoken

    name = model if tokenizer == "tiktoken" else tokenizer
    try:
        is_encoding = name in tiktoken.list_encoding_names()
        encoding = tiktoken.get_encoding(name) if is_encoding else tiktoken.encoding_for_model(name)
    except KeyError:
        if tokenizer != "tiktoken":
            return None
        say(
            f"teacher.tokenizer=tiktoken: does not know {model}; a token is counted every {CHARACTERS_OF_A_TOKEN} "
            "characters (teacher.tokenizer names another tokenizer)",
            error=True,
        )
        return count_characters(CHARACTERS_OF_A_TOKEN)
    except OSError as error:  # includes those of the download
        raise UserError(
            f"teacher.tokenizer={tokenizer}: its vocabulary cannot be fetched; TIKTOKEN_CACHE_DIR may name a folder "
            "with it, or teacher.tokenizer another tokenizer, or chars/4"
        ) from error
    return _count_with(encoding)


def _count_with(encoding: "tiktoken.Encoding") -> TokenCounter:
    return lambda text: len(encoding.encode_ordinary(make_encodable(text)))


def _load_file(tokenizer: str) -> TokenCounter | None:
    """Return the counter of a `tokenizer.json`, of a folder or the hub; None where there is none.

    transformers would take forty times as long and seven times the memory. Errors: UserError for an invalid file.
    """
    from tokenizers import Tokenizer

    path: Path | None = Path(tokenizer)
    if Path(tokenizer).is_dir():
        path = Path(tokenizer, TOKENIZER_FILE)
    elif not Path(tokenizer).exists() and find_source(tokenizer).gguf is None:
        path = find_file(tokenizer, TOKENIZER_FILE)
    if path is None or path.suffix != ".json" or not path.is_file():
        return None
    try:
        loaded = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises no narrower class
        raise UserError(f"{tokenizer}: its tokenizer cannot be loaded: {error}") from error
    loaded.no_truncation()
    loaded.no_padding()
    return lambda text: len(loaded.encode(make_encodable(text), add_special_tokens=False).ids)


def _load_with_transformers(tokenizer: str) -> TokenCounter:
    loaded = load_tokenizer(tokenizer)
    return lambda text: len(loaded(make_encodable(text), add_special_tokens=False)["input_ids"])
