"""What a user gets wrong when rows are generated."""

import hashlib
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from magicoder import config
from magicoder.storage.artifact import Artifact
from magicoder.teacher import local_server
from magicoder.teacher.session import TeacherSession
from tests.generation.runs import COUNT, Program
from tests.support import read_jsonl


def test_all_config_mistakes_are_named_before_asking(program: Program) -> None:
    ended = program.run(
        "data.generate.path=nowhere",
        "data.generate.tag=a-b",
        "data.generate.min_lines=16",
        "data.generate.continue_from=nothing.jsonl",
        "prompt.user='no place for a snippet'",
        "teacher.concurrency=0",
        "teacher.timeout=nan",
        OPENAI_API_KEY="",
    )
    assert ended.status == 1
    lines = ended.stderr.splitlines()
    keys = (
        "data.generate.path=nowhere",
        "data.generate.tag=a-b",
        "data.generate.max_lines=15",
        "data.generate.continue_from=nothing.jsonl",
        "prompt.user",
        "teacher.concurrency=0",
        "teacher.timeout=nan",
        "OPENAI_API_KEY",
    )
    assert [[line for line in lines if key in line] != [] for key in keys] == [True] * len(keys)
    assert len(lines) == len(keys)
    assert program.server.requests == []
    assert not program.out.exists()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ([f"data.generate.seed_code_start_index={COUNT}"], f"has only {COUNT} snippets"),
        (["data.generate.data_dir=rust"], "has no rust files"),
    ],
)
def test_late_mistake_is_one_line_and_costs_nothing(program: Program, overrides: list[str], words: str) -> None:
    ended = program.run(*overrides)
    assert ended.status == 1
    assert ended.only_line.startswith("error: ")
    assert words in ended.only_line
    assert program.server.requests == []


def test_missing_tokenizer_is_reported_before_the_corpus(program: Program) -> None:
    # A corpus of the hub takes minutes to read.
    (program.place / "model").mkdir()
    ended = program.run("teacher.tokenizer=./model", "data.generate.data_dir=rust")
    assert ended.status == 1
    assert ended.only_line.startswith("error: teacher.tokenizer=./model: ")
    assert not (program.out / "snippets.jsonl").exists()


def test_served_model_becomes_a_folder_by_name_and_digest(
    settings: Callable[..., config.GenerateConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The digest keeps two files of one name apart; the root is where everything that is made belongs.
    file = tmp_path / "tiny.gguf"
    file.write_bytes(b"weights")
    stage = settings("stage=generate", "teacher=local", f"teacher.serve_model={file}", f"out={tmp_path}/made")
    folder = Path(stage.root) / "models" / f"tiny-{hashlib.sha256(b'weights').hexdigest()[:8]}"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    served_from = []
    monkeypatch.setattr(local_server, "serve_model", lambda place, *_: served_from.append(place) or nullcontext("url"))
    with Artifact(stage, {}, [file]) as artifact, TeacherSession(stage, artifact.directory) as session:
        assert session._find_own_server() == "url"
    assert served_from == [folder]


def test_the_last_snippets_of_a_corpus_are_fewer_than_asked_for(program: Program, undisturbed: Program) -> None:
    assert program.run(f"data.generate.seed_code_start_index={COUNT - 3}", "data.generate.max_new_data=50").status == 0
    late = [row for row in read_jsonl(undisturbed.out / "rows.jsonl") if row["index"] >= COUNT - 3]
    assert read_jsonl(program.out / "rows.jsonl") == late


def test_a_prompt_that_is_not_utf_8_is_a_mistake_of_the_user(program: Program) -> None:
    # \udce9 stands for the lone byte that a terminal set to Latin-1 sends for é.
    ended = program.run("prompt.system='caf\udce9'")
    assert ended.status == 1
    assert "prompt.system" in ended.only_line
