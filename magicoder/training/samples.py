"""What a model answers before and after, for people to look at."""

from itertools import islice
from pathlib import Path
from typing import Any

import torch

from magicoder.files import read_rows, write_rows
from magicoder.text import encodable
from magicoder.training.rows import located

SAMPLES = "samples.jsonl"


def begin(path: Path, files: list[Path], number: int) -> None:
    """Write the first `number` instructions with the answers that are expected."""
    rows = islice((row for _, _, row in located(files)), number)
    write_rows(path, ({"instruction": row["instruction"], "expected": row["response"]} for row in rows))


def note(path: Path, model: Any, tokenizer: Any, template: str, *, when: str, most_tokens: int) -> list[dict[str, Any]]:
    """Let the model answer each instruction of the file and write the answers there as `when`; return the rows."""
    rows = list(read_rows(path))
    before_response = template.removesuffix("{response}")
    prompts = [before_response.replace("{instruction}", row["instruction"]) for row in rows]
    given = answers(model, tokenizer, prompts, most_tokens)
    noted = [{**row, when: answer} for row, answer in zip(rows, given, strict=True)]
    write_rows(path, noted)
    return noted


def answers(model: Any, tokenizer: Any, prompts: list[str], most_tokens: int) -> list[str]:
    """The likeliest answer to each prompt, one token after another, up to the end or to `most_tokens` tokens.

    A prompt is encoded as in training: bos where the tokenizer has one, then the text without special tokens. One that
    leaves no room in the model's positions is answered by nothing.
    """
    was_training = model.training
    model.eval()
    texts = [_answer(model, tokenizer, prompt, most_tokens) for prompt in prompts]
    model.train(was_training)
    return texts


def _answer(model: Any, tokenizer: Any, prompt: str, most_tokens: int) -> str:
    opening = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    tokens = opening + tokenizer(encodable(prompt), add_special_tokens=False)["input_ids"]
    positions = getattr(model.config, "max_position_embeddings", None) or len(tokens) + most_tokens
    room = min(most_tokens, positions - len(tokens))
    if room <= 0:
        return ""
    inputs = torch.tensor([tokens], device=model.device)
    with torch.no_grad():
        output = model.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            do_sample=False,
            max_new_tokens=room,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.eos_token_id,
        )
    return tokenizer.decode(output[0, len(tokens) :], skip_special_tokens=True)
