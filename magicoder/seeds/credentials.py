"""Find credentials in a snippet before it is sent to a teacher: keys, tokens, passwords.

The formats are those of Yelp's detect-secrets and a few younger ones. Its detectors of high entropy are left out: they
take hashes and tables for secrets. Its detector of words is left out as well: hostile text makes it take hours.
"""

import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

DETECTORS = (
    *("aws", "azure_storage_key", "basic_auth", "cloudant", "discord", "github_token", "gitlab_token", "ibm_cloud_iam"),
    *("ibm_cos_hmac", "jwt", "mailchimp", "npm", "private_key", "pypi_token", "sendgrid", "slack", "softlayer"),
    *("square_oauth", "stripe", "telegram_token", "twilio"),
)
"""Modules of `detect_secrets.plugins` with a detector of one format each."""

BEGIN = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY")

FORMATS = {
    "Private Key": BEGIN,
    "Anthropic Token": re.compile(r"\bsk-ant-[\w-]{20,}"),
    "OpenAI Token": re.compile(
        r"\bsk-(?:(?:proj|svcacct|admin)-[\w-]{20,}|[A-Za-z0-9]{32,})|[A-Za-z0-9]{20}T3BlbkFJ[A-Za-z0-9]{20}"
    ),
    "Google API Key": re.compile(r"\bAIza[\w-]{35}"),
    "Google OAuth Secret": re.compile(r"\bGOCSPX-[\w-]{20,}"),
    "Hugging Face Token": re.compile(r"\bhf_[A-Za-z0-9]{30,}"),
    "GitHub Token": re.compile(r"\bgithub_pat_\w{22,}"),
    "NPM Token": re.compile(r"\bnpm_[A-Za-z0-9]{36}"),
    "Groq Token": re.compile(r"\bgsk_[A-Za-z0-9]{20,}"),
    "Databricks Token": re.compile(r"\bdapi[0-9a-f]{32}"),
    "Shopify Token": re.compile(r"\bshp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}"),
    "DigitalOcean Token": re.compile(r"\bdo[opr]_v1_[0-9a-f]{64}"),
    "Vault Token": re.compile(r"\bhvs\.[\w-]{20,}"),
    "Artifactory Credentials": re.compile(r"\b(?:AKC|AP[\dA-F])(?=[A-Za-z]{0,40}\d)[A-Za-z0-9]{20,}"),
    "Basic Authorization": re.compile(r"Authorization['\"]?\]? ?[:=,] ?['\"]?Basic ([A-Za-z0-9+/]{16,}={0,2})", re.I),
}
"""Formats that detect-secrets 1.5.0 does not know, or takes too long or too much for."""

WORD = (
    r"passw(?:or)?d|passphrase|pwd|secret|contrase(?:ñ|n)a|(?:db|database|key)_?pass|"
    r"(?:api|auth|access|service|account|db|database|priv|private|client|encryption)[_-]?key"
)
NAME = rf"(?P<name>(?:{WORD}|token(?!iz))\w{{0,30}})"
QUOTED = r"[\w@&]{0,2}(?P<quote>['\"`])(?P<value>(?:(?!(?P=quote))\S){6,200})(?P=quote)"
GAP = " {0,3}"

BECOMES = rf"(?:\[\d*\]|['\"\]`]{{0,2}}){GAP}(?:: *[\w.&'\[\]| ]{{1,40}}=|:=|=>|[:=]|[=!]==?|\|\||\?\?=?){GAP}"

