"""`transformers serve` for real: it answers, ends with its block or its parent, and says why it does not start."""

import json
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from magicoder import config
from magicoder.runtime.errors import UserError
from magicoder.stages import generate
from magicoder.teacher.local_server import serve_model
from tests.support import PROJECT, environment, read_jsonl

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def chat_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a chat template, without which no chat can be had."""
    folder = tmp_path_factory.mktemp("chat_model") / "model"
    shutil.copytree(tiny_model, folder)
    (folder / "chat_template.jinja").write_text("{% for message in messages %}{{ message['content'] }}\n{% endfor %}")
    return folder


def is_up(url: str) -> bool:
    try:
        with urllib.request.urlopen(url.removesuffix("/v1") + "/health", timeout=10):
            return True
    except OSError:
        return False


# OWNER/NAME is what models of the hub are called, and so what people call theirs.
@pytest.mark.parametrize("name", ["tiny", "owner/tiny"])
def test_server_answers_to_the_name_and_ends_with_the_block(
    name: str, chat_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    body = {"model": name, "messages": [{"role": "user", "content": "def"}], "n": 1, "temperature": 0, "seed": 976}
    with serve_model(chat_model, name, tmp_path / "server.log") as url:
        request = urllib.request.Request(
            f"{url}/chat/completions",
            json.dumps({**body, "max_tokens": 4}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=300) as response:
            choice = json.load(response)["choices"][0]
        assert isinstance(choice["message"]["content"], str)
        assert choice["finish_reason"] in ("stop", "length")
    assert not is_up(url)
    assert (tmp_path / "server.log").stat().st_size > 0


def test_the_server_dies_with_a_parent_that_is_killed(chat_model: Path, tmp_path: Path) -> None:
    program = (
        "import pathlib, sys, time\n"
        "from magicoder.teacher.local_server import serve_model\n"
        "with serve_model(pathlib.Path(sys.argv[1]), 'tiny', pathlib.Path(sys.argv[2])) as url:\n"
        "    print(url, flush=True)\n"
        "    time.sleep(600)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(chat_model), str(tmp_path / "server.log")],
        cwd=PROJECT,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    with parent:
        try:
            url = parent.stdout.readline().strip()
            assert is_up(url)
        finally:
            parent.kill()
    deadline = time.monotonic() + 30
    while is_up(url):
        assert time.monotonic() < deadline, "the server outlives its parent"
        time.sleep(0.05)


def test_folder_without_a_model_is_one_line_that_names_the_log(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    log = tmp_path / "server.log"
    with pytest.raises(UserError) as raised, serve_model(tmp_path, "none", log):
        pass
    assert str(log) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert b"Error" in log.read_bytes()


def test_generate_serves_a_teacher_asks_it_and_stops_it(
    settings: Callable[..., config.GenerateConfig], chat_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    (tmp_path / "code").mkdir()
    for name in ("a", "b"):
        (tmp_path / "code" / f"{name}.py").write_text(f"{name} = 1\n")
    out = tmp_path / "made"
    chosen = settings(
        "stage=generate",
        "data/generate=local",
        f"data.generate.path={tmp_path}/code",
        "teacher=local",
        f"teacher.serve_model={chat_model}",
        "teacher.max_new_tokens=5",
        "prompt.user='{code}'",
        f"out={out}",
    )
    with pytest.raises(UserError, match="kept none of 2 rows"):
        generate.run(chosen)
    answers = [record["answer"]["choices"][0]["message"]["content"] for record in read_jsonl(out / "journal.jsonl")]
    assert len(answers) == 2
    # A model of random weights writes no headings: its answers are rejected, and are the evidence.
    assert sorted(row["evidence"] for row in read_jsonl(out / "rejected.jsonl")) == sorted(answers)
    assert "Finished server process" in (out / "server.log").read_text()
