"""Send one chat completion request over HTTP, once: return the answer as received, or raise the failure."""

import asyncio
import json
import os
from collections.abc import Mapping
from typing import Any

import aiohttp

from magicoder.runtime.errors import UserError
from magicoder.teacher import errors
from magicoder.teacher.address import Address, collect_headers, find_proxy
from magicoder.teacher.api_key import Key
from magicoder.teacher.completions import parse_completion

MAX_BYTES = 16 * 2**20
"""Limit of an answer, many times the length that any model writes: a broken server must not fill the memory."""


SECONDS_TO_CONNECT = 30.0
SECONDS_TO_FIND_THE_SERVER = 8.0
"""The limit of a connection before the first one: a wrong address is a mistake to report soon."""
LIMIT = aiohttp.ClientTimeout(total=None, sock_connect=SECONDS_TO_CONNECT)
FIRST_LIMIT = aiohttp.ClientTimeout(total=None, sock_connect=SECONDS_TO_FIND_THE_SERVER)
NEVER_ARRIVED = (aiohttp.ClientConnectorError, aiohttp.ClientHttpProxyError, aiohttp.ConnectionTimeoutError)


class Client:
    """Sends requests to an OpenAI-compatible server. Use it in `async with`.

    OpenAI's SDK is not used here: its request path costs several times the processor time, its import half a second.

    Example:
        async with Client(resolve_address("http://localhost:8000/v1"), Key(None), timeout=60.0) as client:
            answer, headers = await client.send({"model": "m", "messages": [{"role": "user", "content": "Hi"}]})
    """

    def __init__(
        self,
        address: Address,
        key: Key,
        timeout: float,
        *,
        key_header: str = "Authorization",
        extra_headers: Mapping[str, str] | None = None,
        may_use_proxy: bool = True,
    ) -> None:
        """timeout: seconds of one attempt. key_header, extra_headers: see `collect_headers`.

        may_use_proxy: false for a server of this machine, which no proxy can reach.
        Errors: UserError if a header cannot be sent, or for an unusable proxy.
        """
        self._key, self._timeout = key, timeout
        self._headers = collect_headers(key, key_header, extra_headers or {})
        self.base_url = address.base  # without a password: the config's check refuses one
        self._url = address.chat_completions
        self._proxy, self._proxy_auth = find_proxy(self._url) if may_use_proxy else (None, None)
        self._session: aiohttp.ClientSession | None = None
        self.was_reached = False

    async def __aenter__(self) -> "Client":
        """Open the connection pool."""
        connections = aiohttp.TCPConnector(limit=0, ttl_dns_cache=300)
        self._session = aiohttp.ClientSession(
            connector=connections, headers=self._headers, proxy=self._proxy, proxy_auth=self._proxy_auth
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
        self.was_reached = True
        if status == 200:
            return parse_completion(content, self.base_url, self._key), headers
        raise errors.classify_response(status, headers, content, self.base_url, self._key)

    async def _post(self, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        assert self._session is not None, "use the client in `async with`"
        limit = LIMIT if self.was_reached else FIRST_LIMIT
        # Redirects are reported, not followed: POST would become GET, and the key could reach another host.
        async with self._session.post(self._url, data=body, allow_redirects=False, timeout=limit) as response:
            content = bytearray()
            while piece := await response.content.readany():
                content += piece
                if len(content) > MAX_BYTES:
                    raise errors.TransientError(f"an answer of more than {MAX_BYTES} bytes", maybe_billed=True)
            return response.status, response.headers, bytes(content)

    def _describe(self, error: Exception) -> str:
        """Return an error in words; aiohttp's own quote its internals."""
        if isinstance(error, aiohttp.ClientConnectorError):
            cause = error.os_error
            # asyncio's own text for a refused connection is that of a Python call.
            number = cause.errno or 0
            reason = os.strerror(number) if number > 0 else cause.strerror or cause
            return self._key.mask(f"cannot connect to {error.host}:{error.port}: {reason}")
        return self._key.mask(f"{type(error).__name__}: {error}")
