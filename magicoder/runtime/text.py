"""Clean texts that come from outside."""


def make_encodable(text: str) -> str:
    """Replace each lone surrogate by a question mark: JSON can hold it, UTF-8 and tokenizers cannot."""
    return text.encode("utf-8", errors="replace").decode()
