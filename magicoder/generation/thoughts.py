"""Keep a reasoning model's thoughts apart from its answer."""

import re
from bisect import bisect
from collections.abc import Mapping

FENCE = re.compile(r"^[ ]{0,3}(`{3,}|~{3,})", re.MULTILINE)
QUOTES = ("'", '"', "`")


def split_thoughts(text: str, tags: Mapping[str, str]) -> tuple[str, str]:
    """Return the thoughts of an answer and the rest, both stripped if there are thoughts.

    tags: closing tag of each opening tag. A block of thoughts begins where an opening tag begins a line. A chat
    template may have put the first opening tag into the prompt: the answer then begins inside a block. Tags within code
    fences or quotes belong to the answer.

    Example:
        >>> split_thoughts("<think>Lists?</think>\\nAdd two lists.", {"<think>": "</think>"})
        ('Lists?', 'Add two lists.')
    """
    thoughts: list[str] = []
    for opening, closing in tags.items():
        if opening in text or closing in text:
            text = _cut_blocks(text, opening, closing, thoughts)
    return ("\n\n".join(filter(None, thoughts)), text.strip()) if thoughts else ("", text)


def _cut_blocks(text: str, opening: str, closing: str, thoughts: list[str]) -> str:
    """Move every block of thoughts from the text to `thoughts`; one that is not closed extends to the end."""
    fences = [found.start() for found in FENCE.finditer(text)]
    kept: list[str] = []
    position, start, is_first = 0, None, True
    for found in re.finditer(f"{re.escape(opening)}|{re.escape(closing)}", text):
        is_closing = found[0] == closing
        if start is not None:
            if is_closing:
                thoughts.append(text[start : found.start()].strip())
                position, start = found.end(), None
        elif not _is_quoted(text, found, fences):
            if is_closing and is_first:
                thoughts.append(text[: found.start()].strip())
                position = found.end()
            elif not is_closing and not text[text.rfind("\n", 0, found.start()) + 1 : found.start()].strip():
                kept.append(text[position : found.start()])
                start = found.end()
            is_first = False
    if start is None:
        kept.append(text[position:])
    else:
        thoughts.append(text[start:].strip())
    return "".join(kept)


def _is_quoted(text: str, found: re.Match[str], fences: list[int]) -> bool:
    """Return whether a tag is inside a code fence or beside a quotation mark."""
    around = (text[max(0, found.start() - 1) : found.start()], text[found.end() : found.end() + 1])
    return bisect(fences, found.start()) % 2 == 1 or any(character in QUOTES for character in around)
