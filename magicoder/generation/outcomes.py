"""Turn each snippet's record into a generated row or a rejection."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from magicoder.generation.former_run import FormerRun
from magicoder.generation.parsing import PARSERS, Exercise, parse_exercise
from magicoder.generation.thoughts import split_thoughts
from magicoder.seeds.snippets import Snippet
from magicoder.storage.rejected import Rejection
from magicoder.teacher.completions import Message
from magicoder.teacher.errors import TOO_LARGE_FOR_ACCOUNT
from magicoder.teacher.records import Answered, PromptTooLong, Record, Refused, Unanswered

Row = dict[str, Any]
HOLDS_SECRET = "holds_secret"
"""Our code for a snippet that is not sent."""
REASONS_BY_CODE = {
    "context_length_exceeded": "longer than the context of the model",
    "content_filter": "refused by the server's content filter",
    "content_policy_violation": "refused by the server's content filter",
    TOO_LARGE_FOR_ACCOUNT: "larger than the limit of the account",
    HOLDS_SECRET: "holds a secret",
}
"""Reasons for the codes of servers that refuse single requests."""


def read_exercise(record: Record, parser: str, tags: Mapping[str, str]) -> Exercise | Rejection:
    """Return the exercise of a record, or the rejection with its evidence.

    parser: a key of `PARSERS`. tags: those around the teacher's thoughts.
    """
    if not isinstance(record, Answered):
        return reject_without_answer(record)
    outcome = parse_exercise(read_words(record, tags).text, record.end, PARSERS[parser])
    if isinstance(outcome, Rejection):
        return dataclasses.replace(outcome, evidence=record.content)
    return outcome


def read_words(record: Answered, tags: Mapping[str, str]) -> Message:
    """Return the words of an answer without the thoughts, which are its reasoning."""
    message = record.message
    if message.text is None:
        return message
    thoughts, text = split_thoughts(message.text, tags)
    return Message(text, "\n\n".join(filter(None, (message.reasoning, thoughts))))


def reject_without_answer(record: Refused | Unanswered | PromptTooLong) -> Rejection:
    """Return the rejection for a row that has no answer. Evidence: the server's message, or the prompt's tokens."""
    match record:
        case PromptTooLong():
            return Rejection("prompt leaves no room for an answer", f"{record.prompt_tokens} tokens")
        case Unanswered():
            return Rejection("no answer from the server", record.message)
        case Refused():
            reason = REASONS_BY_CODE.get(record.code or "", "refused by the server")
            return Rejection(reason, record.message)


def make_row(
    index: int, snippet: Snippet, record: Record, outcome: Exercise | Rejection, tags: Mapping[str, str]
) -> Row:
    """Build the line of `rows.jsonl`, or of `rejected.jsonl` for a rejection. tags: as for `read_exercise`."""
    keys, provenance = make_keys(index, snippet), make_provenance(snippet)
    if isinstance(outcome, Rejection):
        return outcome.as_row(keys) | provenance
    assert isinstance(record, Answered), "only an answer holds an exercise"
    fingerprint = {"openai_fingerprint": record.answer.get("system_fingerprint")}
    reasoning = read_words(record, tags).reasoning
    thoughts = {"reasoning": reasoning} if reasoning else {}
    return {**keys, **fingerprint, "problem": outcome.problem, "solution": outcome.solution, **thoughts, **provenance}


def find_former_row(index: int, snippet: Snippet, former: FormerRun) -> tuple[Row, bool] | None:
    """Return the row of the continued run and whether it is kept; None for a snippet that the run did not reach."""
    if index in former.rows:
        return former.rows[index], True
    if index <= former.last_index:
        dropped = Rejection("dropped by the run that is continued", former.file)
        return dropped.as_row(make_keys(index, snippet)), False
    return None


def make_keys(index: int, snippet: Snippet) -> Row:
    """Return the keys that every row begins with."""
    return {"raw_index": snippet.raw_index, "index": index, "seed": snippet.text}


def make_provenance(snippet: Snippet) -> Row:
    """Return the keys that follow the documented ones: the snippet's language where a run has several, its origin."""
    if snippet.provenance is None:
        return {}
    language = snippet.provenance.get("lang")
    return {**({"lang": language} if isinstance(language, str) else {}), "provenance": snippet.provenance}
