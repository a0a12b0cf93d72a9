# SPDX-License-Identifier: MIT
"""uvicorn, with bounds on connections that never finish a request head or never read their answer."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from admission.app import Admission
from admission.config import Config, Limits

KEEP_ALIVE_SECONDS = 5
SHUTDOWN_SECONDS = 10


def bounded_protocol(limits: Limits) -> type[H11Protocol]:
    """A protocol class that drops connections beyond a number, slow request heads and clients that do not read."""

    class BoundedProtocol(H11Protocol):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self._head_timer: asyncio.TimerHandle | None = None
            self._write_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in the parent
            super().connection_made(transport)
            if len(self.connections) > limits.connections:
                transport.abort()
                return
            self._await_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop("_head_timer")
            self._stop("_write_timer")
            super().connection_lost(exc)

        def _stop(self, name: str) -> None:
            timer: asyncio.TimerHandle | None = getattr(self, name)
            if timer is not None:
                timer.cancel()
            setattr(self, name, None)

        def _await_head(self) -> None:
            if self._head_timer is None:
                self._head_timer = self.loop.call_later(limits.header_seconds, self.transport.abort)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._stop("_head_timer")
            elif not self.transport.is_closing():
                self._await_head()

        def timeout_keep_alive_handler(self) -> None:
            super().timeout_keep_alive_handler()
            self._write_timer = self._write_timer or self.loop.call_later(limits.write_seconds, self.transport.abort)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._write_timer = self._write_timer or self.loop.call_later(limits.write_seconds, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            self._stop("_write_timer")

    return BoundedProtocol


class Server(uvicorn.Server):
    """A server that tells the application when its end begins: who is held is answered before connections are cut."""

    def __init__(self, app: Admission, settings: uvicorn.Config) -> None:
        super().__init__(settings)
        self._app = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.close_doors()
        await super().shutdown(sockets)


def server_for(app: Admission, config: Config) -> uvicorn.Server:
    """A server of the application on the configured address: HTTP/1.1 only, no proxy headers, no access log."""
    settings = uvicorn.Config(
        app,
        host=config.listen.host,
        port=config.listen.port,
        loop="asyncio",
        http=bounded_protocol(config.limits),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    return Server(app, settings)
