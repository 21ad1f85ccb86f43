"""Where assistants find the tools: standard input and output, or a route of the server."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

import anyio
from mcp.server.stdio import stdio_server
from mcp.server.transport_security import TransportSecuritySettings
from starlette.routing import BaseRoute

from sdlite.server.mcp.tools import Tools
from sdlite.server.state import Server

PATH = "/mcp"


def serve_stdio(server: Server) -> None:
    """Answer the program that started this one until it closes standard input."""

    async def run() -> None:
        protocol = Tools(server).protocol()
        async with stdio_server() as (incoming, outgoing):
            await protocol.run(incoming, outgoing, protocol.create_initialization_options())

    server.start()
    try:
        anyio.run(run)
    finally:
        server.stop()


def routes(server: Server) -> tuple[list[BaseRoute], AbstractAsyncContextManager[None]]:
    """The routes for HTTP, and what has to run while they are served.

    Host, origin, key and size of requests are checked by ``Guard`` as for every other route.
    """
    protocol = Tools(server).protocol()
    app = protocol.streamable_http_app(
        streamable_http_path=PATH,
        max_request_body_size=server.limits.body_bytes,
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
    )
    return list(app.routes), protocol.session_manager.run()
