"""Curves as pictures: what is drawn of few and many updates, and under which names."""

from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from PIL import Image

from magicoder.reports import plots
from magicoder.reports.plots import compare_curves, plot_loss
from magicoder.runtime.errors import UserError
from tests.support import write_jsonl


def metrics(path: Path, updates: int) -> Path:
    rows = [{"update": n, "loss": 1 / n, "learning_rate": 5e-5 * (1 - n / updates)} for n in range(1, updates + 1)]
    return write_jsonl(path, rows)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Every figure that is saved, to look into."""
    figures: list[Figure] = []
    save = plots.save_figure

    def noting(figure: Figure, picture: Path) -> None:
        figures.append(figure)
        save(figure, picture)

    monkeypatch.setattr(plots, "save_figure", noting)
    return figures


def curve(line: Any) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in line.get_xydata()]


@pytest.mark.parametrize("updates", [1, 2, 100, 10_000])
def test_loss_plot_is_a_png_of_every_update_and_learning_rate(
    updates: int, tmp_path: Path, drawn: list[Figure]
) -> None:
    plot_loss(metrics(tmp_path / "metrics.jsonl", updates), tmp_path / "loss_curve.png")
    with Image.open(tmp_path / "loss_curve.png") as image:
        assert image.format == "PNG"
    upper, lower = drawn[0].axes
    assert upper.get_ylabel() == "loss [nats per token]"
    assert (lower.get_xlabel(), lower.get_ylabel()) == ("update", "learning rate")
    assert curve(upper.lines[0]) == [(n, 1 / n) for n in range(1, updates + 1)]
    assert curve(lower.lines[0]) == [(n, 5e-5 * (1 - n / updates)) for n in range(1, updates + 1)]
    assert all(tick == int(tick) for tick in lower.get_xticks())


def test_a_single_update_is_a_dot_that_is_seen(tmp_path: Path, drawn: list[Figure]) -> None:
    plot_loss(metrics(tmp_path / "metrics.jsonl", 1), tmp_path / "loss_curve.png")
    assert {line.get_marker() for axes in drawn[0].axes for line in axes.lines} == {"."}


def test_many_updates_have_their_running_mean_over_them(tmp_path: Path, drawn: list[Figure]) -> None:
    plot_loss(metrics(tmp_path / "metrics.jsonl", 200), tmp_path / "loss_curve.png")
    upper = drawn[0].axes[0]
    expected = [(n, (1 / n + 1 / (n - 1) + 1 / (n - 2) + 1 / (n - 3)) / 4) for n in range(4, 201)]
    assert curve(upper.lines[1]) == [(n, pytest.approx(mean)) for n, mean in expected]
    assert [text.get_text() for text in upper.get_legend().get_texts()] == ["mean of the last 4 points"]


NAMES = ["train.learning_rate=1e-05", "_hidden", "$x_1$", "50% {x} \\alpha", "a\nb", "x" * 255]


def test_runs_are_compared_under_their_whole_names(tmp_path: Path, drawn: list[Figure]) -> None:
    curves = {name: metrics(tmp_path / f"{n}.jsonl", 10 * (n + 1)) for n, name in enumerate(NAMES)}
    compare_curves(curves, tmp_path / "sweep.png")
    (axes,), (legend,) = drawn[0].axes, drawn[0].legends
    assert [len(line.get_xydata()) for line in axes.lines] == [10, 20, 30, 40, 50, 60]
    shown = [text.get_text() for text in legend.get_texts()]
    assert shown[:5] == [*NAMES[:4], "a b"]
    assert shown[5].replace("\n", "") == NAMES[5]
    colors = [line.get_color() for line in axes.lines]
    assert [line.get_color() for line in legend.get_lines()] == colors
    assert len(set(colors)) == len(NAMES)


@pytest.mark.parametrize("names", [NAMES, [f"train.seed={number}" for number in range(40)]])
def test_the_names_stand_inside_the_picture_and_off_the_curves(
    names: list[str], tmp_path: Path, drawn: list[Figure]
) -> None:
    curves = dict.fromkeys(names, metrics(tmp_path / "metrics.jsonl", 300))
    compare_curves(curves, tmp_path / "sweep.png")
    (axes,), (legend,) = drawn[0].axes, drawn[0].legends
    box, plot = legend.get_window_extent(), axes.get_window_extent()
    assert box.x0 >= 0 <= box.y0
    assert box.x1 <= drawn[0].bbox.x1
    assert box.y1 < plot.y0
    assert plot.height > drawn[0].dpi * 3


def test_many_runs_are_told_apart_by_color_and_kind_of_line(tmp_path: Path, drawn: list[Figure]) -> None:
    path = metrics(tmp_path / "metrics.jsonl", 5)
    compare_curves({f"train.seed={number}": path for number in range(40)}, tmp_path / "sweep.png")
    looks = {(line.get_color(), line.get_linestyle()) for line in drawn[0].axes[0].lines}
    assert len(looks) == 40


def test_the_same_metrics_give_the_same_picture(tmp_path: Path) -> None:
    path = metrics(tmp_path / "metrics.jsonl", 30)
    for name in ("one.png", "two.png"):
        compare_curves({"run": path}, tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_without_metrics_the_picture_that_was_there_stays(tmp_path: Path) -> None:
    (tmp_path / "loss_curve.png").write_bytes(b"former")
    with pytest.raises(UserError, match=r"metrics\.jsonl"):
        plot_loss(tmp_path / "metrics.jsonl", tmp_path / "loss_curve.png")
    assert [path.name for path in tmp_path.iterdir()] == ["loss_curve.png"]
    assert (tmp_path / "loss_curve.png").read_bytes() == b"former"
