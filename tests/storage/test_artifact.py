"""The output-directory contract: complete, resumed or refused, and never more deleted than was asked for."""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from magicoder.config import StageConfig, identity
from magicoder.config.identity import identify_tokenizer, translate_identity
from magicoder.runtime.errors import UserError
from magicoder.storage.artifact import Artifact
from magicoder.storage.files import digest, read_json
from magicoder.storage.inputs import digest_inputs, resolve_inputs
from tests.support import command, environment, run_main, write_jsonl

Settings = Callable[..., StageConfig]
ROWS = [
    {"index": index, "seed": f"seed {index}", "problem": f"problem {index % 3}", "solution": f"solution {index}"}
    for index in range(5)
]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "in" / "data-python-0.jsonl", ROWS)


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """run(file, "data.clean.seed=1"): the clean stage by the real program."""

    def clean(file: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
        return run_main("stage=clean", f"data.clean.data_files=[{file}]", *overrides, cwd=tmp_path)

    return clean


def everything_in(directory: Path) -> dict[str, tuple[bytes, int]]:
    """Name -> content and time of change of every file below a directory."""
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def has_journal(directory: Path) -> bool:
    """Return whether a directory holds paid work."""
    return (directory / "journal.jsonl").exists()


def refusal(settings: StageConfig, has_progress: Callable[[Path], bool] = lambda directory: False) -> str:
    """The line with which a directory is refused."""
    with pytest.raises(UserError) as caught:
        Artifact(settings, {}, has_progress=has_progress)
    (problem,) = caught.value.problems
    return problem


def finish(settings: StageConfig) -> None:
    """A run from its beginning to its end."""
    with Artifact(settings, {}) as artifact:
        artifact.finish_rows([{"a": 1}], [])


def begin(settings: StageConfig) -> Path:
    """A run that is stopped with paid work in `journal.jsonl`; returns that file."""
    with Artifact(settings, {}, has_progress=has_journal) as artifact:
        artifact.path("journal.jsonl").write_text("paid for\n")
    return artifact.path("journal.jsonl")


# --- complete, resumed, refused --------------------------------------------------------------------------------------


def test_same_command_again_says_complete_and_touches_nothing(run: Callable, source: Path, tmp_path: Path) -> None:
    first = run(source)
    assert (first.returncode, first.stderr) == (0, "")
    before = everything_in(tmp_path / "outputs")
    second = run(source)
    assert (second.returncode, second.stderr) == (0, "")
    assert second.stdout == "clean: outputs/clean is complete (in 5, out 3, rejected 2)\n"
    assert everything_in(tmp_path / "outputs") == before


def test_directory_is_complete_from_its_manifest_on(settings: Settings) -> None:
    chosen = settings("stage=clean")
    begin(chosen)
    with Artifact(chosen, {}) as artifact:
        assert not artifact.complete
        artifact.finish_rows([{"a": 1}], [])
        assert artifact.complete
    with Artifact(chosen, {}) as again:
        assert again.complete


def test_what_was_begun_is_resumed_with_all_that_it_holds(settings: Settings) -> None:
    chosen = settings("stage=clean")
    journal = begin(chosen)
    journal.with_name(".unfinished-abc").write_text("half of a file")
    with Artifact(chosen, {}) as resumed:
        assert resumed.path("journal.jsonl").read_text() == "paid for\n"
        assert not resumed.path(".unfinished-abc").exists()


def test_other_config_is_refused_and_nothing_is_deleted(run: Callable, source: Path, tmp_path: Path) -> None:
    run(source)
    before = everything_in(tmp_path / "outputs")
    refused = run(source, "data.clean.seed=1", "data.clean.no_filter=true")
    assert refused.returncode == 1
    assert refused.stderr == (
        "error: outputs/clean: has the result of another config "
        "(data.clean.seed was 666, is 1; data.clean.no_filter was False, is True); "
        "choose another out=DIR, or overwrite=true to start anew\n"
    )
    assert everything_in(tmp_path / "outputs") == before


def test_work_begun_with_another_config_is_refused_and_kept(settings: Settings) -> None:
    journal = begin(settings("stage=clean"))
    problem = refusal(settings("stage=clean", "data.clean.seed=1"), has_journal)
    assert "was begun with another config (data.clean.seed was 666, is 1)" in problem
    assert journal.read_text() == "paid for\n"


def test_failed_run_without_progress_is_no_obstacle(run: Callable, source: Path) -> None:
    """Whoever mends the file or the key that a run complained of must not have to say overwrite=true."""
    write_jsonl(source, [{"seed": "a"}])
    assert run(source).returncode == 1
    write_jsonl(source, ROWS)
    mended = run(source, "data.clean.seed=1")
    assert (mended.returncode, mended.stderr) == (0, "")


def test_directory_of_another_stage_is_refused(settings: Settings) -> None:
    chosen = settings("stage=clean")
    finish(chosen)
    problem = refusal(settings("stage=preprocess", f"out={chosen.out}"))
    assert "stage was 'clean', is 'preprocess'" in problem


def test_overwrite_starts_anew(run: Callable, source: Path, tmp_path: Path) -> None:
    run(source)
    (tmp_path / "outputs" / "clean" / "left-over.txt").write_text("of the former run")
    again = run(source, "data.clean.seed=1", "overwrite=true")
    assert (again.returncode, again.stderr) == (0, "")
    assert read_json(tmp_path / "outputs" / "clean" / "manifest.json")["config"]["data"]["clean"]["seed"] == 1
    assert not (tmp_path / "outputs" / "clean" / "left-over.txt").exists()


def test_stopped_overwriting_resumes_with_the_same_command(settings: Settings) -> None:
    """Else a kill in the middle of a week of paid answers would throw them away."""
    finish(settings("stage=clean"))
    overwriting = settings("stage=clean", "data.clean.seed=1", "overwrite=true")
    journal = begin(overwriting)
    with Artifact(overwriting, {}) as again:
        assert not again.complete
        assert journal.read_text() == "paid for\n"


@pytest.mark.parametrize("overwrite", ["true", "false"])
def test_run_begun_under_former_keys_is_resumed(settings: Settings, overwrite: str) -> None:
    """licences and serve bear identity, and were renamed to licenses and serve_model."""
    chosen = settings("stage=generate", "data/generate=local", f"overwrite={overwrite}")
    journal = begin(chosen)
    started = read_json(journal.with_name("started.json"))
    code, teacher = started["config"]["data"]["generate"], started["config"]["teacher"]
    code["licences"], teacher["serve"] = code.pop("licenses"), teacher.pop("serve_model")
    journal.with_name("started.json").write_text(json.dumps(started))
    with Artifact(chosen, {}, has_progress=has_journal):
        assert journal.read_text() == "paid for\n"


def test_overwriting_forgets_what_another_config_began(settings: Settings) -> None:
    journal = begin(settings("stage=clean"))
    with Artifact(settings("stage=clean", "data.clean.seed=1", "overwrite=true"), {}):
        assert not journal.exists()


def test_overwriting_a_complete_directory_starts_from_nothing(settings: Settings) -> None:
    chosen = settings("stage=clean", "overwrite=true")
    finish(chosen)
    with Artifact(chosen, {}) as again:
        assert not again.complete
        assert not again.path("rows.jsonl").exists()


@pytest.mark.parametrize("place", ["rows.jsonl", "deeper/rows.jsonl", "."])
def test_input_in_the_directory_that_is_written_is_refused(settings: Settings, tmp_path: Path, place: str) -> None:
    """Overwriting would delete it."""
    chosen = settings("stage=clean", f"out={tmp_path}/here", "overwrite=true")
    finish(chosen)
    before = everything_in(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "here")
    for folder in ("here", "link"):
        read = tmp_path / folder / place
        with pytest.raises(UserError) as caught:
            Artifact(chosen, {}, reads=[read])
        assert caught.value.problems == [
            f"{read}: is read by this run and is inside the directory that it writes; choose another out=DIR"
        ]
    (tmp_path / "link").unlink()
    assert everything_in(tmp_path) == before


def test_stage_whose_input_lies_where_it_writes_is_refused(run: Callable, source: Path) -> None:
    before = everything_in(source.parent)
    refused = run(source, f"out={source.parent}", "overwrite=true")
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"error: {source}: is read by this run and is inside the directory that it writes")
    assert everything_in(source.parent) == before


