"""Turn rows of each known format into instruction and response.

`FORMATS` is the registry. Adding a format is one function and its line in the dictionary.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from magicoder.storage.rejected import Rejection

Row = dict[str, Any]
AUTO = "auto"
"""The value of `data.preprocess.key` that recognizes the format by its columns."""


@dataclass(frozen=True)
class RowFormat:
    """One format of rows.

    columns: those that must be text. convert: from a row and the template to the pair, or why there is none. optional:
    columns that may be missing or null. nested: columns that must be there, and whose content `convert` judges.
    recognized: its columns identify it; not so if another format reads the same rows and more.
    """

    columns: tuple[str, ...]
    convert: Callable[[Row, str], Row | Rejection]
    optional: tuple[str, ...] = ()
    nested: tuple[str, ...] = ()
    recognized: bool = True


def convert_src_instruct(row: Row, template: str) -> Row:
    """Insert the problem into the template as instruction; the solution is the response. Other keys stay."""
    kept = {key: value for key, value in row.items() if key not in ("problem", "solution")}
    return {**kept, "instruction": template.replace("{problem}", row["problem"]), "response": row["solution"]}


def convert_evol_instruct(row: Row, _template: str) -> Row:
    """Take the output as response."""
    return {"instruction": row["instruction"], "response": row["output"]}


def convert_codealpaca(row: Row, _template: str) -> Row:
    """Append an input that is not blank to the instruction; take the output as response. An input may be missing."""
    return {"instruction": append_input(row), "response": row["output"]}


def convert_pair(row: Row, _template: str) -> Row:
    """Append an input as in CodeAlpaca; keep the response."""
    return {"instruction": append_input(row), "response": row["response"]}


def convert_combine(row: Row, _template: str) -> Row:
    """Keep instruction and response alone."""
    return {"instruction": row["instruction"], "response": row["response"]}


def append_input(row: Row) -> str:
    """Return the instruction with the input, unless that is blank, null or missing."""
    text = row.get("input") or ""
    return row["instruction"] + (f"\nInput: {text}" if text.strip() else "")


def convert_messages(row: Row, _template: str) -> Row | Rejection:
    """Take the first exchange of `messages`."""
    return convert_conversation(row["messages"])


def convert_sharegpt(row: Row, _template: str) -> Row | Rejection:
    """Take the first exchange of `conversations`."""
    return convert_conversation(row["conversations"])


ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bard": "assistant",
    "bing": "assistant",
    "model": "assistant",
}
"""Name of a speaker -> its role."""


def convert_conversation(turns: Any) -> Row | Rejection:
    """Return the first exchange of a conversation: what the user says before the first answer, and that answer.

    turns: a list with `role` and `content`, or `from` and `value`; or such a list as JSON text, the form in CSV. A
    system message goes in front of the instruction. Later exchanges build on earlier ones, so they are no pairs of
    their own.
    """
    system: list[str] = []
    asked: list[str] = []
    for role, text in _read_turns(turns):
        if role == "system" and not asked:
            system += [text] if text and text.strip() else []
        elif text is None:
            return Rejection("no exchange", f"the text of a turn ({role}) is no text")
        elif role == "user":
            asked.append(text)
        elif role == "assistant" and not asked:
            continue  # a greeting
        elif role == "assistant" and "".join(asked).strip() and text.strip():
            return {"instruction": "\n\n".join([*system, *asked]), "response": text}
        else:
            break
    return Rejection("no exchange", "has no user message with an assistant's answer to it")


def _read_turns(turns: Any) -> list[tuple[str, str | None]]:
    """Return role and text of each turn; None for a text that is no text."""
    if isinstance(turns, str):
        try:
            turns = json.loads(turns)
        except (ValueError, RecursionError):
            return []
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        return []
    return [_read_turn(turn) for turn in turns]


def _read_turn(turn: Row) -> tuple[str, str | None]:
    name = turn.get("role") or turn.get("from")
    content = turn.get("content") if turn.get("content") is not None else turn.get("value")
    role = ROLES.get(name.lower(), name) if isinstance(name, str) else "of nobody"
    return role, _join_parts(content)


def _join_parts(content: Any) -> str | None:
    """Return the text of a content: a text, or a list of text parts. None if it holds anything else."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    parts = [part.get("text") if isinstance(part, dict) else part for part in content]
    texts = [part for part in parts if isinstance(part, str)]
    return "".join(texts) if texts and len(texts) == len(parts) else None


FORMATS: dict[str, RowFormat] = {
    "src-instruct": RowFormat(("problem", "solution"), convert_src_instruct),
    "evol-instruct": RowFormat(("instruction", "output"), convert_evol_instruct, recognized=False),
    "codealpaca": RowFormat(("instruction", "output"), convert_codealpaca, optional=("input",)),
    "pair": RowFormat(("instruction", "response"), convert_pair, optional=("input",)),
    "messages": RowFormat((), convert_messages, nested=("messages",)),
    "sharegpt": RowFormat((), convert_sharegpt, nested=("conversations",)),
    "combine": RowFormat(("instruction", "response"), convert_combine, recognized=False),
}
"""The values of `data.preprocess.key`, beside `auto`."""


def recognize_formats(columns: set[str]) -> list[str]:
    """Return the names of the formats that rows with these columns may have."""
    return [
        name for name, each in FORMATS.items() if each.recognized and columns.issuperset((*each.columns, *each.nested))
    ]


def describe_formats() -> str:
    """Return each recognized format with its columns, in one line."""
    known = ((name, (*each.columns, *each.nested)) for name, each in FORMATS.items() if each.recognized)
    return "; ".join(f"{name} ({', '.join(columns)})" for name, columns in known)
