"""What git says of a folder is taken; a git that is broken, missing or hostile harms nothing."""

import subprocess
from pathlib import Path

import pytest

from magicoder.seeds.git import find_repository, redact_url


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
    line = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(line, check=True, capture_output=True, text=True).stdout.strip()


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
    assert found is not None
    assert found.commit == git(folder, "rev-parse", "HEAD")
    assert sorted(found.tracked) == ["b.py", "new.py", "src/a.py"]
    assert not found.is_dirty("b.py", b"b = 1\n")
    assert found.is_dirty("b.py", b"b = 2\n")
    assert found.is_dirty("new.py", b"new")


def test_part_of_a_repository_has_paths_of_its_own(folder: Path) -> None:
    found = find_repository(folder / "src")
    assert found is not None
    assert (found.root, found.tracked, found.is_dirty("a.py", b"a = 1\n")) == (folder, ["a.py"], False)


def test_repository_without_a_commit_has_none(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "a.py").write_text("")
    git(tmp_path, "add", ".")
    found = find_repository(tmp_path)
    assert found is not None
    assert (found.commit, found.url, found.is_dirty("a.py", b"")) == (None, None, True)


def test_folder_of_which_git_knows_nothing_is_no_repository(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (folder / "untracked").mkdir()
    assert find_repository(folder / "untracked") is None
    assert find_repository(tmp_path_factory.mktemp("plain")) is None


def test_broken_repository_is_read_as_a_plain_folder(folder: Path) -> None:
    (folder / ".git" / "HEAD").write_text("nonsense")
    assert find_repository(folder) is None


def test_machine_without_git_reads_plain_folders(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert find_repository(folder) is None


def test_program_that_a_repository_names_is_not_run(folder: Path) -> None:
    git(folder, "config", "core.fsmonitor", f"touch {folder}/ran; false")
    assert find_repository(folder) is not None
    assert not (folder / "ran").exists()


def test_git_that_called_this_program_does_not_lead_it_elsewhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    assert find_repository(folder) is not None


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
