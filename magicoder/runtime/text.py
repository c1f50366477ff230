"""Texts that came from outside."""


def encodable(text: str) -> str:
    """The text with a question mark for each lone surrogate, which JSON can carry and UTF-8 and tokenizers cannot."""
    return text.encode("utf-8", errors="replace").decode()
