"""Helpers of tests: run the real program, read and write rows, make a tiny real model."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
GOLDEN = Path(__file__).resolve().parent / "golden"

PRIVATE = (
    *("OPENAI_API_KEY", "OPENAI_BASE_URL", "WANDB_API_KEY"),
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "NODE_RANK", "ROLE_RANK"),
    *("WORLD_SIZE", "LOCAL_WORLD_SIZE", "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
)
"""Keys of the person who runs the tests, and variables that a launcher sets for its processes."""


def is_private(name: str) -> bool:
    """Return whether a test must not see a variable of the environment."""
    return name in PRIVATE or name.startswith(("SLURM_", "TORCHELASTIC_"))


def environment(**variables: str) -> dict[str, str]:
    """Return this process's environment without private variables, plus `variables`."""
    kept = {name: value for name, value in os.environ.items() if not is_private(name)}
    # One thread a program: several share the cores, and of tiny models the second is of no use.
    return {**kept, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", **variables}


def command(*arguments: str) -> list[str]:
    """Return the command line of the real program."""
    return [sys.executable, str(PROJECT / "main.py"), *arguments]


def torchrun(processes: int, *arguments: str) -> list[str]:
    """Return the command line that starts the real program in several processes, on a port of their own."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes))
    return [sys.executable, *launcher, str(PROJECT / "main.py"), *arguments]


def run_main(*arguments: str, cwd: Path, timeout: float = 120, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the real program in the folder `cwd` to its end."""
    return run_command(command(*arguments), cwd=cwd, timeout=timeout, **variables)


def run_command(
    line: list[str], *, cwd: Path, timeout: float = 120, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a command line in the folder `cwd` to its end."""
    return subprocess.run(
        line, cwd=cwd, env=environment(**variables), capture_output=True, text=True, timeout=timeout, check=False
    )


def read_jsonl(path: Path) -> list[dict]:
    """All rows of a JSON Lines file."""
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    """Write rows as JSON Lines; return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def make_model(folder: Path, **changes: Any) -> Path:
    """Write the model and the tokenizer to `folder` and return it. changes: to the model's configuration."""
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = ByteLevelBPETokenizer()
    source = Path(os.__file__).with_name("textwrap.py").read_text()
    tokenizer.train_from_iterator(source.splitlines(), vocab_size=400, special_tokens=["<s>", "</s>"])
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer._tokenizer, bos_token="<s>", eos_token="</s>")
    wrapped.save_pretrained(folder)
    torch.manual_seed(0)
    shape = {
        "vocab_size": len(wrapped),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "bos_token_id": wrapped.bos_token_id,
        "eos_token_id": wrapped.eos_token_id,
        "tie_word_embeddings": True,
    }
    LlamaForCausalLM(LlamaConfig(**{**shape, **changes})).save_pretrained(folder)
    return folder
