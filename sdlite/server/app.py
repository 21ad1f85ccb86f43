"""The server as an ASGI application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any

import anyio.to_thread
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from sdlite import __version__
from sdlite.server.a1111 import api as a1111_api
from sdlite.server.a1111 import controlnet
from sdlite.server.a1111.answers import WebuiError
from sdlite.server.call import (
    Call,
    Endpoint,
    Shape,
    error_response,
    handler,
    in_thread,
    plain_shape,
)
from sdlite.server.guard import Guard
from sdlite.server.metrics import CONTENT_TYPE
from sdlite.server.native import api as native_api
from sdlite.server.native.answers import Failure, Health
from sdlite.server.openai import api as openai_api
from sdlite.server.openai.answers import ApiError
from sdlite.server.openapi import Group, document
from sdlite.server.page import files
from sdlite.server.problem import Refused
from sdlite.server.state import Server

THREADS = 8
"""Requests whose bodies and pictures are worked on at a time."""


def make_app(server: Server) -> ASGIApp:
    """The application; its lifespan starts and stops the engine room."""
    groups = [
        Group("a1111", WebuiError, a1111_api.shape, a1111_api.Api(server).endpoints()),
        Group("openai", ApiError, openai_api.shape, openai_api.Api(server).endpoints()),
        Group("native", Failure, plain_shape, native_api.Api(server).endpoints()),
        Group("server", Failure, plain_shape, _own(server)),
        Group("page", Failure, plain_shape, files.endpoints()),
    ]
    described: list[dict[str, Any]] = []

    async def openapi(call: Call) -> Any:
        # Not before somebody asks: it takes as long as everything else at the start.
        if not described:
            described.append(await in_thread(document, groups))
        return described[0]

    about = Endpoint("GET", "/openapi.json", openapi, "This description.", gives=dict[str, Any])
    groups.append(Group("server", Failure, plain_shape, [about]))

    extra, running = assistant_routes(server) if server.setup.mcp else ([], nullcontext())

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        # Pictures are unpacked in these threads: so many at a time, whoever sends them.
        anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
        await in_thread(server.start)
        try:
            async with running:
                yield
        finally:
            await in_thread(server.stop)

    routes: list[BaseRoute] = [
        *extra,
        *(
            Route(endpoint.path, handler(server, endpoint, group.shape), methods=[endpoint.method])
            for group in groups
            for endpoint in group.endpoints
        ),
    ]
    open_paths = frozenset(
        endpoint.path for group in groups for endpoint in group.endpoints if endpoint.open
    )

    async def lost(request: Request, error: Exception) -> JSONResponse:
        status = getattr(error, "status_code", 404)
        word = "Method Not Allowed" if status == 405 else "Not Found"
        headers = getattr(error, "headers", None)
        refused = Refused(status, word, "not_found", headers)
        return error_response(refused, shape_of(request.url.path))

    app: ASGIApp = Starlette(
        routes=routes, lifespan=lifespan, exception_handlers={404: lost, 405: lost}
    )
    access = server.setup.access
    if access.origins:
        app = CORSMiddleware(
            app,
            allow_origins=sorted(access.origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "X-API-Key"],
        )

    def refuse(path: str, error: Refused) -> JSONResponse:
        return error_response(error, shape_of(path))

    return Guard(app, access, server.limits, open_paths, refuse, server.metrics.answer)


def assistant_routes(
    server: Server,
) -> tuple[list[BaseRoute], AbstractAsyncContextManager[None]]:
    """The tools for assistants; imported only where they are served."""
    from sdlite.server.mcp.transports import routes

    return routes(server)


def shape_of(path: str) -> Shape:
    """How errors are written under a path."""
    if path.startswith((a1111_api.PREFIX, controlnet.PREFIX)):
        return a1111_api.shape
    return openai_api.shape if path.startswith(openai_api.PREFIX) else plain_shape


def _own(server: Server) -> list[Endpoint]:
    async def health(call: Call) -> Any:
        return {"status": "ok", "version": __version__}

    async def metrics(call: Call) -> Any:
        return PlainTextResponse(server.metrics.text(server.room), media_type=CONTENT_TYPE)

    return [
        Endpoint("GET", "/healthz", health, "Whether the server runs.", open=True, gives=Health),
        Endpoint(
            "GET",
            "/metrics",
            metrics,
            "Counters in Prometheus' text format.",
            media="text/plain",
        ),
    ]