def test_directory_that_lost_its_rows_is_not_called_complete(run: Callable, source: Path, tmp_path: Path) -> None:
    """The next stage says "run stage=clean first": then that must help, or say what would."""
    run(source)
    (tmp_path / "outputs" / "clean" / "rows.jsonl").unlink()
    again = run(source)
    assert "is complete" not in again.stdout
    assert (tmp_path / "outputs" / "clean" / "rows.jsonl").exists() or "overwrite=true" in again.stderr


# --- directories of others -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["thesis.tex", "photos/one.jpg"])
@pytest.mark.parametrize("overwrite", ["false", "true"])
def test_directory_with_files_that_no_stage_wrote_is_refused(
    settings: Settings, tmp_path: Path, name: str, overwrite: str
) -> None:
    mine = tmp_path / "mine" / name
    mine.parent.mkdir(parents=True)
    mine.write_text("precious")
    problem = refusal(settings("stage=clean", f"out={tmp_path}/mine", f"overwrite={overwrite}"))
    assert problem == f"{tmp_path}/mine: has files that no stage wrote; choose another out=DIR"
    assert mine.read_text() == "precious"


@pytest.mark.parametrize("name", [".bashrc", ".ssh/id"])
def test_hidden_files_that_no_stage_wrote_are_never_deleted(
    run: Callable, source: Path, tmp_path: Path, name: str
) -> None:
    """A home directory may hold nothing else."""
    mine = tmp_path / "mine" / name
    mine.parent.mkdir(parents=True)
    mine.write_text("precious")
    for seed in (1, 2):
        run(source, f"out={tmp_path}/mine", "overwrite=true", f"data.clean.seed={seed}")
        assert mine.exists()


