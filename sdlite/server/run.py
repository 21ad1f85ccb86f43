"""Listening, and ending well when asked to."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from types import FrameType

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from sdlite.errors import OutputError
from sdlite.server.state import Server

CONNECTIONS = 512
"""Connections at a time; more are answered 503."""
IDLE_SECONDS = 20
"""How long a connection without a request stays open."""
HEAD_SECONDS = 20.0
"""How long the head of a request may take."""
END_SECONDS = 20
"""How long answers may take to end after the jobs were cancelled."""


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; raises ``OutputError`` when that place cannot be had."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            listener.listen(128)
        except BaseException:
            listener.close()
            raise
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(
            f"cannot listen on {host} port {port}: {reason}; "
            "--port takes another one, and --port 0 any that is free"
        ) from error
    return listener


def url_of(listener: socket.socket) -> str:
    """Where to find the server."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Protocol(H11Protocol):
    """Hangs up on who does not send the head of a request in time, or not at all.

    uvicorn waits for that without end, until the places for connections are all taken.
    """

    _hurry: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Somebody is there."""
        super().connection_made(transport)
        self._expect()

    def data_received(self, data: bytes) -> None:
        """Something came: the head of a request, part of one, or of a body."""
        super().data_received(data)
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody is there any more."""
        self._relax()
        super().connection_lost(exc)

    def _expect(self) -> None:
        """Give the head of a request its time, from the first moment on."""
        if self.conn.their_state is not h11.IDLE:
            self._relax()
        elif self._hurry is None:
            self._hurry = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _relax(self) -> None:
        if self._hurry is not None:
            self._hurry.cancel()
            self._hurry = None


class _Uvicorn(uvicorn.Server):
    """Cancels jobs when it is asked to end, as answers wait for them."""

    def __init__(self, config: uvicorn.Config, server: Server, ready: Callable[[], object]) -> None:
        super().__init__(config)
        self._server = server
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer."""
        await super().startup(sockets)
        self._ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Ctrl-C, or a polite kill."""
        self._server.room.end()
        super().handle_exit(sig, frame)


def serve(
    app: ASGIApp, server: Server, listener: socket.socket, ready: Callable[[], object]
) -> None:
    """Answer requests until a signal asks to end.

    Args:
        app: made by ``make_app`` for ``server``.
        server: what it serves.
        listener: made by ``listen``.
        ready: called once requests are answered.
    """
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http=Protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=END_SECONDS,
        h11_max_incomplete_event_size=64 << 10,
    )
    _Uvicorn(config, server, ready).run([listener])
