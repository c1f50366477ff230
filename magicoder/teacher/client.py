"""One chat completion over HTTP, tried once: the answer as it came, or what is wrong."""

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
from magicoder.teacher.api_key import api_key

MOST_BYTES = 16 * 2**20
"""Of an answer: many times what any model writes. A server that sends more is broken, and must not fill the memory."""


SECONDS_TO_CONNECT = 30.0
NEVER_ARRIVED = (aiohttp.ClientConnectorError, aiohttp.ClientHttpProxyError, aiohttp.ConnectionTimeoutError)


class Client:
    """Sends requests to an OpenAI-compatible server. Use it in `async with`.

    Address, key and headers are what OpenAI's SDK makes of its settings. The requests themselves go past the SDK, whose
    own way costs several times the processor time.
    """

    def __init__(self, teacher: TeacherConfig, base_url: str | None = None) -> None:
        """base_url: takes the place of the config's, for a server that was started just now on this machine.

        Errors: UserError if there is no API key where one is needed, or if the environment holds what cannot be sent.
        """
        self._key = api_key(teacher)
        unused = openai.DefaultHttpxClient(trust_env=False)  # which would stumble over proxies that we do not use
        sdk = openai.OpenAI(api_key=self._key.value, base_url=base_url or teacher.base_url, http_client=unused)
        self._headers = sendable({**sdk.default_headers, **sdk.auth_headers})
        self.base_url = str(sdk.base_url)  # it holds no password, for the config's check refuses one
        self._proxy, self._proxy_auth = (None, None) if base_url is not None else proxy_for(self.base_url)
        self._timeout = teacher.timeout
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "Client":
        """The client with its connections."""
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

    async def attempt(self, body: dict[str, Any]) -> tuple[dict[str, Any], Mapping[str, str]]:
        """The server's answer to `body`, and its headers.

        Errors: UserError for what no retry mends (key, model, quota); Throttled, Passing and Refused of `faults`.
        """
        try:
            async with asyncio.timeout(self._timeout):
                status, headers, content = await self._post(json.dumps(body).encode("ascii"))
        except aiohttp.InvalidURL as error:
            raise UserError(f"{self.base_url}: is no address that can be asked") from error
        except NEVER_ARRIVED as error:  # ahead of their kinds below
            raise errors.TransientError(self._told(error), maybe_billed=False, unreachable=True) from error
        except TimeoutError as error:
            told = f"no whole answer within {self._timeout} s"
            raise errors.TransientError(told, maybe_billed=True, timed_out=True) from error
        except (aiohttp.ClientError, OSError) as error:  # resets and broken bodies
            raise errors.TransientError(self._told(error), maybe_billed=True) from error
        if status == 200:
            return errors.well_formed(content, self._key), headers
        raise errors.of_status(status, headers, content, self.base_url, self._key)

    async def _post(self, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        assert self._session is not None, "to be used in `async with`"
        # A redirect is told, not followed: POST would become GET, and the key might go where it is not meant to.
        place = f"{self.base_url}chat/completions"
        async with self._session.post(place, data=body, allow_redirects=False) as response:
            content = bytearray()
            while piece := await response.content.readany():
                content += piece
                if len(content) > MOST_BYTES:
                    raise errors.TransientError(f"an answer of more than {MOST_BYTES} bytes", maybe_billed=True)
            return response.status, response.headers, bytes(content)

    def _told(self, error: Exception) -> str:
        return self._key.masked(f"{type(error).__name__}: {error}")


def sendable(headers: Mapping[str, object]) -> dict[str, str]:
    """The headers that have a value. Errors: UserError naming one that HTTP cannot carry."""
    texts = {name: value for name, value in headers.items() if isinstance(value, str)}
    for name, value in texts.items():
        if not (value.isascii() and value.isprintable()):
            raise UserError(f"{name}: the environment holds line ends or characters that no header can have")
    return texts


def proxy_for(url: str) -> tuple[URL | None, aiohttp.BasicAuth | None]:
    """The proxy that the environment names for `url`, and who it is asked as; aiohttp would look at every request.

    Errors: UserError if that is no HTTP proxy. The message does not quote it, for it may hold a password.
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
        pass  # told below
    raise UserError(f"{parts.scheme}_proxy: only a proxy of the form http://HOST:PORT can be used")