LITERALS = (
    # An assignment, a comparison, an entry of a mapping, a default, an annotated name of Python, TypeScript or Rust.
    rf"(?P<name>(?:{WORD})\w{{0,30}}){BECOMES}{QUOTED}",
    rf"(?P<name>token(?!iz)\w{{0,30}}){BECOMES}['\"](?P<value>[\w.~+/-]{{20,200}}=*)['\"]",
    rf"{QUOTED}{GAP}[=!]==?{GAP}[\w.]{{0,30}}{NAME}",
    # A setter, a call with a name and its value or default, a macro of C.
    rf"(?:set|with)\w{{0,20}}{NAME}\({GAP}{QUOTED}",
    rf"(?:define|get\w{{0,12}}|set\w{{0,12}}|env|putenv)\({GAP}['\"][\w.]{{0,30}}{NAME}['\"]{GAP},{GAP}{QUOTED}",
    rf"#{GAP}define {GAP}\w{{0,30}}{NAME} {GAP}{QUOTED}",
    rf"{NAME}[\]'\")]{{0,2}} {GAP}{QUOTED};",
    # user and password
    rf"(?P<name>auth{GAP}={GAP}|BasicAuth)\({GAP}['\"][^'\"\s]{{1,60}}['\"],{GAP}{QUOTED}",
    r"(?P<name>\bcurl )[^\n]{0,200}?(?:-u|--user)[ =]{0,2}['\"]?[\w.@-]{1,40}:(?P<value>[^\s'\"]{6,200})",
    # connection strings
    r"\b(?:server|data source|host|database|user|user ?id|uid|initial catalog) ?=[^\n\"';]{1,100};"
    r"(?:[^\n\"';]{1,100};){0,6} ?(?P<name>password|pwd) ?= ?(?P<value>[^;'\"\s]{6,200})",
    r"['\"] ?(?P<name>password|pwd) ?= ?(?P<value>[^;'\"\s]{6,200});",
    r"[?&](?P<name>password|pwd)=(?P<value>[^&;'\"\s]{6,200})",
)
"""Places of secrets beside a word for them; only a value like a secret counts."""

SHELL_VALUE = r"=(?P<value>[^\s'\"$`(){}<>;&|,][^\s'\"`(){}<>;&|,]{7,200})(?=[\s;&|]|$)"
CASED_LITERALS = (
    rf"(?<![\w.-])[A-Z0-9_]{{0,30}}(?P<name>(?:PASS(?:WORD|WD)?|PWD|SECRET|TOKEN|API_?KEY)[A-Z_]{{0,30}}){SHELL_VALUE}",
    rf"^(?:export )?[a-z_]{{0,30}}(?P<name>password|passwd|secret|token|api_?key){SHELL_VALUE}",
)
"""Lines of a shell. Indented small letters are arguments of Python."""

PATTERNS = (
    *(re.compile(each, re.IGNORECASE) for each in LITERALS),
    *(re.compile(each, re.MULTILINE) for each in CASED_LITERALS),
    re.compile(r"(?P<name>\bBearer) {1,3}(?P<value>[\w.~+/-]{20,}=*)"),
)

KEYWORD = re.compile(r"pass|pwd|secret|key|contrase|token|auth|curl|bearer", re.IGNORECASE)
"""Without one of these no pattern of a literal finds anything."""

NO_SECRET_NAME = re.compile(
    r"(?:header|type|hasher|file|path|name|url|uri|field|dir|prefix|algorithm|format)s?$", re.IGNORECASE
)
"""Ends of names whose value tells of a secret, and is none."""

TEMPLATE = re.compile(
    r"\$[{(]|#\{|\{[\w.:!]{0,40}\}|\{[{%]|^\$\w+$|^%\w+%$|%[srd](?![0-9A-Fa-f])|%\(\w{1,40}\)|<[^<>]{1,80}>|\s|\*\*|\.\.\."
)
"""Marks of a text that a secret is put into, or left out of."""

ADDRESS = re.compile(
    r"(?:~|\.{1,2})?(?:/[\w.-]{1,24})+/?|[\w./~-]+\.(?:pem|key|crt|cer|p12|pfx|jks|json|ya?ml|txt|env|ini|toml|pub)|"
    r"[a-z]+://[^?@]+"
)
HUB_ID = re.compile(r"[A-Za-z][\w.-]*/[\w.-]+")
"""Owner and name; base64 of more characters has neither dash nor dot."""

BLANKS = re.compile(r"[ \t]{4,}")
LONGEST_LINE, OVERLAP = 1000, 250
"""Some patterns take a time that grows with the square of a line's length, or the cube of a run of blanks."""

