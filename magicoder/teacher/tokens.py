"""Count the tokens of a prompt with the teacher's own tokenizer."""

from collections.abc import Callable

from magicoder.runtime.errors import UserError
from magicoder.runtime.text import make_encodable


def load_token_counter(tokenizer: str, model: str) -> Callable[[str], int]:
    """Return a function that counts the tokens of a text.

    tokenizer: `tiktoken` for OpenAI's encoding of `model`, else a hub id, a folder or a GGUF file.
    Errors: UserError if the tokenizer cannot be loaded.
    """
    if tokenizer != "tiktoken":
        from magicoder.models import load_tokenizer

        try:
            loaded = load_tokenizer(tokenizer)
        except UserError as error:
            raise UserError([f"teacher.tokenizer={problem}" for problem in error.problems]) from error
        return lambda text: len(loaded(make_encodable(text), add_special_tokens=False)["input_ids"])
    import tiktoken

    try:
        encoding = tiktoken.encoding_for_model(model)
    except KeyError as error:
        raise UserError(f"teacher.model={model}: tiktoken does not know this model; set teacher.tokenizer") from error
    except OSError as error:  # includes those of the download
        raise UserError(
            "teacher.tokenizer=tiktoken: its vocabulary cannot be fetched; TIKTOKEN_CACHE_DIR may name a folder "
            "with it, or teacher.tokenizer another tokenizer"
        ) from error
    return lambda text: len(encoding.encode_ordinary(make_encodable(text)))
