"""Find where requests go: the address of a server, the headers of its requests, the proxy on the way."""

import os
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit, urlunsplit

import aiohttp
from yarl import URL

from magicoder.config.bounds import find_url_problems
from magicoder.runtime.errors import UserError
from magicoder.teacher.api_key import Key

OPENAI = "https://api.openai.com/v1"
ENDPOINT = "/chat/completions"
OPENAI_KEY = "OPENAI_API_KEY"
PROXY_ADDRESS = "only a proxy of the form http://HOST:PORT can be used"


@dataclass(frozen=True)
class Address:
    """A server. base: what paths such as `/chat/completions` are appended to, without a slash at its end. query: by
    name."""

    base: str
    query: Mapping[str, str]

    @property
    def chat_completions(self) -> str:
        """The whole address of chat completions."""
        parts = urlsplit(self.base)
        return str(URL(urlunsplit((parts.scheme, parts.netloc, parts.path + ENDPOINT, "", ""))).with_query(self.query))


def resolve_address(base_url: str | None) -> Address:
    """Return the address that the config names, else the environment variable OPENAI_BASE_URL, else OpenAI's own.

    A whole endpoint is taken as well as its base. A base without a path gets none: `https://host` is asked at
    `https://host/chat/completions`. Errors: UserError if it is not an address.

    Example:
        >>> resolve_address("https://api.deepseek.com").chat_completions
        'https://api.deepseek.com/chat/completions'
    """
    chosen = base_url or read_variable("OPENAI_BASE_URL") or OPENAI
    if problems := list(find_url_problems(chosen)):
        name = "teacher.base_url" if base_url else "OPENAI_BASE_URL"
        raise UserError([f"{name}: {problem}" for problem in problems])
    parts = urlsplit(chosen)
    path = parts.path.rstrip("/").removesuffix(ENDPOINT).rstrip("/")
    return Address(urlunsplit((parts.scheme, parts.netloc, path, "", "")), dict(parse_qsl(parts.query)))


def read_variable(name: str) -> str | None:
    """Return the value of an environment variable; None if it is unset or blank."""
    return os.environ.get(name, "").strip() or None


def collect_headers(key: Key, key_header: str, extra: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of every request: the key, those of the config, and those that OpenAI's variables name.

    The variables belong to the key OPENAI_API_KEY: another vendor must see neither that account nor its secrets.
    key_header: `Authorization` for a bearer token, else the header that holds the key alone.
    Errors: UserError naming a header that HTTP cannot carry.
    """
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    if key.name is not None:
        headers[key_header] = f"Bearer {key.value}" if key_header.lower() == "authorization" else key.value
    headers |= _read_variables() if key.name == OPENAI_KEY else {}
    headers |= extra
    for name, value in headers.items():
        if not (value.isascii() and value.isprintable() and name.isascii() and name.isprintable()):
            raise UserError(f"{name.encode('unicode_escape').decode()}: holds characters that no header can have")
    return headers


def _read_variables() -> dict[str, str]:
    """Return the headers that OpenAI's environment variables name."""
    headers = {}
    for variable, name in (("OPENAI_ORG_ID", "OpenAI-Organization"), ("OPENAI_PROJECT_ID", "OpenAI-Project")):
        if (value := read_variable(variable)) is not None:
            headers[name] = value
    for line in (read_variable("OPENAI_CUSTOM_HEADERS") or "").splitlines():
        name, separator, value = line.partition(":")
        if separator:
            headers[name.strip()] = value.strip()
    return headers


def find_proxy(url: str) -> tuple[URL | None, aiohttp.BasicAuth | None]:
    """Return the proxy that the environment names for `url`, and its login. aiohttp would search at every request.

    Errors: UserError if that is not an HTTP proxy. The message does not quote it: it may hold a password.
    """
    parts = urlsplit(url)
    proxies = urllib.request.getproxies()
    name = parts.scheme if parts.scheme in proxies else "all"
    if name not in proxies or urllib.request.proxy_bypass(parts.netloc):
        return None, None
    found = proxies[name]
    try:
        proxy = URL(found if "://" in found else f"http://{found}")
        if proxy.scheme in ("http", "https") and proxy.host and proxy.port:
            auth = None if proxy.user is None else aiohttp.BasicAuth(proxy.user, proxy.password or "", "utf-8")
            return proxy.with_user(None), auth
    except ValueError:
        pass  # reported below
    raise UserError(f"{name}_proxy: {PROXY_ADDRESS}")
