"""What tests of generating share: a folder of code, a server, a run that nothing disturbed."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from magicoder import config
from magicoder.stages import generate
from tests.chat_server import ChatServer, chat_server
from tests.generation.runs import ODD_DOCUMENTS, ORDINARY, SECRET, Program
from tests.teacher.vocabulary import cache_vocabulary


@pytest.fixture(scope="session")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of source code, ordinary and odd."""
    folder = tmp_path_factory.mktemp("code")
    for number in range(ORDINARY):
        lines = "".join(f"    step_{line}({number})\n" for line in range(1, 3 + number))
        (folder / f"a{number:02}.py").write_text(f"def work_{number}():\n{lines}")
    for name, content in ODD_DOCUMENTS.items():
        (folder / name).write_bytes(content)
    (folder / "notes.txt").write_text("no source code\n")
    return folder


@pytest.fixture(scope="session")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cache_vocabulary(tmp_path_factory.mktemp("vocabulary"))


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with chat_server() as running:
        yield running


@pytest.fixture
def program(tmp_path: Path, code: Path, vocabulary: Path, server: ChatServer) -> Program:
    return Program(tmp_path, code, vocabulary, server)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, code: Path, vocabulary: Path) -> Program:
    """A run with one request at a time and no fault, to compare others with; its server is stopped."""
    with chat_server() as server:
        program = Program(tmp_path_factory.mktemp("undisturbed"), code, vocabulary, server)
        ended = program.run("teacher.concurrency=1")
        assert ended.status == 0, ended.stderr
    return program


@pytest.fixture
def here(
    tmp_path: Path,
    settings: Callable[..., config.GenerateConfig],
    server: ChatServer,
    vocabulary: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Path]:
    """here(documents, "KEY=VALUE"): run the stage in this process over a few documents; the directory that it made."""
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(vocabulary))

    def run(documents: list[str], *overrides: str) -> Path:
        folder = tmp_path / "documents"
        folder.mkdir(exist_ok=True)
        for number, document in enumerate(documents):
            (folder / f"{number:04}.py").write_text(document)
        stage = settings(
            "stage=generate",
            "data/generate=local",
            f"data.generate.path={folder}",
            f"out={tmp_path}/made",
            f"teacher.base_url={server.base_url}",
            *overrides,
        )
        generate.run(stage)
        return tmp_path / "made"

    return run
