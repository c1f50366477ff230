"""Summarize the jobs of a sweep: a table and their curves."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from magicoder.config import identity
from magicoder.reports.markdown import format_table, quote_code
from magicoder.reports.plots import compare_curves
from magicoder.storage.artifact import MANIFEST, METRICS, STARTED, find_owner, truncate
from magicoder.storage.files import read_json, read_rows, write_whole

SUMMARY = "sweep.md"
PLOT = "sweep.png"


@dataclass(frozen=True)
class Job:
    """A finished training.

    loss: of its last update; mean_loss: over the last tenth of them; in nats per token. identity: config and inputs.
    """

    directory: Path
    identity: dict[str, Any]
    loss: float
    mean_loss: float
    updates: int
    seconds: float


def summarize(folder: Path) -> None:
    """Write `sweep.md` and `sweep.png` into the folder of a sweep of trainings; nothing if no job is finished.

    Errors: UserError if the metrics of a finished job are missing; OSError if the files cannot be written.
    """
    directories = sorted(path for path in folder.iterdir() if path.is_dir())
    finished = [path for path in directories if find_owner(path / MANIFEST) == "train"]
    unfinished = [path for path in directories if path not in finished and find_owner(path / STARTED) == "train"]
    if not finished:
        return
    jobs = sorted(map(read_job, finished), key=lambda job: (job.loss, job.directory.name))
    labels = distinguishing_labels(jobs)
    compare_curves({label: job.directory / METRICS for label, job in zip(labels, jobs, strict=True)}, folder / PLOT)
    with write_whole(folder / SUMMARY) as file:
        file.write(format_summary(folder.name, labels, jobs, unfinished).encode())


def read_job(directory: Path) -> Job:
    """Read the results of the job in this directory."""
    manifest = read_json(directory / MANIFEST)
    counts = manifest["counts"]
    last_tenth = counts["updates"] - math.ceil(counts["updates"] / 10)
    losses = [row["loss"] for row in read_rows(directory / METRICS) if row["update"] > last_tenth]
    identity = {key: manifest[key] for key in ("config", "inputs")}
    return Job(directory, identity, counts["loss"], sum(losses) / len(losses), counts["updates"], manifest["seconds"])


def distinguishing_labels(jobs: list[Job]) -> list[str]:
    """Label each job by the keys that differ among jobs, or by its directory where these are ambiguous."""
    flat = [
        dict(identity.list_leaves(job.identity["config"])) | dict(identity.list_leaves(job.identity["inputs"]))
        for job in jobs
    ]
    keys = dict.fromkeys(key for values in flat for key in values)
    differing = [key for key in keys if len({repr(values.get(key)) for values in flat}) > 1]
    labels = [", ".join(f"{key}={truncate(values.get(key))}" for key in differing) for values in flat]
    return labels if len(set(labels)) == len(jobs) and all(labels) else [job.directory.name for job in jobs]


def format_summary(name: str, labels: list[str], jobs: list[Job], unfinished: list[Path]) -> str:
    """Return the text of `sweep.md`: the finished jobs, the best first, and the unfinished ones."""
    rows = [
        (quote_code(label), f"{job.loss:.4f}", f"{job.mean_loss:.4f}", f"{job.updates}", f"{job.seconds:.1f}")
        for label, job in zip(labels, jobs, strict=True)
    ]
    parts = [
        f"# Sweep {quote_code(name)}",
        "Losses in nats per token: of the last update, and the mean over the last tenth of the updates.",
        format_table(("job", "final loss", "mean of the last tenth", "updates", "seconds"), rows),
        f"![The loss of each job over the updates]({PLOT})",
    ]
    if unfinished:
        parts += ["Not finished:", "\n".join(f"- {quote_code(path.name)}" for path in unfinished)]
    return "\n\n".join(parts) + "\n"
