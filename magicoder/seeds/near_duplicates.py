"""Documents that repeat an earlier one, exactly or nearly.

What is nearly the same is told as for StarCoder's data (https://huggingface.co/blog/dedup): sets of five consecutive
words whose Jaccard similarity is 0.7 or more. MinHash and locality-sensitive hashing only find the suspects here; the
sets themselves decide.
"""

import hashlib
import random
import re
import zlib
from pathlib import Path
from typing import Any

import numpy

from magicoder.seeds.file_filters import decoded

SHINGLE = 5
FEWEST_WORDS = 10
"""A shorter document is compared exactly alone: two short ones are soon alike."""

THRESHOLD = 0.7
BANDS, ROWS = 16, 5
"""Two documents that are 0.7 alike share one of 16 bands in 95 cases of 100; at 0.8 they do in 998 of 1000."""

PERMUTATIONS = BANDS * ROWS

AT_ONCE = 1024
"""Shingles permuted together, so that the table of them times the permutations stays small."""

WORD = re.compile(r"\w+")


class NearDuplicates:
    """A greedy pass: a document stays unless one that stayed is its equal. A dropped one is forgotten."""

    def __init__(self, near: bool) -> None:
        """near: whether what is nearly the same repeats it too."""
        self._near = near
        self._first_with: dict[bytes, str] = {}
        self._kept: list[tuple[str, str]] = []
        self._first_in_bucket: dict[int, int] = {}

    def verdict(self, name: str, path: Path, content: bytes) -> tuple[str, dict[str, Any]] | None:
        """None to keep the document, else the reason and the name of the kept one that it repeats."""
        digest = hashlib.sha256(content).digest()
        if (first := self._first_with.get(digest)) is not None:
            return "exact duplicate", {"repeats": first}
        if self._near and (found := self._near_duplicate(name, path, decoded(content))) is not None:
            return "near duplicate", found
        self._first_with[digest] = name
        return None

    def _near_duplicate(self, name: str, path: Path, text: str) -> dict[str, Any] | None:
        shingles = shingles_of(text)
        if not shingles:
            return None
        keys = bucket_keys(signature(shingles))
        suspects = {self._first_in_bucket[key] for key in keys if key in self._first_in_bucket}
        for suspect_name, suspect_path in (self._kept[place] for place in sorted(suspects)):
            similarity = jaccard(shingles, shingles_of(decoded(Path(suspect_path).read_bytes())))
            if similarity >= THRESHOLD:
                return {"repeats": suspect_name, "similarity": round(similarity, 3)}
        for key in keys:
            self._first_in_bucket.setdefault(key, len(self._kept))
        self._kept.append((name, str(path)))
        return None


def shingles_of(text: str) -> set[int]:
    """The checksums of all runs of five words; none for a short text."""
    words = WORD.findall(text)
    if len(words) < FEWEST_WORDS:
        return set()
    return {zlib.crc32(" ".join(words[start : start + SHINGLE]).encode()) for start in range(len(words) - SHINGLE + 1)}


def jaccard(one: set[int], other: set[int]) -> float:
    """The share of what both have in what either has."""
    return len(one & other) / len(one | other)


def _odd_numbers(count: int, seed: int) -> numpy.ndarray:
    """Multipliers of 64 bits, the same on every machine and with every version of numpy."""
    generator = random.Random(seed)
    return numpy.array([generator.getrandbits(64) | 1 for _ in range(count)], dtype=numpy.uint64)


MULTIPLIERS, SUMMANDS = _odd_numbers(PERMUTATIONS, seed=1), _odd_numbers(PERMUTATIONS, seed=2)
BAND_MULTIPLIERS = _odd_numbers(PERMUTATIONS, seed=3).reshape(BANDS, ROWS)


def signature(shingles: set[int]) -> numpy.ndarray:
    """MinHash: of each of several pseudo-random orders of all numbers, the first that is in the set."""
    numbers = numpy.fromiter(shingles, dtype=numpy.uint64, count=len(shingles))
    first = numpy.full(PERMUTATIONS, 2**32, dtype=numpy.uint64)
    for start in range(0, len(numbers), AT_ONCE):
        # Multiply-shift hashing: the upper half of a product that wraps around at 64 bits.
        hashed = (numbers[start : start + AT_ONCE, None] * MULTIPLIERS + SUMMANDS) >> numpy.uint64(32)
        numpy.minimum(first, hashed.min(axis=0), out=first)
    return first


def bucket_keys(minimums: numpy.ndarray) -> list[int]:
    """One number for each band of a signature; documents that share one are suspected to be alike."""
    bands = minimums.reshape(BANDS, ROWS)
    return (bands * BAND_MULTIPLIERS).sum(axis=1, dtype=numpy.uint64).tolist()
