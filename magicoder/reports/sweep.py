"""What the jobs of a sweep came to: a table and their curves."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from magicoder.config import identity
from magicoder.reports.model_card import code, table
from magicoder.reports.plots import compare_curves
from magicoder.storage.artifact import MANIFEST, METRICS, STARTED, brief, owner
from magicoder.storage.files import read_json, read_rows, written_whole

SUMMARY = "sweep.md"
PICTURE = "sweep.png"


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
    finished = [path for path in directories if owner(path / MANIFEST) == "train"]
    unfinished = [path for path in directories if path not in finished and owner(path / STARTED) == "train"]
    if not finished:
        return
    jobs = sorted(map(outcome, finished), key=lambda job: (job.loss, job.directory.name))
    labels = distinguishing_labels(jobs)
    compare_curves({label: job.directory / METRICS for label, job in zip(labels, jobs, strict=True)}, folder / PICTURE)
    with written_whole(folder / SUMMARY) as file:
        file.write(report(folder.name, labels, jobs, unfinished).encode())


def outcome(directory: Path) -> Job:
    """What the job in this directory came to."""
    manifest = read_json(directory / MANIFEST)
    counts = manifest["counts"]
    last_tenth = counts["updates"] - math.ceil(counts["updates"] / 10)
    losses = [row["loss"] for row in read_rows(directory / METRICS) if row["update"] > last_tenth]
    identity = {key: manifest[key] for key in ("config", "inputs")}
    return Job(directory, identity, counts["loss"], sum(losses) / len(losses), counts["updates"], manifest["seconds"])


def distinguishing_labels(jobs: list[Job]) -> list[str]:
    """Each job by those keys alone in which not all are the same; by its directory where that is ambiguous."""
    flat = [
        dict(identity.leaves(job.identity["config"])) | dict(identity.leaves(job.identity["inputs"])) for job in jobs
    ]
    keys = dict.fromkeys(key for values in flat for key in values)
    telling = [key for key in keys if len({repr(values.get(key)) for values in flat}) > 1]
    labels = [", ".join(f"{key}={brief(values.get(key))}" for key in telling) for values in flat]
    return labels if len(set(labels)) == len(jobs) and all(labels) else [job.directory.name for job in jobs]


def report(name: str, labels: list[str], jobs: list[Job], unfinished: list[Path]) -> str:
    """The text of `sweep.md`: the jobs, the best first, and those that are not finished."""
    rows = [
        (code(label), f"{job.loss:.4f}", f"{job.mean_loss:.4f}", f"{job.updates}", f"{job.seconds:.1f}")
        for label, job in zip(labels, jobs, strict=True)
    ]
    parts = [
        f"# Sweep {code(name)}",
        "Losses in nats per token: of the last update, and the mean over the last tenth of the updates.",
        table(("job", "final loss", "mean of the last tenth", "updates", "seconds"), rows),
        f"![The loss of each job over the updates]({PICTURE})",
    ]
    if unfinished:
        parts += ["Not finished:", "\n".join(f"- {code(path.name)}" for path in unfinished)]
    return "\n\n".join(parts) + "\n"
