"""What became of each snippet: a generated row, or a rejected one with its reason and evidence."""

from typing import Any

from magicoder.generation.former_run import FormerRun
from magicoder.generation.parsing import PARSERS, Exercise, judge
from magicoder.seeds.snippets import Snippet
from magicoder.storage.rejected import rejected

Row = dict[str, Any]
REASONS_OF_CODES = {
    "context_length_exceeded": "longer than the context of the model",
    "content_filter": "refused by the server's content filter",
    "content_policy_violation": "refused by the server's content filter",
}
"""What servers call their refusals of single requests."""


def former_outcome(index: int, snippet: Snippet, former: FormerRun) -> tuple[Row, bool] | None:
    """The row of the run that is continued, and whether it is kept; None for a snippet that it did not get to."""
    if index in former.rows:
        return former.rows[index], True
    if index <= former.last_index:
        return rejected("dropped by the run that is continued", opening(index, snippet), former.file), False
    return None


def outcome(index: int, snippet: Snippet, record: Row, parser: str) -> tuple[Row, bool]:
    """The row that a record of the journal gives, and whether it is kept. parser: `strict` or `tolerant`."""
    keys = opening(index, snippet)
    reason = reason_of(record, parser)
    if reason is not None:
        return rejected(reason, keys, evidence(record)) | provenance(snippet), False
    choice, answer = record["answer"]["choices"][0], record["answer"]
    exercise = judge(choice["message"]["content"], choice["finish_reason"], PARSERS[parser])
    assert isinstance(exercise, Exercise), "for there is no reason against it"
    made = {"openai_fingerprint": answer.get("system_fingerprint")}
    return {
        **keys,
        **made,
        "problem": exercise.problem,
        "solution": exercise.solution,
        **provenance(snippet),
    }, True


def reason_of(record: Row, parser: str) -> str | None:
    """Why a record gives no row; None if it gives one."""
    if "no_room" in record:
        return "prompt leaves no room for an answer"
    if "unanswered" in record:
        return "no answer from the server"
    if "refused" in record:
        return REASONS_OF_CODES.get(record["code"], "refused by the server")
    choice = record["answer"]["choices"][0]
    verdict = judge(choice["message"].get("content"), choice.get("finish_reason"), PARSERS[parser])
    return verdict if isinstance(verdict, str) else None


def evidence(record: Row) -> Any:
    """What shows that the reason holds: the answer, the server's words, or the tokens of the prompt."""
    if "no_room" in record:
        return f"{record['no_room']} tokens"
    if "answer" not in record:
        return record["unanswered" if "unanswered" in record else "refused"]
    return record["answer"]["choices"][0]["message"].get("content")


def opening(index: int, snippet: Snippet) -> Row:
    """The keys that every row begins with."""
    return {"raw_index": snippet.raw_index, "index": index, "seed": snippet.text}


def provenance(snippet: Snippet) -> Row:
    """Where the snippet was found, behind the documented keys, if that is known."""
    return {} if snippet.provenance is None else {"provenance": snippet.provenance}