FOREIGN = {
    "web app": '{"name": "My app", "icons": [], "stage": "production", "config": {}}',
    "extension": '{"manifest_version": 3}',
    "stage alone": '{"stage": "clean"}',
    "stage of another kind": '{"stage": ["clean"], "config": {}}',
    "list": '["stage", "config"]',
    "no JSON": '{"stage": "clean", "config": ',
    "not UTF-8": b"\xff\xfe",
}


@pytest.mark.parametrize("overwrite", ["false", "true"])
@pytest.mark.parametrize("name", ["manifest.json", "started.json"])
@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_manifest_does_not_make_a_directory_ours(
    settings: Settings, tmp_path: Path, kind: str, name: str, overwrite: str
) -> None:
    """Many programs have a manifest.json."""
    content = FOREIGN[kind]
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    (mine / "index.html").write_text("precious")
    before = everything_in(mine)
    problem = refusal(settings("stage=clean", f"out={mine}", f"overwrite={overwrite}"))
    assert problem == f"{mine}: has files that no stage wrote; choose another out=DIR"
    assert everything_in(mine) == before


def test_file_in_the_place_of_the_directory_is_refused(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    problem = refusal(settings("stage=clean", f"out={tmp_path}/mine", "overwrite=true"))
    assert problem == f"{tmp_path}/mine: is a file, not a directory; choose another out=DIR"


def test_overwriting_follows_no_link_out_of_the_directory(settings: Settings, tmp_path: Path) -> None:
    chosen = settings("stage=clean", "overwrite=true")
    finish(chosen)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "precious").write_text("precious")
    link = Path(chosen.out, "link")
    link.symlink_to(tmp_path / "elsewhere")
    with Artifact(chosen, {}):
        assert not link.is_symlink()
    assert (tmp_path / "elsewhere" / "precious").read_text() == "precious"


# --- two processes ---------------------------------------------------------------------------------------------------

HOLDING = """
import sys
from pathlib import Path
from magicoder import config
from magicoder.storage.artifact import Artifact

with Artifact(config.CleanConfig(out=sys.argv[1]), {}) as artifact:
    artifact.path("journal.jsonl").write_text("paid for")
    print("claimed", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen]:
    """A second process that is at work in outputs/clean until it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(tmp_path / "outputs" / "clean")],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "claimed\n"
    yield process
    process.kill()
    process.communicate()


