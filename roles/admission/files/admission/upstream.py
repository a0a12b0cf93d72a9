# SPDX-License-Identifier: MIT
"""The one connection out of admission: the sovereign gateway, with admission's own headers only."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx

COMPLETIONS = "/v1/chat/completions"
CONNECT_SECONDS = 5.0


class GatewayError(Exception):
    """The gateway did not answer, or stopped answering; the text is a class of cause without content."""


class Gateway:
    """A client of the gateway at `url` (http://address:port) that follows no redirect, proxy or cookie."""

    def __init__(self, url: str, key: str, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._client = httpx.AsyncClient(
            base_url=url,
            headers={
                "authorization": f"Bearer {key}",
                "content-type": "application/json",
                "accept-encoding": "identity",
                "user-agent": "mushishi-admission",
            },
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=8, keepalive_expiry=5.0),
            follow_redirects=False,
            trust_env=False,
            transport=transport,
        )

    @asynccontextmanager
    async def complete(self, body: bytes) -> AsyncIterator[httpx.Response]:
        """Send a completion request; the caller reads the response's body. Leaving the context closes the connection.

        Raises GatewayError. Time is bounded by the caller, who knows the chain.
        """
        request = self._client.build_request("POST", COMPLETIONS, content=body)
        try:
            response = await self._client.send(request, stream=True)
        except (httpx.ConnectError, httpx.ConnectTimeout):
            raise GatewayError("gateway unreachable") from None
        except httpx.HTTPError:
            raise GatewayError("gateway cut the connection") from None
        try:
            yield response
        finally:
            await response.aclose()

    async def close(self) -> None:
        """Close idle connections."""
        await self._client.aclose()


async def pieces(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    """The response's body as it arrives; raises GatewayError when it is cut."""
    try:
        async for piece in response.aiter_bytes():
            yield piece
    except httpx.HTTPError:
        raise GatewayError("gateway cut the connection") from None


async def whole(response: httpx.Response, max_bytes: int) -> bytes:
    """The response's whole body; raises GatewayError when it is cut or too large."""
    body = bytearray()
    async for piece in pieces(response):
        body += piece
        if len(body) > max_bytes:
            raise GatewayError("answer too large")
    return bytes(body)
