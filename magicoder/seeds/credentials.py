"""Find credentials in a snippet before it is sent to a teacher: keys, tokens, passwords.

The formats are those of Yelp's detect-secrets and a few younger ones. Its detectors of high entropy are left out: they
take hashes and tables for secrets.
"""

import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

DETECTORS = (
    *("artifactory", "aws", "azure_storage_key", "basic_auth", "cloudant", "discord", "github_token", "gitlab_token"),
    *("ibm_cloud_iam", "ibm_cos_hmac", "jwt", "mailchimp", "npm", "openai", "private_key", "pypi_token", "sendgrid"),
    *("slack", "softlayer", "square_oauth", "stripe", "telegram_token", "twilio"),
)
"""Modules of `detect_secrets.plugins` with a detector of one format each."""

FORMATS = {
    "Anthropic Token": re.compile(r"\bsk-ant-[\w-]{20,}"),
    "OpenAI Token": re.compile(r"\bsk-(?:(?:proj|svcacct|admin)-[\w-]{20,}|[A-Za-z0-9]{32,})"),
    "Google API Key": re.compile(r"\bAIza[\w-]{35}"),
    "Hugging Face Token": re.compile(r"\bhf_[A-Za-z0-9]{30,}"),
    "GitHub Token": re.compile(r"\bgithub_pat_\w{22,}"),
    "NPM Token": re.compile(r"\bnpm_[A-Za-z0-9]{36}"),
}
"""Formats that detect-secrets 1.5.0 does not know."""

LITERALS = {
    "Bearer Token": re.compile(r"\bBearer +([\w.~+/-]{20,}=*)"),
    "Token": re.compile(r"token\w{0,20}['\"]?\]? *[:=]=? *['\"]([\w.~+/-]{20,}=*)['\"]", re.IGNORECASE),
    # An annotated name of Python, TypeScript or Rust.
    "Secret Keyword": re.compile(
        r"(?:passw(?:or)?d|secret|(?:api|auth|access|private)_?key)\w{0,20} *: *[\w.&'\[\]| ]{1,40}= *"
        r"['\"]([^'\"\s]+)['\"]",
        re.IGNORECASE,
    ),
    "Secret of a Shell": re.compile(
        r"^[\w \t]*(?:PASSWORD|PASSWD|SECRET|TOKEN|API_?KEY)[A-Z_]*=([^\s'\"$`(){}<>;&|,]{8,})$", re.MULTILINE
    ),
}
"""Words before a literal that detect-secrets does not know; only a value like a secret counts."""

PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY.{0,20000}?-----END [A-Z0-9 ]{0,40}PRIVATE KEY", re.DOTALL
)
"""A whole key: a snippet from its middle shows neither beginning nor end."""

KEYWORD = re.compile(r"pass|pwd|secret|key|contrase", re.IGNORECASE)
"""Without one of these the keyword detector, which costs most, finds nothing."""

TEMPLATE = re.compile(r"[{}<>%$\s]|\*\*|\.\.\.")
"""Marks of a text that a secret is put into, or left out of."""


LONGEST_LINE, OVERLAP = 1000, 250
"""Some patterns take a time that grows with the square of a line's length."""


@dataclass(frozen=True)
class Credential:
    """A secret of a text, by its kind and its place; the secret itself is kept nowhere."""

    kind: str
    position: int


def find_credential(document: str, span: slice) -> Credential | None:
    """Return the first credential that the span of a document shows, with its position in the document, else None."""
    text = document[span]
    for kind, secret in _scan(_fold_lines(text)):
        return Credential(kind, span.start + max(text.find(secret), 0))
    if "PRIVATE KEY" in document:
        for key in PRIVATE_KEY.finditer(document):
            if key.start() < span.stop and span.start < key.end():
                return Credential("Private Key", max(key.start(), span.start))
    return None


def _fold_lines(text: str) -> str:
    """Cut lines of more than `LONGEST_LINE` characters into pieces that overlap."""
    lines = text.split("\n")
    if max(map(len, lines)) <= LONGEST_LINE:
        return text
    step = LONGEST_LINE - OVERLAP
    return "\n".join(line[start : start + LONGEST_LINE] for line in lines for start in range(0, len(line) or 1, step))


def _scan(text: str) -> Iterator[tuple[str, str]]:
    """Yield the kind and the text of each secret."""
    detectors, keywords = _load_detectors()
    for detector in detectors:
        for secret in detector.analyze_string(text):
            if detector.secret_type != "Basic Auth Credentials" or not TEMPLATE.search(secret):
                yield detector.secret_type, secret
    for kind, pattern in FORMATS.items():
        yield from ((kind, found) for found in pattern.findall(text))
    for kind, pattern in LITERALS.items():
        yield from ((kind, found) for found in pattern.findall(text) if _is_secret(found))
    for line in text.splitlines() if KEYWORD.search(text) else ():
        if KEYWORD.search(line):
            yield from ((keywords.secret_type, found) for found in keywords.analyze_string(line) if _is_secret(found))


def _is_secret(value: str) -> bool:
    """Return whether the literal beside a word like `password` is one, and not a name, a message or a template."""
    has_letters, has_others = any(map(str.isalpha, value)), any(each.isdigit() or each in "!@#^&*" for each in value)
    return len(value) >= 6 and has_letters and has_others and TEMPLATE.search(value) is None


@cache
def _load_detectors() -> tuple[list[Any], Any]:
    """Return the detectors of formats, and that of words like `password` before a literal."""
    # Imported here because it takes most of a second, for the network client of verifications that never run.
    from detect_secrets.plugins.base import BasePlugin
    from detect_secrets.plugins.keyword import KeywordDetector

    modules = [importlib.import_module(f"detect_secrets.plugins.{name}") for name in DETECTORS]
    own = [
        entry()
        for module in modules
        for entry in vars(module).values()
        if isinstance(entry, type) and issubclass(entry, BasePlugin) and entry.__module__ == module.__name__
    ]
    return own, KeywordDetector()
