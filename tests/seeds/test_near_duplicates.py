"""Documents that repeat an earlier one are named with the one that they repeat."""

import random
from pathlib import Path

from magicoder.seeds.corpora import find_standard_library
from magicoder.seeds.near_duplicates import THRESHOLD, NearDuplicates, compute_jaccard, hash_shingles
from magicoder.storage.rejected import Rejection


def verdicts(folder: Path, documents: dict[str, bytes], near: bool = True) -> dict[str, tuple]:
    repeats = NearDuplicates(near)
    found = {}
    for name, content in documents.items():
        (folder / name).write_bytes(content)
        if (verdict := repeats.verdict(name, folder / name, content.decode())) is not None:
            found[name] = verdict
    return found


def read(path: Path) -> str:
    return path.read_text(errors="replace")


def words(count: int, seed: int) -> list[str]:
    generator = random.Random(seed)
    return [f"word{generator.randrange(10_000)}" for _ in range(count)]


def test_shingles_are_runs_of_five_words_of_documents_with_ten() -> None:
    assert [len(hash_shingles(" ".join(words(count, seed=1)))) for count in (9, 10, 11)] == [0, 6, 7]


def test_repeated_document_names_the_first_in_order(tmp_path: Path) -> None:
    text = words(1000, seed=1)
    documents = {
        "a.py": " ".join(text).encode(),
        "b.py": " ".join(words(1000, seed=2)).encode(),
        "c.py": " ".join(text).encode(),
        "d.py": " ".join([*text[:500], "other", *text[501:]]).encode(),
        "e.py": " ".join([*text[:500], "other", *text[501:]]).encode() + b"\n",
    }
    found = verdicts(tmp_path, documents)
    assert list(found) == ["c.py", "d.py", "e.py"]
    assert found["c.py"] == Rejection("exact duplicate", {"repeats": "a.py"})
    assert found["d.py"] == Rejection("near duplicate", {"repeats": "a.py", "similarity": round(991 / 1001, 3)})
    assert verdicts(tmp_path, documents, near=False) == {"c.py": Rejection("exact duplicate", {"repeats": "a.py"})}


def test_documents_that_share_less_are_kept(tmp_path: Path) -> None:
    text = words(1000, seed=1)
    halves = [" ".join([*text[:500], *words(500, seed)]).encode() for seed in (2, 3)]
    assert verdicts(tmp_path, {"a.py": " ".join(text).encode(), "b.py": halves[0], "c.py": halves[1]}) == {}


def test_short_documents_are_compared_exactly(tmp_path: Path) -> None:
    documents = {"a.py": b"import this", "b.py": b"import this\n", "c.py": b"", "d.py": b"", "e.py": b"import this"}
    assert list(verdicts(tmp_path, documents)) == ["d.py", "e.py"]


def test_real_code_is_found_as_by_comparing_all_with_all() -> None:
    """The standard library's tables of character sets are much alike, some by little more than the threshold."""
    paths = sorted((find_standard_library() / "encodings").glob("*.py"))
    repeats = NearDuplicates(near=True)
    found = {path for path in paths if repeats.verdict(path.name, path, read(path)) is not None}
    expected, kept = set(), []
    for path in paths:
        shingles = hash_shingles(read(path))
        if shingles and any(compute_jaccard(shingles, other) >= THRESHOLD for other in kept):
            expected.add(path)
        else:
            kept += [shingles] if shingles else []
    assert found == expected
    assert len(expected) > 10
