"""What reaches the teacher of one's own code, files and data sets, and what a run still needs once it has drawn."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from magicoder import config
from magicoder.config import bounds
from magicoder.config.identity import select_identity, translate_identity
from magicoder.runtime.errors import UserError
from magicoder.stages import generate
from tests.chat_server import ChatServer
from tests.generation.runs import SECRET
from tests.seeds.test_git import git
from tests.support import read_jsonl, write_jsonl

Generate = Callable[..., Path]
Settings = Callable[..., config.GenerateConfig]


@pytest.fixture
def made(
    tmp_path: Path, settings: Settings, server: ChatServer, vocabulary: Path, monkeypatch: pytest.MonkeyPatch
) -> Generate:
    """made("KEY=VALUE"): validate and run the stage in this process; the directory that it made."""
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(vocabulary))

    def run(*overrides: str) -> Path:
        stage = settings(
            "stage=generate",
            f"out={tmp_path}/made",
            f"teacher.base_url={server.base_url}",
            "teacher.timeout=60",
            *overrides,
        )
        if problems := [*bounds.validate(stage), *generate.validate(stage)]:
            raise UserError(problems)
        generate.run(stage)
        return tmp_path / "made"

    return run


def sent(server: ChatServer) -> str:
    """Everything that the teacher was asked."""
    return "\n".join(request.body["messages"][-1]["content"] for request in server.requests)


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def test_secret_of_own_code_is_not_sent_unless_asked(made: Generate, server: ChatServer, tmp_path: Path) -> None:
    secret = "ghp_" + "aB3dE5fG7hJ9kL2mN4pQ6rS8tU0vW1xYzZ12"
    folder = write(tmp_path / "code", a__py=f"TOKEN = '{secret}'\n", b__py="import os\n")
    own = ("data/generate=local", f"data.generate.path={folder}")
    out = made(*own)
    assert secret not in sent(server)
    (left_out,) = read_jsonl(out / "rejected.jsonl")
    assert left_out["reason"] == "holds a secret"
    assert left_out["evidence"] == {"path": "a.py", "kind": "GitHub Token", "line": 1}
    assert not any(secret in path.read_text() for path in out.iterdir() if path.is_file())
    with pytest.raises(UserError, match="secrets was None, is 'keep'"):
        made(*own, "data.generate.secrets=keep")
    made(*own, "data.generate.secrets=keep", "overwrite=true")
    assert secret in sent(server)


def test_rows_of_several_languages_have_their_own(made: Generate, server: ChatServer, tmp_path: Path) -> None:
    folder = write(tmp_path / "code", a__py="import os\n", b__rs="fn b() {}\n", c__java="class C {}\n")
    own = ("data/generate=local", f"data.generate.path={folder}")
    rows = read_jsonl(made(*own, "data.generate.data_dir=[python,rust]") / "rows.jsonl")
    assert {row["provenance"]["path"]: row["lang"] for row in rows} == {"a.py": "python", "b.rs": "rust"}
    (single,) = read_jsonl(made(*own, "overwrite=true") / "rows.jsonl")
    assert "lang" not in single and "lang" not in single["provenance"]


def test_own_rows_are_sent_whole(made: Generate, server: ChatServer, tmp_path: Path) -> None:
    function = "".join(f"step({number});\n" for number in range(60))
    path = write_jsonl(tmp_path / "seeds.jsonl", [{"body": function, "lang": "java", "url": "x"}])
    out = made("data/generate=rows", f"data.generate.path={path}", "data.generate.column=body")
    (row,) = read_jsonl(out / "rows.jsonl")
    assert function in sent(server)
    assert (row["seed"], row["lang"]) == (function, "java")
    assert row["provenance"] == {"file": "seeds.jsonl", "lang": "java", "url": "x"}


@pytest.mark.parametrize(
    ("language", "function"),
    [
        ("c-sharp", "    int F() {\n        return 1;\n    }\n"),
        ("data/swift", "func f() -> Int {\n    let a = 1\n    return a\n}\n"),
        ("python", "def f():\n    a = 1\n    return a\n"),
    ],
)
def test_datasets_give_whole_functions(made: Generate, tmp_path: Path, language: str, function: str) -> None:
    around = ("class A {\n", "}\n") if language == "c-sharp" else ("", "")
    document = f"<reponame>owner/name<filename>a\n{around[0]}{function}{around[1]}"
    write_jsonl(tmp_path / "set" / language / "a.jsonl", [{"content": document}, {"content": "nothing\n"}])
    dataset = ("data/generate=starcoderdata", f"data.generate.dataset_name={tmp_path}/set", "data.generate.tag=x")
    out = made(
        *dataset, f"data.generate.data_dir={language}", "data.generate.unit=functions", "data.generate.min_lines=3"
    )
    (row,) = read_jsonl(out / "rows.jsonl")
    assert row["seed"] == function
    assert {each["reason"] for each in read_jsonl(out / "rejected.jsonl")} == {"no function of 3 to 15 lines"}


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["data.generate.data_dir=go"], "give its suffixes: data.generate.suffixes=[.go]"),
        (["data.generate.data_dir=go", "data.generate.suffixes=[go]"], "suffixes: 'go' must begin with a dot"),
        (["data.generate.data_dir=go", "data.generate.suffixes=[]"], "suffixes: name at least one"),
        (["data.generate.data_dir=[a,b]", "data.generate.suffixes=[.a]"], "suffixes: are those of one language"),
        (["data.generate.data_dir=[]"], "name a language"),
        (["data.generate.data_dir=[python,python]"], "names a language twice"),
        (["data.generate.data_dir=5"], "name a language"),
        (["data.generate.data_dir=[[python]]"], "name a language"),
        (["data.generate.data_dir=[python,fortran]"], "data.generate.data_dir=fortran: choose one of python"),
        (["data.generate.secrets=no"], "secrets=no: choose one of skip, keep"),
        (["data.generate.snippets_per_document=0"], "snippets_per_document=0: must be at least 1"),
        (
            ["data.generate.data_dir=go", "data.generate.suffixes=[.go]", "data.generate.unit=functions"],
            "the grammar of go is not known; those of python, typescript",
        ),
        (["data/generate=dataset", "data.generate.dataset_name=x", "data.generate.unit=functions"], "grammar of code"),
        (["data/generate=rows", "data.generate.path=nowhere.jsonl"], "data.generate.path=nowhere.jsonl: no such file"),
    ],
)
def test_mistake_about_seeds_is_a_line(made: Generate, overrides: list[str], words: str) -> None:
    with pytest.raises(UserError) as raised:
        made("data/generate=local", *overrides) if overrides[0].startswith("data.") else made(*overrides)
    assert any(words in problem for problem in raised.value.problems), raised.value.problems


def test_language_without_a_name_here_is_taken_by_suffix(made: Generate, settings: Settings, tmp_path: Path) -> None:
    folder = write(tmp_path / "code", a__go="package a\n", b__py="import os\n")
    go = (
        "data/generate=local",
        f"data.generate.path={folder}",
        "data.generate.data_dir=go",
        "data.generate.suffixes=[.go]",
    )
    (row,) = read_jsonl(made(*go) / "rows.jsonl")
    assert row["provenance"]["path"] == "a.go"
    assert settings("stage=generate", *go).data.generate.tag == "go"
    several = settings("stage=generate", "data/generate=local", "data.generate.data_dir=[python,cpp]")
    assert several.data.generate.tag == "python_cpp"


def test_finished_run_needs_its_folder_no_more(made: Generate, server: ChatServer, tmp_path: Path) -> None:
    folder = write(tmp_path / "code", a__py="import os\n", b__py="import re\n")
    own = ("data/generate=local", f"data.generate.path={folder}")
    out = made(*own)
    rows = (out / "rows.jsonl").read_bytes()
    shutil.rmtree(folder)
    (out / "rows.jsonl").unlink()
    made(*own)
    assert (out / "rows.jsonl").read_bytes() == rows
    assert len(server.requests) == 2
    for other in (("dry_run=true",), ("overwrite=true",), (f"out={tmp_path}/other",)):
        with pytest.raises(UserError, match="no such folder"):
            made(*own, *other)
    assert (out / "rows.jsonl").read_bytes() == rows


def test_evolved_run_needs_its_instructions_no_more(made: Generate, server: ChatServer, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "given" / "in.jsonl", [{"instruction": "Sort a list of numbers by size."}])
    evolved = ("data/generate=evol_instruct", f"data.generate.evolve.instruction_files=[{path}]")
    out = made(*evolved)
    noted = json.loads((out / "manifest.json").read_bytes())["inputs"]
    asked = len(server.requests)
    path.unlink()
    (out / "rows.jsonl").unlink()
    made(*evolved)
    assert len(server.requests) == asked
    assert json.loads((out / "manifest.json").read_bytes())["inputs"] == noted
    with pytest.raises(UserError, match=r"others\.jsonl: no such file"):
        made("data/generate=evol_instruct", f"data.generate.evolve.instruction_files=[{tmp_path}/others.jsonl]")
    write_jsonl(path, [{"instruction": "Another one."}])
    with pytest.raises(UserError, match=r"another config \(inputs\.in\.jsonl was"):
        made(*evolved)


def test_new_keys_bear_no_identity_at_their_former_values(settings: Settings) -> None:
    new = {"skip_blank", "secrets", "snippets_per_document", "suffixes", "untracked"}
    for option in ("local", "starcoderdata"):
        seeds = select_identity(settings("stage=generate", f"data/generate={option}"))["data"]["generate"]
        assert not new & set(seeds)
        assert ("unit" in seeds) == (option == "local")


def test_unit_of_a_dataset_before_it_was_read_is_no_difference() -> None:
    def translate(unit: str) -> dict:
        former = {"stage": "generate", "config": {"data": {"generate": {"source": "hub", "unit": unit}}}}
        return translate_identity(former)["config"]["data"]["generate"]

    assert translate("lines") == {"source": "hub"}
    assert translate("functions") == {"source": "hub", "unit": "functions"}


def test_ignored_file_of_a_repository_stays_at_home(made: Generate, server: ChatServer, tmp_path: Path) -> None:
    folder = write(
        tmp_path / "code", a__py="import os\n", private__py="x = 'not for the teacher'\n", __gitignore="private.py"
    )
    git(folder, "init", "-q")
    git(folder, "add", "a.py")
    (folder / ".git" / "HEAD").unlink()
    own = ("data/generate=local", f"data.generate.path={folder}")
    with pytest.raises(
        UserError, match=r"repository that git cannot read: .*; mend the repository, or data\.generate\.unt"
    ):
        made(*own)
    assert server.requests == []
    made(*own, "data.generate.untracked=true")
    assert "not for the teacher" in sent(server)
