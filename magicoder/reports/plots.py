"""Curves of training as PNG pictures."""

import math
import textwrap
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicoder.storage.files import read_rows, written_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 8.0  # inches
DOTS_PER_INCH = 150
MARGIN = 0.1  # inches
LEGEND_WIDTH = 100  # characters that fit into a line of the legend
LEGEND_KEY = 8  # as many characters would fit where the legend shows a line's color
LEGEND_LINE = 0.17  # inches
# Beyond this many points, they are a band in which single ones cannot be told apart: their mean is drawn over them.
FEW = 100


def loss_curve(metrics: Path, picture: Path) -> None:
    """Draw loss [nats per token] and learning rate over the updates that a `metrics.jsonl` notes, as a PNG.

    Errors: UserError if `metrics` is missing, empty or no JSON Lines; OSError if `picture` cannot be written.
    """
    updates, losses, learning_rates = read_columns(metrics, "update", "loss", "learning_rate")
    figure = blank(5.0)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    draw_loss(upper, updates, losses, color="tab:blue")
    lower.plot(updates, learning_rates, color="tab:gray", linewidth=1.2, marker=marker(updates))
    lower.set_ylabel("learning rate")
    lower.set_ylim(bottom=0)
    lower.yaxis.set_major_formatter("{x:g}")
    if len(updates) > FEW:
        upper.legend(frameon=False)
    for axes in (upper, lower):
        style(axes)
    lower.set_xlabel("update")
    save(figure, picture)


def compare_curves(curves: dict[str, Path], picture: Path) -> None:
    """Draw the losses [nats per token] of one or more runs, each a name with its `metrics.jsonl`, into one PNG.

    Errors: UserError if one of them is missing, empty or no JSON Lines; OSError if `picture` cannot be written.
    """
    from matplotlib import colormaps

    # Many runs share a color: then the kinds of line tell them apart.
    colors, kinds = colormaps["tab10"].colors, ("-", "--", ":", "-.")  # type: ignore[attr-defined]
    names = ["\n".join(textwrap.wrap(name, LEGEND_WIDTH, break_on_hyphens=False)) for name in curves]
    columns = max(1, LEGEND_WIDTH // (LEGEND_KEY + max(map(len, names))))
    legend_lines = math.ceil(sum(name.count("\n") + 1 for name in names) / columns)
    figure = blank(4.5 + LEGEND_LINE * legend_lines)
    axes = figure.subplots()
    lines = []
    for number, metrics in enumerate(curves.values()):
        updates, losses = read_columns(metrics, "update", "loss")
        color, kind = colors[number % len(colors)], kinds[number // len(colors) % len(kinds)]
        lines.append(draw_loss(axes, updates, losses, color=color, linestyle=kind))
    style(axes)
    axes.set_xlabel("update")
    legend = figure.legend(lines, names, loc="outside lower left", ncols=columns, fontsize=8, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)  # a "$" in a name is no formula
    save(figure, picture)


def blank(height: float) -> "Figure":
    """A figure so many inches high, in which everything finds its own room."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return Figure(figsize=(WIDTH, height), layout=ConstrainedLayoutEngine(w_pad=MARGIN, h_pad=MARGIN))


def read_columns(metrics: Path, *names: str) -> list[list[float]]:
    """A list for each named figure, with its value in every line of `metrics`."""
    rows = list(read_rows(metrics))
    return [[row[name] for row in rows] for name in names]


def draw_loss(axes: "Axes", updates: list[float], losses: list[float], **look: Any) -> Any:
    """Draw one run's losses; return the line that stands for the run in a legend."""
    axes.set_ylabel("loss [nats per token]")
    if len(updates) <= FEW:
        return axes.plot(updates, losses, linewidth=1.5, marker=marker(updates), **look)[0]
    window = len(updates) // 50
    axes.plot(updates, losses, linewidth=0.6, alpha=0.25, color=look["color"])
    name = f"mean of the last {window} points"
    return axes.plot(updates[window - 1 :], running_mean(losses, window), linewidth=1.5, label=name, **look)[0]


def running_mean(values: list[float], window: int) -> list[float]:
    """The mean of each `window` values that follow each other."""
    sums = [0.0, *accumulate(values)]
    return [(sums[end] - sums[end - window]) / window for end in range(window, len(sums))]


def marker(points: list[float]) -> str:
    """A dot at each of few points, so that a single one is seen; none on a long line."""
    return "." if len(points) <= FEW else ""


def style(axes: "Axes") -> None:
    """Whole updates, a light grid, and no frame where nothing is read off."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def save(figure: "Figure", picture: Path) -> None:
    """Write the figure as a PNG, whole."""
    with written_whole(picture) as file:
        figure.savefig(file, format="png", dpi=DOTS_PER_INCH)
