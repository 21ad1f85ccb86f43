"""Listening, and ending well when asked to."""

from __future__ import annotations

import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from sdlite.errors import OutputError
from sdlite.server.state import Server

CONNECTIONS = 512
"""Connections at a time; more are answered 503."""
IDLE_SECONDS = 20
"""How long a connection without a request stays open."""
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
        http="h11",
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
