"""What git says of a folder is taken; where git is broken, missing or hostile, nothing is guessed."""

import os
import subprocess
from pathlib import Path

import pytest

from magicoder.seeds import git as seeds_git
from magicoder.seeds.git import Repository, redact_url
from magicoder.storage.rejected import Rejection


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
    line = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(line, check=True, capture_output=True, text=True).stdout.strip()


def find_repository(folder: Path) -> Repository:
    found = seeds_git.find_repository(folder)
    assert isinstance(found, Repository), found
    return found


def refusal(folder: Path) -> tuple[str, str]:
    """The reason and the words with which the folder's repository is not read."""
    found = seeds_git.find_repository(folder)
    assert isinstance(found, Rejection)
    return found.reason, found.evidence


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q")
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.py").write_text("a = 1\n")
    (tmp_path / "b.py").write_text("b = 1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    return tmp_path


def test_file_that_differs_from_its_commit_is_dirty(folder: Path) -> None:
    (folder / "new.py").write_text("new")
    git(folder, "add", "new.py")
    found = find_repository(folder)
    assert found.commit == git(folder, "rev-parse", "HEAD")
    assert sorted(found.tracked) == ["b.py", "new.py", "src/a.py"]
    assert not found.is_dirty("b.py", b"b = 1\n")
    assert found.is_dirty("b.py", b"b = 2\n")
    assert found.is_dirty("new.py", b"new")


def test_part_of_a_repository_has_paths_of_its_own(folder: Path) -> None:
    found = find_repository(folder / "src")
    assert (found.root, found.tracked, found.is_dirty("a.py", b"a = 1\n")) == (folder, ["a.py"], False)


def test_repository_without_a_commit_has_none(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "a.py").write_text("")
    git(tmp_path, "add", ".")
    found = find_repository(tmp_path)
    assert (found.commit, found.url, found.is_dirty("a.py", b"")) == (None, None, True)


def test_folder_without_tracked_files_is_told_from_a_plain_one(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (folder / "untracked").mkdir()
    assert refusal(folder / "untracked") == ("git tracks nothing here", "git ls-files")
    assert seeds_git.find_repository(tmp_path_factory.mktemp("plain")) is None


def test_repository_that_git_cannot_read_gives_its_words(folder: Path) -> None:
    (folder / ".git" / "HEAD").write_text("nonsense")
    reason, words = refusal(folder / "src")
    assert reason == "repository that git cannot read"
    assert words.startswith("not a git repository")
    assert "\n" not in words


def test_missing_git_matters_in_a_repository_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert refusal(folder) == ("repository that git cannot read", "git is not installed, or may not be run")
    assert seeds_git.find_repository(tmp_path_factory.mktemp("plain")) is None


@pytest.mark.parametrize("is_folder", [True, False], ids=["not executable", "not a folder"])
def test_git_that_cannot_be_run_counts_as_missing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory, is_folder: bool
) -> None:
    programs = tmp_path_factory.mktemp("programs")
    (programs / "git").write_text("")
    monkeypatch.setenv("PATH", str(programs if is_folder else programs / "git"))
    assert refusal(folder)[1].startswith("git is not installed")


def test_work_tree_elsewhere_is_not_read(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    git(folder, "config", "core.worktree", str(elsewhere))
    reason, words = refusal(folder)
    assert reason == "repository that git cannot read"
    assert words.endswith(f"another folder, {elsewhere}")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_repository_of_another_owner_is_not_read(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))  # whoever trusts all folders does so there
    for path in (folder, folder / ".git"):
        os.chown(path, 12345, 12345)
    assert refusal(folder)[1].startswith("detected dubious ownership in repository at ")


@pytest.mark.parametrize("name", ["pipe", "index", "refs/heads/main"])
def test_pipe_in_the_place_of_a_file_of_git_does_not_hang(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    git(folder, "branch", "-M", "main")
    monkeypatch.setattr(seeds_git, "ANSWER_SECONDS", 0.5)
    (folder / ".git" / name).unlink(missing_ok=True)
    os.mkfifo(folder / ".git" / name)
    with open(folder / ".git" / "config", "a") as config:
        config.write("[include]\n\tpath = pipe\n" if name == "pipe" else "")
    assert refusal(folder)[1].endswith("gave no answer within 0.5 seconds")


def test_submodules_are_no_files(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    whole = tmp_path_factory.mktemp("whole")
    git(whole, "init", "-q")
    git(whole, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(folder), "lib")
    found = find_repository(whole)
    assert (found.tracked, found.submodules) == ([".gitmodules"], ["lib"])
    assert find_repository(whole / "lib").commit == git(folder, "rev-parse", "HEAD")


def test_program_that_a_repository_names_is_not_run(folder: Path) -> None:
    git(folder, "config", "core.fsmonitor", f"touch {folder}/ran; false")
    assert find_repository(folder).tracked
    assert not (folder / "ran").exists()


def test_git_that_called_this_program_does_not_lead_it_elsewhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    assert find_repository(folder).tracked


@pytest.mark.parametrize(
    ("url", "public"),
    [
        ("https://github.com/a/b.git", "https://github.com/a/b.git"),
        ("https://user:secret@github.com:8443/a/b.git?token=secret#secret", "https://github.com:8443/a/b.git"),
        ("https://secret@github.com/a/b", "https://github.com/a/b"),
        ("ssh://git@example.org/a/b", "ssh://example.org/a/b"),
        ("git@github.com:a/b.git", "github.com:a/b.git"),
        ("user:secret@github.com:a/b.git", "github.com:a/b.git"),
        ("https://user:sec@ret@github.com/a", "https://github.com/a"),
        ("https://user:sec/ret@github.com/a", None),
        ("https://[secret", None),
        ("ext::sh -c secret", None),
        ("/home/secret/b", None),
        ("../b", None),
    ],
)
def test_secrets_in_an_address_are_left_behind(url: str, public: str | None) -> None:
    assert redact_url(url) == public
