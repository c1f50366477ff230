"""Write Markdown around texts of others."""

import re
from collections.abc import Iterable


def format_table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Return a Markdown table; the cells are Markdown themselves."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def quote_code(text: str) -> str:
    """Return a text of others as code on one line, for a list, a table's cell or a heading.

    A pipe would end a cell even between backticks, so every possible sign of Markdown or HTML becomes a number.
    """
    one_line = " ".join(text.split())
    quoted = re.sub(r"[^\w .,=+/:-]|(?<![^\W_])_|_(?![^\W_])", lambda sign: f"&#{ord(sign[0])};", one_line)
    return f"<code>{quoted}</code>"


def quote_block(language: str, text: str) -> str:
    """Return a code block, with fences longer than any in the text."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    end = "" if text.endswith("\n") else "\n"
    return f"{fence}{language}\n{text}{end}{fence}"
