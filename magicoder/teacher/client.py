"""One chat completion over HTTP, tried once: the answer as it came, or what is wrong."""

import asyncio
import json
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import openai

from magicoder.config import Teacher
from magicoder.teacher import faults
from magicoder.teacher.key import api_key

MOST_BYTES = 16 * 2**20
"""Of an answer: many times what any model writes. A server that sends more is broken, and must not fill the memory."""


class Client:
    """Sends requests to an OpenAI-compatible server. Use it in `async with`.

    Address, key and headers are what OpenAI's SDK makes of its settings. The requests themselves go past the SDK, whose
    own way costs several times the processor time.
    """

    def __init__(self, teacher: Teacher, base_url: str | None = None) -> None:
        """base_url: takes the place of the config's, for a server that was started just now.

        Errors: UserError if there is no API key where one is needed.
        """
        self._key_name, self._key = teacher.api_key_env, api_key(teacher)
        sdk = openai.OpenAI(api_key=self._key, base_url=base_url or teacher.base_url, max_retries=0)
        told = {**sdk.default_headers, **sdk.auth_headers}
        self._headers = {name: value for name, value in told.items() if isinstance(value, str)}
        self.base_url = str(sdk.base_url)  # it holds no password, for the config's check refuses one
        self._proxy = proxy_for(self.base_url)
        self._timeout = teacher.timeout
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "Client":
        """The client with its connections."""
        connections = aiohttp.TCPConnector(limit=0, ttl_dns_cache=300)
        self._session = aiohttp.ClientSession(
            connector=connections, headers=self._headers, proxy=self._proxy, timeout=aiohttp.ClientTimeout(total=None)
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
        except TimeoutError as error:
            told = f"no whole answer within {self._timeout} s"
            raise faults.Passing(told, perhaps_charged=True, timed_out=True) from error
        except aiohttp.ClientConnectorError as error:
            raise faults.Passing(self._told(error), perhaps_charged=False) from error
        except (aiohttp.ClientError, OSError) as error:  # resets and broken bodies
            raise faults.Passing(self._told(error), perhaps_charged=True) from error
        if status == 200:
            return faults.well_formed(content), headers
        raise faults.of_status(status, headers, self._masked(content), self.base_url, self._key_name)

    async def _post(self, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        assert self._session is not None, "to be used in `async with`"
        async with self._session.post(f"{self.base_url}chat/completions", data=body) as response:
            content = bytearray()
            while piece := await response.content.readany():
                content += piece
                if len(content) > MOST_BYTES:
                    raise faults.Passing(f"an answer of more than {MOST_BYTES} bytes", perhaps_charged=True)
            return response.status, response.headers, bytes(content)

    def _told(self, error: Exception) -> str:
        return self._masked(f"{type(error).__name__}: {error}".encode()).decode()

    def _masked(self, message: bytes) -> bytes:
        """A message without the API key, if the server echoes it: it must reach no file and no screen."""
        if len(self._key) < faults.SHORTEST_SECRET:
            return message
        return message.replace(self._key.encode(), b"[API key]")


def proxy_for(url: str) -> str | None:
    """The proxy that the environment names for `url`; aiohttp would look for it at every request."""
    parts = urlsplit(url)
    if urllib.request.proxy_bypass(parts.hostname or ""):
        return None
    return urllib.request.getproxies().get(parts.scheme)
