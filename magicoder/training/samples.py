"""Let the model answer some instructions before and after the training, for people to look at."""

from itertools import islice
from pathlib import Path
from typing import Any

import torch

from magicoder.runtime.text import make_encodable
from magicoder.storage.files import Source, read_rows, write_rows
from magicoder.training.loss import LossModule
from magicoder.training.rows import read_pairs

SAMPLES = "samples.jsonl"


def write_instructions(path: Path, files: list[Source], number: int) -> None:
    """Write the first `number` instructions with their expected answers."""
    rows = islice((row for _, _, row in read_pairs(files)), number)
    write_rows(path, ({"instruction": row["instruction"], "expected": row["response"]} for row in rows))


def add_answers(path: Path, answers: list[str], when: str) -> list[dict[str, Any]]:
    """Add the answers to the file as column `when`; return its rows."""
    rows = [{**row, when: answer} for row, answer in zip(read_rows(path), answers, strict=True)]
    write_rows(path, rows)
    return rows


def build_prompts(path: Path, template: str) -> list[str]:
    """Return the prompt of each instruction in the file."""
    before_response = template.removesuffix("{response}")
    return [before_response.replace("{instruction}", row["instruction"]) for row in read_rows(path)]


def generate_answers(
    loss_module: LossModule, tokenizer: Any, prompts: list[str], max_tokens: int, device: torch.device
) -> list[str]:
    """Generate the greedy answer to each prompt, up to the end token or to `max_tokens` tokens.

    A prompt is tokenized as in training: bos if the tokenizer has one, then the text without special tokens. A prompt
    that leaves no room in the model's positions gets an empty answer. With a sharded model every process must call
    this.
    """
    was_training = loss_module.training
    loss_module.eval()
    texts = [_generate(loss_module, tokenizer, prompt, max_tokens, device) for prompt in prompts]
    loss_module.train(was_training)
    return texts


def _generate(loss_module: LossModule, tokenizer: Any, prompt: str, max_tokens: int, device: torch.device) -> str:
    prefix = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    tokens = prefix + tokenizer(make_encodable(prompt), add_special_tokens=False)["input_ids"]
    positions = getattr(loss_module.model.config, "max_position_embeddings", None) or len(tokens) + max_tokens
    room = min(max_tokens, positions - len(tokens))
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