LONGEST_KEY = 20_000
KEY_LINE = re.compile(r"[\s\"'#*/+.,;\\]*(?:[A-Z][\w-]{0,30}: .*|[A-Za-z0-9+/=]*(?:\\[rn])*[\s\"'+,;\\.]*)|-----")
"""A line of a private key, perhaps within quotes or a comment."""


@dataclass(frozen=True)
class Credential:
    """A secret of a text, by its kind and its place; the secret itself is kept nowhere."""

    kind: str
    position: int


def find_credential(document: str, span: slice) -> Credential | None:
    """Return the first credential that the span of a document shows, with its position in the document, else None."""
    text = document[span]
    for kind, secret in _scan(_fold_lines(BLANKS.sub("   ", text))):
        return Credential(kind, span.start + max(text.find(secret), 0))
    return Credential("Private Key", span.start) if _is_within_key(document, span.start) else None


def _is_within_key(document: str, position: int) -> bool:
    """Return whether a private key begins before the position and goes on there, be its end missing or not."""
    begin = document.rfind("-----BEGIN ", max(position - LONGEST_KEY, 0), position)
    if begin < 0 or not BEGIN.match(document, begin):
        return False
    end = document.find("-----END ", begin, begin + LONGEST_KEY)
    if end >= 0:
        return position < end + len("-----END ")
    line_end = document.find("\n", position, begin + LONGEST_KEY)
    lines = document[begin : line_end if line_end >= 0 else begin + LONGEST_KEY].split("\n")[1:]
    return all(map(KEY_LINE.fullmatch, lines))


def _fold_lines(text: str) -> str:
    """Cut lines of more than `LONGEST_LINE` characters into pieces that overlap."""
    lines = text.split("\n")
    if max(map(len, lines)) <= LONGEST_LINE:
        return text
    step = LONGEST_LINE - OVERLAP
    return "\n".join(line[start : start + LONGEST_LINE] for line in lines for start in range(0, len(line) or 1, step))


def _scan(text: str) -> Iterator[tuple[str, str]]:
    """Yield the kind and the text of each secret."""
    for detector in _load_detectors():
        for secret in detector.analyze_string(text):
            if detector.secret_type != "Basic Auth Credentials" or _is_password_of_address(secret):
                yield detector.secret_type, secret
    for kind, pattern in FORMATS.items():
        yield from ((kind, found[0]) for found in pattern.finditer(text))
    for pattern in PATTERNS if KEYWORD.search(text) else ():
        for found in pattern.finditer(text):
            if _is_secret(found["name"], found["value"]):
                yield "Secret Keyword", found["value"]


def _is_password_of_address(value: str) -> bool:
    """Return whether what stands before the host is a password, and not a port or a template."""
    return TEMPLATE.search(value) is None and not (value.isdigit() and len(value) < 6)


def _is_secret(name: str, value: str) -> bool:
    """Return whether the literal beside a word like `password` is one, and not a name, a message or a template."""
    if TEMPLATE.search(value):
        return False
    is_hub_id = HUB_ID.fullmatch(value) and (len(value) < 20 or "-" in value or "." in value)
    if is_hub_id or NO_SECRET_NAME.search(name) or ADDRESS.fullmatch(value):
        return False
    if value.isdigit():
        return len(value) >= 8 and re.match("pass|pwd|auth|curl", name, re.IGNORECASE) is not None
    return any(map(str.isalpha, value)) and any(each.isdigit() or each in "!@#^&*" for each in value)


@cache
def _load_detectors() -> list[Any]:
    """Return the detectors of formats."""
    # Imported here because it takes most of a second, for the network client of verifications that never run.
    from detect_secrets.plugins.base import BasePlugin

    modules = [importlib.import_module(f"detect_secrets.plugins.{name}") for name in DETECTORS]
    return [
        entry()
        for module in modules
        for entry in vars(module).values()
        if isinstance(entry, type) and issubclass(entry, BasePlugin) and entry.__module__ == module.__name__
    ]
