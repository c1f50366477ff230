"""Plot the curves of trainings as PNG files."""

import math
import textwrap
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicoder.storage.files import read_rows, write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 8.0  # inches
DOTS_PER_INCH = 150
MARGIN = 0.1  # inches
LEGEND_WIDTH = 100  # characters of a line of the legend
LEGEND_KEY = 8  # width of a line sample in the legend, in characters
LEGEND_LINE = 0.17  # inches
# More points than this form a band: their running mean is drawn over them.
MAX_SEPARATE_POINTS = 100


def plot_loss(metrics: Path, plot: Path) -> None:
    """Plot loss [nats per token] and learning rate over the updates in a `metrics.jsonl`, as a PNG.

    Errors: UserError if `metrics` is missing, empty or not JSON Lines; OSError if `plot` cannot be written.
    """
    updates, losses, learning_rates = read_columns(metrics, "update", "loss", "learning_rate")
    figure = make_figure(5.0)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    draw_loss(upper, updates, losses, color="tab:blue")
    lower.plot(updates, learning_rates, color="tab:gray", linewidth=1.2, marker=choose_marker(updates))
    lower.set_ylabel("learning rate")
    lower.set_ylim(bottom=0)
    lower.yaxis.set_major_formatter("{x:g}")
    if len(updates) > MAX_SEPARATE_POINTS:
        upper.legend(frameon=False)
    for axes in (upper, lower):
        apply_style(axes)
    lower.set_xlabel("update")
    save_figure(figure, plot)


def compare_curves(curves: dict[str, Path], plot: Path) -> None:
    """Plot the losses [nats per token] of one or more runs, name -> `metrics.jsonl`, into one PNG.

    Errors: UserError if one of them is missing, empty or not JSON Lines; OSError if `plot` cannot be written.
    """
    from matplotlib import colormaps

    # More runs than colors: line styles distinguish those of one color.
    colors, kinds = colormaps["tab10"].colors, ("-", "--", ":", "-.")  # type: ignore[attr-defined]
    names = ["\n".join(textwrap.wrap(name, LEGEND_WIDTH, break_on_hyphens=False)) for name in curves]
    columns = max(1, LEGEND_WIDTH // (LEGEND_KEY + max(map(len, names))))
    legend_lines = math.ceil(sum(name.count("\n") + 1 for name in names) / columns)
    figure = make_figure(4.5 + LEGEND_LINE * legend_lines)
    axes = figure.subplots()
    lines = []
    for number, metrics in enumerate(curves.values()):
        updates, losses = read_columns(metrics, "update", "loss")
        color, kind = colors[number % len(colors)], kinds[number // len(colors) % len(kinds)]
        lines.append(draw_loss(axes, updates, losses, color=color, linestyle=kind))
    apply_style(axes)
    axes.set_xlabel("update")
    legend = figure.legend(lines, names, loc="outside lower left", ncols=columns, fontsize=8, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)  # a "$" in a name does not begin a formula
    save_figure(figure, plot)


def make_figure(height: float) -> "Figure":
    """Return a figure of this height in inches, with automatic layout."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return Figure(figsize=(WIDTH, height), layout=ConstrainedLayoutEngine(w_pad=MARGIN, h_pad=MARGIN))


def read_columns(metrics: Path, *names: str) -> list[list[float]]:
    """Return a list for each name, with its value in every line of `metrics`."""
    rows = list(read_rows(metrics))
    return [[row[name] for row in rows] for name in names]


def draw_loss(axes: "Axes", updates: list[float], losses: list[float], **look: Any) -> Any:
    """Draw one run's losses; return its line for a legend."""
    axes.set_ylabel("loss [nats per token]")
    if len(updates) <= MAX_SEPARATE_POINTS:
        return axes.plot(updates, losses, linewidth=1.5, marker=choose_marker(updates), **look)[0]
    window = len(updates) // 50
    axes.plot(updates, losses, linewidth=0.6, alpha=0.25, color=look["color"])
    name = f"mean of the last {window} points"
    return axes.plot(updates[window - 1 :], compute_running_mean(losses, window), linewidth=1.5, label=name, **look)[0]


def compute_running_mean(values: list[float], window: int) -> list[float]:
    """Return the mean of each `window` consecutive values."""
    sums = [0.0, *accumulate(values)]
    return [(sums[end] - sums[end - window]) / window for end in range(window, len(sums))]


def choose_marker(points: list[float]) -> str:
    """Return a dot for few points, so that a single one is visible; none for a long line."""
    return "." if len(points) <= MAX_SEPARATE_POINTS else ""


def apply_style(axes: "Axes") -> None:
    """Show integer updates, a light grid, and no frame without a scale."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def save_figure(figure: "Figure", plot: Path) -> None:
    """Write the figure as a PNG, atomically."""
    with write_whole(plot) as file:
        figure.savefig(file, format="png", dpi=DOTS_PER_INCH)
