"""Finish a run: write a page to look at, print a table, write the manifest."""

import io
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from magicoder.config import GenerateConfig
from magicoder.reports.rows_page import write_report
from magicoder.runtime.console import say
from magicoder.storage.artifact import REJECTED, ROWS, Artifact
from magicoder.storage.files import read_rows
from magicoder.teacher.session import TeacherSession

PAGE = "report.html"
REASONS_SHOWN = 12


@dataclass(frozen=True)
class RunSummary:
    """The result of a run.

    counts: for the manifest. funnel: rows after each step. reasons: rejected rows by reason. extra: further facts for
    the manifest. unanswered: requests without an outcome; above 0 the run is not complete.
    """

    counts: dict[str, Any]
    funnel: list[tuple[str, int]]
    reasons: Counter[str] = field(default_factory=Counter)
    extra: dict[str, Any] = field(default_factory=dict)
    unanswered: int = 0


def finish_run(settings: GenerateConfig, artifact: Artifact, summary: RunSummary, session: TeacherSession) -> None:
    """Write the page, print the table, and write the manifest last."""
    usage = session.sum_usage()
    write_page(settings, artifact, summary, session)
    rendered = io.StringIO()  # rich itself exits on a closed pipe, past our own handling
    Console(file=rendered, highlight=False, width=Console().width).print(build_table(summary, usage))
    say(rendered.getvalue().removesuffix("\n"))
    say(f"generate: look at {artifact.path(PAGE)}")
    shapes = session.describe_shapes()
    artifact.finish([ROWS, REJECTED], summary.counts, usage=usage, request=shapes, **summary.extra)


def report_unfinished(
    settings: GenerateConfig, artifact: Artifact, summary: RunSummary, session: TeacherSession
) -> None:
    """Write the page of a run that ends before every request has an outcome. It gets no manifest."""
    write_page(settings, artifact, summary, session)
    say(
        f"generate: unfinished, {summary.unanswered} rows without an answer; the others are in "
        f"{artifact.path(ROWS)} and {artifact.path(PAGE)}"
    )


def write_page(settings: GenerateConfig, artifact: Artifact, summary: RunSummary, session: TeacherSession) -> None:
    """Write the page to look at."""
    usage, name = session.sum_usage(), artifact.directory.name
    unfinished = {"unfinished": f"{summary.unanswered:,} rows without an answer"} if summary.unanswered else {}
    write_report(
        artifact.path(PAGE),
        title=f"{name} (unfinished)" if unfinished else name,
        facts={**unfinished, **list_facts(settings, usage)},
        funnel=summary.funnel,
        kept=lambda: read_rows(artifact.path(ROWS), may_be_empty=True),
        rejected=lambda: read_rows(artifact.path(REJECTED), may_be_empty=True),
        tallies={"Finish reasons": session.count_finish_reasons()},
    )


def list_facts(settings: GenerateConfig, usage: dict[str, float]) -> dict[str, str]:
    """Return the facts at the top of the page."""
    facts = {
        "teacher": settings.teacher.model,
        "from": settings.data.generate.tag,
        "requests": f"{usage['requests']:,}",
        "prompt tokens": f"{usage['prompt_tokens']:,}",
        "answer tokens": f"{usage['completion_tokens']:,}",
    }
    return {**facts, "cost": f"${usage['dollars']:,.2f}"} if "dollars" in usage else facts


def build_table(summary: RunSummary, usage: dict[str, float]) -> Table:
    """Return the table of rows after each step, of reasons, tokens and cost."""
    table = Table(box=SIMPLE_HEAD, show_header=False)
    table.add_column(overflow="fold")
    table.add_column(justify="right", no_wrap=True)
    for step, count in summary.funnel:
        table.add_row(escape(step), f"{count:,}")
    for reason, count in summary.reasons.most_common(REASONS_SHOWN):
        table.add_row(f"  {escape(reason)}", f"-{count:,}")
    table.add_section()
    table.add_row("prompt and answer tokens", f"{usage['prompt_tokens']:,} + {usage['completion_tokens']:,}")
    if "dollars" in usage:
        table.add_row("dollars", f"{usage['dollars']:,.2f}")
    return table
