"""What became of each snippet: a generated row, or a rejected one with its reason and evidence."""

from typing import Any

from magicoder.data.answers import Exercise, judge
from magicoder.data.original import FormerRun
from magicoder.data.snippets import Snippet
from magicoder.data.verdicts import rejected

Row = dict[str, Any]


def derive(
    snippets: dict[int, Snippet], former: FormerRun, records: dict[int, Row], too_long: dict[int, int]
) -> tuple[list[Row], list[Row]]:
    """The kept and the rejected rows of a run, each in index order.

    records: index -> what the journal holds of it. too_long: index -> tokens of a prompt without room for an answer.
    """
    kept, dropped = [], []
    for index, snippet in sorted(snippets.items()):
        opening = {"raw_index": snippet.raw_index, "index": index, "seed": snippet.text}
        if index in former.rows:
            kept.append(former.rows[index])
        elif index <= former.last_index:
            dropped.append(rejected("dropped by the run that is continued", opening, former.file))
        elif index in too_long:
            dropped.append(rejected("prompt leaves no room for an answer", opening, f"{too_long[index]} tokens"))
        elif "refused" in records[index]:
            dropped.append(rejected("refused by the server", opening, records[index]["refused"]))
        else:
            row, is_kept = row_of(records[index]["answer"], opening)
            (kept if is_kept else dropped).append(row)
    return kept, dropped


def row_of(answer: Row, opening: Row) -> tuple[Row, bool]:
    """The row that a chat completion gives behind the keys of `opening`, and whether it is kept."""
    choice = answer["choices"][0]
    content = choice["message"].get("content")
    verdict = judge(content, choice.get("finish_reason"))
    if not isinstance(verdict, Exercise):
        return rejected(verdict, opening, content), False
    made = {"openai_fingerprint": answer.get("system_fingerprint")}
    return {**opening, **made, "problem": verdict.problem, "solution": verdict.solution}, True