@pytest.mark.parametrize("overwrite", ["false", "true"])
def test_second_process_is_refused(
    holder: subprocess.Popen, run: Callable, source: Path, tmp_path: Path, overwrite: str
) -> None:
    refused = run(source, f"overwrite={overwrite}")
    assert refused.returncode == 1
    assert refused.stderr == "error: outputs/clean: another process is using it\n"
    assert (tmp_path / "outputs" / "clean" / "journal.jsonl").read_text() == "paid for"


def test_killed_process_holds_nothing(holder: subprocess.Popen, run: Callable, source: Path) -> None:
    holder.kill()
    holder.wait()
    assert run(source, "overwrite=true").returncode == 0


@pytest.mark.parametrize("fails", [False, True])
def test_directory_is_free_again_after_the_block_however_it_ends(settings: Settings, fails: bool) -> None:
    chosen = settings("stage=clean")
    with contextlib.suppress(RuntimeError), Artifact(chosen, {}):
        assert refusal(chosen) == f"{chosen.out}: another process is using it"
        if fails:
            raise RuntimeError
    finish(chosen)


@pytest.mark.parametrize("mask", [0o002, 0o022, 0o077])
def test_lock_file_has_the_permissions_of_a_new_file(settings: Settings, mask: int) -> None:
    former = os.umask(mask)
    try:
        with Artifact(settings("stage=clean"), {}) as artifact:
            assert artifact.path(".lock").stat().st_mode & 0o777 == 0o666 & ~mask
    finally:
        os.umask(former)


def test_refused_directory_is_not_held(settings: Settings) -> None:
    finish(settings("stage=clean"))
    other = settings("stage=clean", "data.clean.seed=1")
    assert refusal(other) == refusal(other)


