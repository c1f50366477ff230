"""Log the curves of a run: one line of `metrics.jsonl` an update, and Weights & Biases on request."""

import json
import os
from pathlib import Path
from typing import Any

from magicoder.config import TrackConfig
from magicoder.runtime.errors import UserError
from magicoder.storage.artifact import METRICS
from magicoder.storage.files import encode_row, write_rows


class Tracker:
    """Logs the metrics of one update after another."""

    def __init__(self, directory: Path, settings: TrackConfig, config: dict[str, Any], resume_after: int) -> None:
        """Continue after update `resume_after`: lines that a killed run logged beyond its last checkpoint are dropped.

        config: the resolved config, shown beside the curves. It has no secret: API keys are only named in it.
        """
        path = directory / METRICS
        truncate_metrics(path, resume_after)
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - stays open as long as the tracker
        self._run = _start_wandb(directory, settings, config) if settings.wandb else None

    def log(self, metrics: dict[str, Any]) -> None:
        """Log the metrics of one update, with its number as `update`."""
        self._file.write(encode_row(metrics))
        os.fsync(self._file.fileno())
        if self._run is not None:
            self._run.log(metrics)

    def show(self, samples: list[dict[str, Any]], plot: Path) -> None:
        """Add a table of the model's answers and the plot of its curve to W&B."""
        if self._run is not None:
            import wandb

            columns = list(samples[0]) if samples else []
            table = wandb.Table(columns=columns, data=[[row.get(column) for column in columns] for row in samples])
            self._run.log({"samples": table, "loss_curve": wandb.Image(str(plot))})

    def close(self) -> None:
        """End the run; the next job of a sweep starts its own."""
        self._file.close()
        if self._run is not None:
            self._run.finish()


def truncate_metrics(path: Path, update: int) -> None:
    """Keep only the lines of a metrics file up to `update`, without a torn last line."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    write_rows(path, (row for row in map(json.loads, lines) if row["update"] <= update))


def _start_wandb(directory: Path, settings: TrackConfig, config: dict[str, Any]) -> Any:
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
        raise UserError(f"track=wandb: {' '.join(str(error).split())[:200]}; or use track=file") from error
    run.define_metric("*", step_metric="update")
    return run
