"""Reject documents that repeat an earlier one, exactly or nearly.

Near duplicates are defined as for StarCoder's data (https://huggingface.co/blog/dedup): sets of five consecutive words
with a Jaccard similarity of at least 0.7. MinHash and locality-sensitive hashing only find candidates; the sets decide.
"""

import hashlib
import random
import re
import zlib
from pathlib import Path
from typing import Any

import numpy

from magicoder.seeds.decoding import decode_document
from magicoder.storage.rejected import Rejection

SHINGLE = 5
MIN_WORDS = 10
"""Shorter documents are only compared exactly: two short ones are similar by chance."""

THRESHOLD = 0.7
BANDS, ROWS = 16, 5
"""Documents of similarity 0.7 share one of 16 bands in 95 of 100 cases, of similarity 0.8 in 998 of 1000."""

PERMUTATIONS = BANDS * ROWS

CHUNK = 1024
"""Shingles hashed together: bounds the table of shingles x permutations."""

WORD = re.compile(r"\w+")


class NearDuplicates:
    """A greedy pass: a document is kept unless it repeats a kept one. Rejected documents are forgotten.

    Example:
        duplicates = NearDuplicates(near=True)
        rejection = duplicates.verdict("a.py", Path("a.py"), Path("a.py").read_bytes())
    """

    def __init__(self, near: bool) -> None:
        """near: reject near duplicates as well as exact ones."""
        self._near = near
        self._first_with: dict[bytes, str] = {}
        self._kept: list[tuple[str, str]] = []
        self._first_in_bucket: dict[int, int] = {}

    def verdict(self, name: str, path: Path, text: str) -> Rejection | None:
        """Return None to keep the document, else the rejection. Evidence: the name of the kept document.

        path: read again later, when another document resembles this one, instead of keeping its text in memory.
        """
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        if (first := self._first_with.get(digest)) is not None:
            return Rejection("exact duplicate", {"repeats": first})
        if self._near and (found := self._find_similar(name, path, text)) is not None:
            return Rejection("near duplicate", found)
        self._first_with[digest] = name
        return None

    def _find_similar(self, name: str, path: Path, text: str) -> dict[str, Any] | None:
        shingles = hash_shingles(text)
        if not shingles:
            return None
        keys = compute_bands(compute_signature(shingles))
        candidates = {self._first_in_bucket[key] for key in keys if key in self._first_in_bucket}
        for kept_name, kept_path in (self._kept[position] for position in sorted(candidates)):
            similarity = compute_jaccard(shingles, hash_shingles(_read_again(Path(kept_path))))
            if similarity >= THRESHOLD:
                return {"repeats": kept_name, "similarity": round(similarity, 3)}
        for key in keys:
            self._first_in_bucket.setdefault(key, len(self._kept))
        self._kept.append((name, str(path)))
        return None


def _read_again(path: Path) -> str:
    """Return the text of a kept document; empty if the file has changed into something else."""
    text = decode_document(path, path.read_bytes())
    return text if isinstance(text, str) else ""


def hash_shingles(text: str) -> set[int]:
    """Return the CRC-32 of each run of five words; none for a short text."""
    words = WORD.findall(text)
    if len(words) < MIN_WORDS:
        return set()
    return {zlib.crc32(" ".join(words[start : start + SHINGLE]).encode()) for start in range(len(words) - SHINGLE + 1)}


def compute_jaccard(one: set[int], other: set[int]) -> float:
    """Return the size of the intersection over that of the union."""
    return len(one & other) / len(one | other)


def _draw_odd_numbers(count: int, seed: int) -> numpy.ndarray:
    """Return odd 64-bit numbers, the same on every machine and with every version of numpy. Shape: (count,)."""
    generator = random.Random(seed)
    return numpy.array([generator.getrandbits(64) | 1 for _ in range(count)], dtype=numpy.uint64)


MULTIPLIERS, SUMMANDS = _draw_odd_numbers(PERMUTATIONS, seed=1), _draw_odd_numbers(PERMUTATIONS, seed=2)
BAND_MULTIPLIERS = _draw_odd_numbers(PERMUTATIONS, seed=3).reshape(BANDS, ROWS)


def compute_signature(shingles: set[int]) -> numpy.ndarray:
    """Return the MinHash signature of a set: its minimum under each of several hash functions. Shape:
    (PERMUTATIONS,)."""
    numbers = numpy.fromiter(shingles, dtype=numpy.uint64, count=len(shingles))
    first = numpy.full(PERMUTATIONS, 2**32, dtype=numpy.uint64)
    for start in range(0, len(numbers), CHUNK):
        # Multiply-shift hashing: the upper half of a 64-bit product that wraps around.
        hashed = (numbers[start : start + CHUNK, None] * MULTIPLIERS + SUMMANDS) >> numpy.uint64(32)
        numpy.minimum(first, hashed.min(axis=0), out=first)
    return first


def compute_bands(minimums: numpy.ndarray) -> list[int]:
    """Return one number for each band of a signature; documents that share a number are candidates."""
    bands = minimums.reshape(BANDS, ROWS)
    return (bands * BAND_MULTIPLIERS).sum(axis=1, dtype=numpy.uint64).tolist()
