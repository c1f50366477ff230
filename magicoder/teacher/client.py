"""Send one chat completion request over HTTP, once: return the answer as received, or raise the failure."""

import asyncio
import json
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import openai
from yarl import URL

from magicoder.config import TeacherConfig
from magicoder.runtime.errors import UserError
from magicoder.teacher import errors
from magicoder.teacher.api_key import read_api_key

MAX_BYTES = 16 * 2**20
"""Limit of an answer, many times the length that any model writes: a broken server must not fill the memory."""


SECONDS_TO_CONNECT = 30.0
NEVER_ARRIVED = (aiohttp.ClientConnectorError, aiohttp.ClientHttpProxyError, aiohttp.ConnectionTimeoutError)


class Client:
    """Sends requests to an OpenAI-compatible server. Use it in `async with`.

    OpenAI's SDK derives address, key and headers from its settings. The requests themselves bypass the SDK, whose own
    request path costs several times the processor time.

    Example:
        async with Client(teacher) as client:
            answer, headers = await client.send({"model": "m", "messages": [{"role": "user", "content": "Hi"}]})
    """

    def __init__(self, teacher: TeacherConfig, base_url: str | None = None) -> None:
        """base_url: replaces the config's, for a server that this run started.

        Errors: UserError if a needed API key is missing, or if the environment holds headers that cannot be sent.
        """
        self._key = read_api_key(teacher)
        unused = openai.DefaultHttpxClient(trust_env=False)  # the default one fails on proxies that we do not use
        sdk = openai.OpenAI(api_key=self._key.value, base_url=base_url or teacher.base_url, http_client=unused)
        self._headers = select_headers({**sdk.default_headers, **sdk.auth_headers})
        self.base_url = str(sdk.base_url)  # without a password: the config's check refuses one
        self._proxy, self._proxy_auth = (None, None) if base_url is not None else find_proxy(self.base_url)
        self._timeout = teacher.timeout
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "Client":
        """Open the connection pool."""
        connections = aiohttp.TCPConnector(limit=0, ttl_dns_cache=300)
        self._session = aiohttp.ClientSession(
            connector=connections,
            headers=self._headers,
            proxy=self._proxy,
            proxy_auth=self._proxy_auth,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=SECONDS_TO_CONNECT),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()

    async def send(self, body: dict[str, Any]) -> tuple[dict[str, Any], Mapping[str, str]]:
        """Send `body`; return the server's answer and its headers.

        Errors: UserError for what no retry cures (key, model, quota); RateLimited, TransientError, RequestRejected.
        """
        try:
            async with asyncio.timeout(self._timeout):
                status, headers, content = await self._post(json.dumps(body).encode("ascii"))
        except aiohttp.InvalidURL as error:
            raise UserError(f"{self.base_url}: not a valid address") from error
        except NEVER_ARRIVED as error:  # before their base classes below
            raise errors.TransientError(self._describe(error), maybe_billed=False, unreachable=True) from error
        except TimeoutError as error:
            message = f"no complete answer within {self._timeout} s"
            raise errors.TransientError(message, maybe_billed=True, timed_out=True) from error
        except (aiohttp.ClientError, OSError) as error:  # resets and broken bodies
            raise errors.TransientError(self._describe(error), maybe_billed=True) from error
        if status == 200:
            return errors.parse_completion(content, self._key), headers
        raise errors.classify_response(status, headers, content, self.base_url, self._key)

    async def _post(self, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        assert self._session is not None, "use the client in `async with`"
        # Redirects are reported, not followed: POST would become GET, and the key could reach another host.
        url = f"{self.base_url}chat/completions"
        async with self._session.post(url, data=body, allow_redirects=False) as response:
            content = bytearray()
            while piece := await response.content.readany():
                content += piece
                if len(content) > MAX_BYTES:
                    raise errors.TransientError(f"an answer of more than {MAX_BYTES} bytes", maybe_billed=True)
            return response.status, response.headers, bytes(content)

    def _describe(self, error: Exception) -> str:
        return self._key.mask(f"{type(error).__name__}: {error}")


def select_headers(headers: Mapping[str, object]) -> dict[str, str]:
    """Return the headers that have a value. Errors: UserError naming one that HTTP cannot carry."""
    texts = {name: value for name, value in headers.items() if isinstance(value, str)}
    for name, value in texts.items():
        if not (value.isascii() and value.isprintable()):
            raise UserError(f"{name}: the environment holds characters that no header can have")
    return texts


def find_proxy(url: str) -> tuple[URL | None, aiohttp.BasicAuth | None]:
    """Return the proxy that the environment names for `url`, and its login. aiohttp would search at every request.

    Errors: UserError if that is not an HTTP proxy. The message does not quote it: it may hold a password.
    """
    parts = urlsplit(url)
    found = urllib.request.getproxies().get(parts.scheme)
    if found is None or urllib.request.proxy_bypass(parts.netloc):
        return None, None
    try:
        proxy = URL(found if "://" in found else f"http://{found}")
        if proxy.scheme in ("http", "https") and proxy.host and proxy.port:
            auth = None if proxy.user is None else aiohttp.BasicAuth(proxy.user, proxy.password or "", "utf-8")
            return proxy.with_user(None), auth
    except ValueError:
        pass  # reported below
    raise UserError(f"{parts.scheme}_proxy: only a proxy of the form http://HOST:PORT can be used")