def test_two_processes_that_start_at_once_make_one_result(source: Path, tmp_path: Path) -> None:
    """Whoever comes second is refused or finds the directory complete; nobody ends with a traceback."""
    arguments = command("stage=clean", f"data.clean.data_files=[{source}]")
    racers = [
        subprocess.Popen(arguments, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    complaints = [racer.communicate(timeout=60)[1] for racer in racers]
    statuses = [racer.returncode for racer in racers]
    assert 0 in statuses
    allowed = ("", "error: outputs/clean: another process is using it\n")
    assert all(complaint in allowed for complaint in complaints)
    assert read_json(tmp_path / "outputs" / "clean" / "manifest.json")["counts"]["in"] == 5


# --- what bears identity ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "override"),
    [
        ("generate", "teacher.concurrency=1"),
        ("generate", "teacher.max_attempts=1"),
        ("generate", "teacher.timeout=1"),
        ("generate", "teacher.base_url=http://localhost:1"),
        ("generate", "teacher.api_key_env=MY_KEY"),
        ("train", "parallel.accelerator=cpu"),
        ("train", "track=file"),
        ("train", "track.project=other"),
        ("train", "model.attention=eager"),
        ("train", "train.logging_steps=7"),
        ("train", "train.save_every=7"),
        ("train", "train.save_every_minutes=7"),
        ("train", "train.keep_checkpoints=7"),
        ("train", "train.layout=padded"),
        ("train", "train.tokens_per_device=8192"),
        ("train", "train.logits=chunked"),
        ("train", "train.compile=true"),
        ("train", "parallel=fsdp"),
        ("train", "parallel.num_nodes=7"),
        ("train", "parallel.activation_checkpointing=on"),
        ("train", "parallel.reduce_gradients=each"),
        ("train", "track.samples=7"),
    ],
)
def test_how_a_run_is_carried_out_does_not_matter(settings: Settings, stage: str, override: str) -> None:
    chosen = settings(f"stage={stage}")
    finish(chosen)
    with Artifact(settings(f"stage={stage}", override), {}) as artifact:
        assert artifact.complete
    assert identity.select_identity(settings(f"stage={stage}", override)) == identity.select_identity(chosen)


@pytest.mark.parametrize(
    ("stage", "override"),
    [
        ("generate", "teacher.model=other"),
        ("generate", "teacher.temperature=0.5"),
        ("generate", "prompt.system=Other."),
        ("generate", "data.generate.seed=1"),
        ("generate", "data.generate.max_considered_data=7"),
        ("generate", "data.generate.dataset_name=other"),
        ("clean", "data.clean.seed=1"),
        ("decontaminate", "data.decontaminate.columns=[problem]"),
        ("decontaminate", "~data.decontaminate.benchmarks.apps"),
        ("preprocess", "prompt.instruction='{problem}'"),
        ("train", "train.learning_rate=1e-5"),
        ("train", "train.global_batch_size=14"),
        ("train", "train.per_device_train_batch_size=1"),
        ("train", "train.loss=token_mean"),
        ("train", "train.rounding=stochastic"),
        ("train", "train.master_weights=true"),
        ("train", "train.bf16=false"),
        ("train", "prompt.template='{instruction}{response}'"),
    ],
)
def test_what_changes_the_result_is_noticed(settings: Settings, stage: str, override: str) -> None:
    chosen = settings(f"stage={stage}")
    finish(chosen)
    key = override.lstrip("~").split("=")[0]
    assert f"{key} was " in refusal(settings(f"stage={stage}", override, f"out={chosen.out}"))


def test_other_folder_of_seed_code_is_noticed(settings: Settings, tmp_path: Path) -> None:
    overrides = ("stage=generate", "data/generate=local")
    finish(settings(*overrides, f"data.generate.path={tmp_path}/one"))
    assert "another config" in refusal(settings(*overrides, f"data.generate.path={tmp_path}/two"))


def test_changed_content_of_an_input_is_noticed(run: Callable, source: Path) -> None:
    run(source)
    write_jsonl(source, ROWS[:4])
    refused = run(source)
    assert refused.returncode == 1
    assert "another config (inputs.data-python-0.jsonl was '" in refused.stderr


def test_input_that_lies_elsewhere_is_the_same_input(run: Callable, source: Path, tmp_path: Path) -> None:
    run(source)
    (tmp_path / "archive").mkdir()
    moved = shutil.move(source, tmp_path / "archive" / source.name)
    again = run(moved)
    assert (again.returncode, again.stderr) == (0, "")
    assert "is complete" in again.stdout


def test_inputs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    one = write_jsonl(tmp_path / "one" / "data.jsonl", [{"a": 1}])
    two = write_jsonl(tmp_path / "two" / "data.jsonl", [{"a": 2}])
    assert sorted(digest_inputs([one, two]).values()) == sorted([digest(one), digest(two)])


# --- the manifest ----------------------------------------------------------------------------------------------------


def test_manifest_says_what_was_made_of_what(run: Callable, source: Path, tmp_path: Path) -> None:
    run(source)
    out = tmp_path / "outputs" / "clean"
    manifest = read_json(out / "manifest.json")
    assert manifest["stage"] == "clean"
    assert manifest["config"] == {"data": {"clean": {"seed": 666, "no_filter": False}}}
    assert manifest["inputs"] == {"data-python-0.jsonl": digest(source)}
    assert manifest["outputs"] == {name: digest(out / name) for name in ("rows.jsonl", "rejected.jsonl")}
    assert manifest["counts"] == {"in": 5, "out": 3, "rejected": 2}
    assert manifest["began"] <= manifest["ended"]
    assert {"magicoder", "python", "torch", "transformers"} <= manifest["versions"].keys()


def test_manifest_names_no_place_of_this_machine(run: Callable, source: Path, tmp_path: Path) -> None:
    """Else the same run elsewhere would be another one."""
    run(source)
    assert str(tmp_path) not in (tmp_path / "outputs" / "clean" / "manifest.json").read_text()


def test_broken_manifest_vouches_for_nothing(run: Callable, source: Path, tmp_path: Path) -> None:
    run(source)
    (tmp_path / "outputs" / "clean" / "manifest.json").write_text("{")
    before = everything_in(tmp_path / "outputs")
    for overwrite in ("false", "true"):
        refused = run(source, f"overwrite={overwrite}")
        assert refused.returncode == 1
        assert refused.stderr == "error: outputs/clean: has files that no stage wrote; choose another out=DIR\n"
    assert everything_in(tmp_path / "outputs") == before


# --- inputs ----------------------------------------------------------------------------------------------------------


def finished_stage(directory: Path) -> Path:
    write_jsonl(directory / "rows.jsonl", [{"a": 1}])
    (directory / "manifest.json").write_text(json.dumps({}))
    return directory


def test_pattern_names_directories_in_their_order(tmp_path: Path) -> None:
    for name in ("data-b", "data-a", "data-c"):
        finished_stage(tmp_path / name)
    found = resolve_inputs([f"{tmp_path}/data-*"], made_by="generate")
    assert found == [tmp_path / name / "rows.jsonl" for name in ("data-a", "data-b", "data-c")]


@pytest.mark.parametrize("name", ["tag=[a,b]", "data-*", "what?"])
def test_name_that_looks_like_a_pattern_is_literal_if_it_exists(tmp_path: Path, name: str) -> None:
    """Directories of sweeps are named by overrides, and those may hold lists."""
    finished_stage(tmp_path / name)
    finished_stage(tmp_path / "data-a")
    write_jsonl(tmp_path / f"{name}.jsonl", [{"a": 1}])
    found = resolve_inputs([f"{tmp_path}/{name}", f"{tmp_path}/{name}.jsonl"], made_by="generate")
    assert found == [tmp_path / name / "rows.jsonl", tmp_path / f"{name}.jsonl"]


def test_missing_inputs_are_named_with_the_stage_that_makes_them(tmp_path: Path) -> None:
    finished_stage(tmp_path / "whole")
    write_jsonl(tmp_path / "begun" / "rows.jsonl", [{"a": 1}])
    with pytest.raises(UserError) as caught:
        resolve_inputs([f"{tmp_path}/{name}" for name in ("whole", "begun", "none", "x*")], made_by="clean")
    assert caught.value.problems == [
        f"{tmp_path}/begun: is not complete; run stage=clean first",
        f"{tmp_path}/none: no such file; run stage=clean first",
        f"{tmp_path}/x*: matches nothing; run stage=clean first",
    ]


def test_one_input_needs_no_list(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", [{"a": 1}])
    assert resolve_inputs(str(path), made_by="clean") == [path]


def test_folder_of_data_is_no_unfinished_stage(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "oss" / "data-00000-of-00001.jsonl", [{"a": 1}])
    with pytest.raises(UserError) as caught:
        resolve_inputs(f"{tmp_path}/oss", made_by="clean")
    assert caught.value.problems == [
        f"{tmp_path}/oss: is a folder of files; name them, for example {tmp_path}/oss/*.jsonl"
    ]


@pytest.fixture
def unfinished(tmp_path: Path) -> list[Path]:
    """Directories of runs that hold a lock alone, that were begun, and that began to derive rows again."""
    directories = [tmp_path / name for name in ("data-begun", "data-locked", "data-rows")]
    for directory in directories:
        directory.mkdir()
        (directory / ".lock").touch()
    for directory in (directories[0], directories[2]):
        (directory / "started.json").write_text('{"stage": "generate", "config": {}, "inputs": {}}')
    write_jsonl(directories[2] / "rows.jsonl", [{"a": 1}])
    return directories


@pytest.mark.parametrize("name", ["", "/rows.jsonl"], ids=["directories", "files"])
def test_pattern_leaves_unfinished_directories_out(
    tmp_path: Path, unfinished: list[Path], capsys: pytest.CaptureFixture[str], name: str
) -> None:
    finished_stage(tmp_path / "data-done")
    found = resolve_inputs(f"{tmp_path}/data-*{name}", made_by="generate", stage="clean")
    assert found == [tmp_path / "data-done" / "rows.jsonl"]
    lines = capsys.readouterr().err.splitlines()
    left_out = unfinished if not name else [unfinished[2] / "rows.jsonl"]
    assert lines == [
        f"clean: {path} is left out: it is not complete; run its stage again to include it" for path in left_out
    ]


def test_pattern_that_leaves_nothing_is_an_error(tmp_path: Path, unfinished: list[Path]) -> None:
    with pytest.raises(UserError) as caught:
        resolve_inputs(f"{tmp_path}/data-*", made_by="generate", stage="clean")
    assert caught.value.problems == [
        f"{path}: is not complete, and nothing else matches; run its stage again" for path in unfinished
    ]


def test_directory_that_is_named_must_be_finished(tmp_path: Path, unfinished: list[Path]) -> None:
    finished_stage(tmp_path / "data-done")
    with pytest.raises(UserError, match="data-begun: is not complete; run stage=generate first"):
        resolve_inputs([f"{tmp_path}/data-done", str(unfinished[0])], made_by="generate", stage="clean")


def test_changed_rows_of_a_finished_stage_are_refused(settings: Settings, tmp_path: Path) -> None:
    chosen = settings("stage=clean")
    with Artifact(chosen, {}) as artifact:
        artifact.finish_rows([{"a": 1}], [])
    rows = Path(chosen.out, "rows.jsonl")
    digest_inputs([rows])
    write_jsonl(rows, [{"a": 2}])
    copy = write_jsonl(tmp_path / "edited.jsonl", [{"a": 2}])
    with pytest.raises(UserError) as caught:
        digest_inputs([rows, copy])
    (problem,) = caught.value.problems
    assert problem.startswith(f"{rows}: was changed after stage=clean wrote it")
    assert list(digest_inputs([copy])) == ["edited.jsonl"]  # the way on that the message names


@pytest.mark.parametrize(
    "address",
    ["hf://datasets/owner/name", "hf://datasets/owner/name@v1.0", "hf://datasets/owner/name@main/data/a b.parquet"],
)
def test_hub_is_known_by_its_address(address: str) -> None:
    sources = resolve_inputs([address, address], made_by="clean")
    assert digest_inputs(sources) == {address: address, f"{address} (again)": address}


@pytest.mark.parametrize("address", ["hf://models/a/b", "hf://datasets/a", "hf://datasets/a/b/*.csv", "hf://datasets/"])
def test_address_of_another_form_is_refused(address: str) -> None:
    with pytest.raises(UserError, match="must have the form hf://datasets/OWNER/NAME"):
        resolve_inputs(address, made_by="clean")


def test_no_input_at_all_is_an_error() -> None:
    with pytest.raises(UserError, match="no input files are named"):
        resolve_inputs([], made_by="clean")


def test_revisable_change_derives_again_and_is_not_refused(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(settings("stage=generate"))
    with Artifact(settings("stage=generate"), {}, has_progress=has_journal) as artifact:
        artifact.finish_rows([{"a": 1}], [])
    longer = settings("stage=generate", "teacher.max_new_tokens=3000", "data.generate.parser=tolerant")
    with Artifact(longer, {}, has_progress=has_journal) as artifact:
        assert not artifact.complete
        assert artifact.path("journal.jsonl").read_text() == "paid for\n"
    told = capsys.readouterr().out
    assert "parser was 'strict', is 'tolerant'" in told
    assert "teacher.max_new_tokens was 2500, is 3000" in told
    with pytest.raises(UserError, match=r"teacher\.model was"):
        Artifact(settings("stage=generate", "teacher.model=gpt-4o", "teacher.max_new_tokens=9"), {}, (), has_journal)


@pytest.mark.parametrize(
    "overrides",
    [
        ("teacher.request.omit=[seed]",),
        ("teacher.request.max_tokens_field=max_completion_tokens", "teacher.request.system_role=user"),
        ("teacher.model_max_tokens=4096",),
        ("data.generate.samples=2", "teacher.temperature=0.0"),
        ("teacher.thoughts=['<a> </a>']",),
    ],
)
def test_form_of_requests_is_revisable_there_and_back(settings: Settings, overrides: tuple[str, ...]) -> None:
    journal = begin(settings("stage=generate"))
    for changed in (overrides, ()):
        with Artifact(settings("stage=generate", *changed), {}, has_progress=has_journal) as artifact:
            assert artifact.path("journal.jsonl") == journal
            assert journal.exists()


def test_former_tokenizer_is_an_input_by_content(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    content = hashlib.sha256(b"{}").hexdigest()
    names = {"tiktoken": "tiktoken", str(tmp_path): content, f"{tmp_path}/tokenizer.json": content}
    for name, known_as in names.items():
        former = {"stage": "generate", "config": {"teacher": {"model": "m", "tokenizer": name}}, "inputs": {"a": "1"}}
        translated = translate_identity(former)
        assert translated["config"]["teacher"] == {"model": "m"}
        assert translated["inputs"] == {"a": "1", "tokenizer": known_as}
        assert identify_tokenizer(name) == known_as
