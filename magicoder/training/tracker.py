"""The curves of a run: a line of `metrics.jsonl` for each point, and Weights & Biases where it is asked for."""

import json
import os
from pathlib import Path
from typing import Any

from magicoder.config import TrackConfig
from magicoder.runtime.errors import UserError
from magicoder.storage.artifact import METRICS
from magicoder.storage.files import json_line, write_rows


class Tracker:
    """Takes one set of figures after another."""

    def __init__(self, directory: Path, settings: TrackConfig, config: dict[str, Any], resume_after: int) -> None:
        """Go on after update `resume_after`: what a killed run had noted beyond its last checkpoint is dropped.

        config: the resolved config, shown beside the curves. It holds no secret: keys are named, never held.
        """
        path = directory / METRICS
        keep_until(path, resume_after)
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - open for as long as the tracker is
        self._run = _wandb_run(directory, settings, config) if settings.wandb else None

    def log(self, figures: dict[str, Any]) -> None:
        """Note the figures of one update, among them its number as `update`."""
        self._file.write(json_line(figures))
        os.fsync(self._file.fileno())
        if self._run is not None:
            self._run.log(figures)

    def show(self, samples: list[dict[str, Any]], picture: Path) -> None:
        """Put a table of a model's answers and the picture of its curve beside the figures in W&B."""
        if self._run is not None:
            import wandb

            columns = list(samples[0]) if samples else []
            table = wandb.Table(columns=columns, data=[[row.get(column) for column in columns] for row in samples])
            self._run.log({"samples": table, "loss_curve": wandb.Image(str(picture))})

    def close(self) -> None:
        """End the run; a sweep's next job has one of its own."""
        self._file.close()
        if self._run is not None:
            self._run.finish()


def keep_until(path: Path, update: int) -> None:
    """Leave in a metrics file only the lines up to `update`, without a torn last line."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    write_rows(path, (row for row in map(json.loads, lines) if row["update"] <= update))


def _wandb_run(directory: Path, settings: TrackConfig, config: dict[str, Any]) -> Any:
    import wandb

    try:
        run = wandb.init(
            project=settings.project,
            group=settings.group,
            name=directory.name,
            dir=directory,
            config=config,
            mode=None if "WANDB_MODE" in os.environ else "online" if os.environ.get("WANDB_API_KEY") else "offline",
            settings=wandb.Settings(silent=True, console="off"),
        )
    except wandb.Error as error:
        raise UserError(f"track=wandb: {' '.join(str(error).split())[:200]}; track=file does without") from error
    run.define_metric("*", step_metric="update")
    return run
