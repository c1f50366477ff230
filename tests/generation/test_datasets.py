"""Seed code from datasets."""

import gzip
import json
from pathlib import Path

import pytest

from magicoder.runtime.errors import UserError
from magicoder.seeds.corpora import stream_documents
from magicoder.seeds.snippets import SkippedDocument, Snippet, draw_snippets
from magicoder.storage.rejected import Rejection
from tests.generation.runs import Program
from tests.support import GOLDEN, read_jsonl, write_jsonl


def golden_documents() -> list[dict]:
    with gzip.open(GOLDEN / "seeds" / "documents.jsonl.gz") as file:
        return [json.loads(line) for line in file.read().split(b"\n") if line]


def snippets_of(directory: Path) -> list[dict]:
    return [row for row in read_jsonl(directory / "snippets.jsonl") if "index" in row]


def test_json_lines_folder_gives_the_snippets_of_the_original(program: Program) -> None:
    documents = golden_documents()
    folder = program.place / "dataset"
    write_jsonl(folder / "train-1.jsonl", documents[:100])
    write_jsonl(folder / "train-2.jsonl", documents[100:])
    ended = program.run(
        "data/generate=dataset",
        f"data.generate.dataset_name={folder}",
        "data.generate.chunk_size=64",
        "data.generate.seed_code_start_index=20",
        "data.generate.max_new_data=100",
    )
    assert ended.status == 0, ended.stderr
    assert snippets_of(program.out) == read_jsonl(GOLDEN / "seeds" / "expected_chunk64_start20_n100.jsonl")
    assert len(program.server.requests) == 100


def test_starcoder_layout_gives_the_snippets_of_the_original(
    program: Program,
) -> None:
    from datasets import Dataset

    documents = golden_documents()
    rows = [{"max_stars_repo_path": "a.py", "id": str(number), **row} for number, row in enumerate(documents)]
    folder = program.place / "starcoderdata"
    for name, part in {
        "python/train-00000-of-00002": rows[:150],
        "python/train-00001-of-00002": rows[150:],
        "java/train-00000-of-00001": [{**row, "content": "class Other {}"} for row in rows],
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Dataset.from_list(part).to_parquet(folder / f"{name}.parquet")
    ended = program.run(
        "data/generate=starcoderdata", f"data.generate.dataset_name={folder}", "data.generate.max_new_data=8"
    )
    assert ended.status == 0, ended.stderr
    assert snippets_of(program.out) == read_jsonl(GOLDEN / "seeds" / "expected.jsonl")[:8]


def test_a_dataset_that_cannot_be_had_ends_in_one_line(program: Program) -> None:
    ended = program.run("data/generate=dataset", "data.generate.dataset_name=owner/no-such-dataset")
    assert ended.status == 1
    assert ended.only_line.startswith("error: data.generate.dataset_name=owner/no-such-dataset")
    assert program.server.requests == []


@pytest.mark.parametrize(
    "lines",
    [
        b'{"text": "no such column"}\n',
        b'{"content": 5}\n',
        b'{"content": ["a", "b"]}\n',
        b'{"content": "cut o',
        b'{"content": "\\ud800 is half a character"}\n',
        b"\xff\xfe\n",
    ],
    ids=lambda lines: lines.decode(errors="replace").strip(),
)
def test_a_dataset_of_another_form_is_a_mistake_that_names_it(tmp_path: Path, lines: bytes) -> None:
    (tmp_path / "data.jsonl").write_bytes(lines)
    with pytest.raises(UserError, match=r"data\.generate\.dataset_name=") as raised:
        list(stream_documents(str(tmp_path), None, 10))
    assert "\n" not in str(raised.value)


def test_a_document_that_is_null_is_one_without_lines(tmp_path: Path) -> None:
    # One such row among the 150,000 of a corpus must not keep anybody from using it.
    write_jsonl(tmp_path / "data.jsonl", [{"content": "a\n"}, {"content": None}, {"content": "b\n"}])
    drawn = list(
        draw_snippets(stream_documents(str(tmp_path), None, 10), chunk_size=10, seed=1, min_lines=1, max_lines=1)
    )
    assert drawn == [Snippet(0, "a\n"), SkippedDocument(1, Rejection("empty document")), Snippet(2, "b\n")]


def test_missing_or_empty_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name, part in ((tmp_path / "missing", None), (tmp_path / "empty", None), (tmp_path, "python")):
        with pytest.raises(UserError, match=r"data\.generate\.dataset_name=") as raised:
            list(stream_documents(str(name), part, 10))
        assert "\n" not in str(raised.value)
