"""Keep a reasoning model's thoughts apart from its answer."""

import re
from bisect import bisect
from collections.abc import Mapping

FENCE = re.compile(r"^[ ]{0,3}(`{3,}|~{3,})", re.MULTILINE)
QUOTES = ("'", '"', "`")
LONGEST_LINE = 1000
"""Characters; a bound on the search around a tag, for lines without end."""


def split_thoughts(text: str, tags: Mapping[str, str]) -> tuple[str, str]:
    """Return the thoughts of an answer and the rest, both stripped if there are thoughts.

    tags: closing tag of each opening tag. A block of thoughts begins the answer; further ones may follow at the
    beginning of a line. A chat template may have put the first opening tag into the prompt: the answer then begins
    inside a block, whose closing tag begins or ends a line. Tags within code fences or quotes belong to the answer.

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
    found = list(re.finditer(f"{re.escape(opening)}|{re.escape(closing)}", text))
    outside = [tag for tag in found if bisect(fences, tag.start()) % 2 == 0 and not _is_quoted(text, tag)]
    unquoted = {tag.start() for tag in outside}
    if not outside or not _begins_thoughts(text, outside[0], closing):
        return text
    kept: list[str] = []
    position, start = 0, 0 if outside[0][0] == closing else None
    # A quoted closing tag ends a block only if no other one follows.
    last_unquoted = max((tag.start() for tag in found if tag[0] == closing and not _is_quoted(text, tag)), default=-1)
    for tag in found:
        if start is not None and tag[0] == closing:
            if not _is_quoted(text, tag) or tag.start() > last_unquoted:
                thoughts.append(text[start : tag.start()].strip())
                position, start = tag.end(), None
        elif start is None and _begins_block(text, tag, opening) and tag.start() in unquoted:
            kept.append(text[position : tag.start()])
            start = tag.end()
    if start is None:
        kept.append(text[position:])
    else:
        thoughts.append(text[start:].strip())
    return "".join(kept)


def _begins_thoughts(text: str, tag: re.Match[str], closing: str) -> bool:
    """Return whether the first tag of an answer belongs to thoughts at its beginning."""
    if tag[0] != closing:
        return not text[: tag.start()].strip()
    line_end = text.find("\n", tag.end())
    after = text[tag.end() : line_end if line_end >= 0 else len(text)].strip()
    return not after or after.startswith(("[", "#", "**")) or not _find_line_before(text, tag).strip()


def _begins_block(text: str, tag: re.Match[str], opening: str) -> bool:
    return tag[0] == opening and not _find_line_before(text, tag).strip()


def _is_quoted(text: str, tag: re.Match[str]) -> bool:
    """Return whether a tag is beside a quotation mark or inside a span of code."""
    around = (text[max(0, tag.start() - 1) : tag.start()], text[tag.end() : tag.end() + 1])
    return any(character in QUOTES for character in around) or _find_line_before(text, tag).count("`") % 2 == 1


def _find_line_before(text: str, tag: re.Match[str]) -> str:
    """Return the part of a tag's line before it, at most `LONGEST_LINE` characters."""
    return text[max(text.rfind("\n", 0, tag.start()) + 1, tag.start() - LONGEST_LINE) : tag.start()]
