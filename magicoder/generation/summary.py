"""What a finished run leaves: a page to look at, a table on the terminal, a manifest."""

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
from magicoder.storage.artifact import REJECTED, ROWS, Artifact
from magicoder.storage.files import read_rows
from magicoder.teacher.session import TeacherSession

PAGE = "report.html"
REASONS_SHOWN = 12


@dataclass(frozen=True)
class RunSummary:
    """What a run made. counts: for the manifest. reasons: rejected rows by reason. funnel: what each step left."""

    counts: dict[str, Any]
    funnel: list[tuple[str, int]]
    reasons: Counter[str] = field(default_factory=Counter)
    extra: dict[str, Any] = field(default_factory=dict)


def finish(settings: GenerateConfig, artifact: Artifact, made: RunSummary, session: TeacherSession) -> None:
    """Write the page and, last, the manifest; show the table."""
    usage = session.usage()
    write_report(
        artifact.path(PAGE),
        title=artifact.directory.name,
        facts=facts(settings, usage),
        funnel=made.funnel,
        kept=lambda: read_rows(artifact.path(ROWS), may_be_empty=True),
        rejected=lambda: read_rows(artifact.path(REJECTED), may_be_empty=True),
        tallies={"Finish reasons": session.finish_reasons()},
    )
    artifact.finish([ROWS, REJECTED], made.counts, usage=usage, **made.extra)
    drawn = io.StringIO()  # for on a closed pipe rich ends the program in a way of its own
    Console(file=drawn, highlight=False, width=Console().width).print(table(made, usage))
    print(drawn.getvalue(), end="")
    print(f"generate: look at {artifact.path(PAGE)}")


def facts(settings: GenerateConfig, usage: dict[str, float]) -> dict[str, str]:
    """What stands on top of the page."""
    told = {
        "teacher": settings.teacher.model,
        "from": settings.data.generate.tag,
        "requests": f"{usage['requests']:,}",
        "tokens of prompts": f"{usage['prompt_tokens']:,}",
        "tokens of answers": f"{usage['completion_tokens']:,}",
    }
    return {**told, "cost": f"${usage['dollars']:,.2f}"} if "dollars" in usage else told


def table(made: RunSummary, usage: dict[str, float]) -> Table:
    """How many were left after each step, why the others were not, and what it took."""
    summary = Table(box=SIMPLE_HEAD, show_header=False)
    summary.add_column(overflow="fold")
    summary.add_column(justify="right", no_wrap=True)
    for step, count in made.funnel:
        summary.add_row(escape(step), f"{count:,}")
    for reason, count in made.reasons.most_common(REASONS_SHOWN):
        summary.add_row(f"  {escape(reason)}", f"-{count:,}")
    summary.add_section()
    summary.add_row("tokens of prompts and answers", f"{usage['prompt_tokens']:,} + {usage['completion_tokens']:,}")
    if "dollars" in usage:
        summary.add_row("dollars", f"{usage['dollars']:,.2f}")
    return summary
