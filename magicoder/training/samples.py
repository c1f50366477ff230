"""What a model answers before and after, for people to look at."""

from itertools import islice
from pathlib import Path
from typing import Any

import torch

from magicoder.runtime.text import encodable
from magicoder.storage.files import read_rows, write_rows
from magicoder.training.loss import LossModule
from magicoder.training.rows import located

SAMPLES = "samples.jsonl"


def begin(path: Path, files: list[Path], number: int) -> None:
    """Write the first `number` instructions with the answers that are expected."""
    rows = islice((row for _, _, row in located(files)), number)
    write_rows(path, ({"instruction": row["instruction"], "expected": row["response"]} for row in rows))


def note(path: Path, answers: list[str], when: str) -> list[dict[str, Any]]:
    """Write the answers into the file as `when`; return its rows."""
    rows = [{**row, when: answer} for row, answer in zip(read_rows(path), answers, strict=True)]
    write_rows(path, rows)
    return rows


def prompts(path: Path, template: str) -> list[str]:
    """What the model is given for each instruction of the file."""
    before_response = template.removesuffix("{response}")
    return [before_response.replace("{instruction}", row["instruction"]) for row in read_rows(path)]


def answers(
    loss_module: LossModule, tokenizer: Any, prompts: list[str], most_tokens: int, device: torch.device
) -> list[str]:
    """The likeliest answer to each prompt, one token after another, up to the end or to `most_tokens` tokens.

    A prompt is encoded as in training: bos where the tokenizer has one, then the text without special tokens. One that
    leaves no room in the model's positions is answered by nothing. Of a model that is spread over devices every process
    must ask for the same.
    """
    was_training = loss_module.training
    loss_module.eval()
    texts = [_answer(loss_module, tokenizer, prompt, most_tokens, device) for prompt in prompts]
    loss_module.train(was_training)
    return texts


def _answer(loss_module: LossModule, tokenizer: Any, prompt: str, most_tokens: int, device: torch.device) -> str:
    opening = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    tokens = opening + tokenizer(encodable(prompt), add_special_tokens=False)["input_ids"]
    positions = getattr(loss_module.model.config, "max_position_embeddings", None) or len(tokens) + most_tokens
    room = min(most_tokens, positions - len(tokens))
    if room <= 0:
        return ""
    inputs = torch.tensor([tokens], device=device)
    with torch.no_grad():
        output = loss_module.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            do_sample=False,
            max_new_tokens=room,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.eos_token_id,
        )
    return tokenizer.decode(output[0, len(tokens) :], skip_special_tokens=True)
