"""The built files of the page as routes."""

from __future__ import annotations

import gzip
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from starlette.responses import Response

from sdlite.server.call import Call, Endpoint
from sdlite.server.problem import Refused

BUILT = Path(__file__).parent / "built"
INDEX = "index.html"
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".webmanifest": "application/manifest+json",
}
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "connect-src 'self'",
        "manifest-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""The page may load nothing but its own files, and nobody may frame it."""


@cache
def _read(name: str) -> tuple[bytes, bytes, str]:
    """A file as it is, compressed, and its tag."""
    data = (BUILT / name).read_bytes()
    return data, gzip.compress(data, 9, mtime=0), f'"{hashlib.sha256(data).hexdigest()[:16]}"'


@cache
def names() -> frozenset[str]:
    """The files there are."""
    return frozenset(path.name for path in BUILT.iterdir() if path.suffix in MEDIA_TYPES)


def answer(call: Call, name: str) -> Response:
    """A file; browsers ask every time whether it changed, so that an update shows at once."""
    if name not in names():
        raise Refused(404, f"the page has no file {name[:40]!r}", "not_found")
    data, small, tag = _read(name)
    asked = call.request.headers
    headers = {
        "ETag": tag,
        "Cache-Control": "no-cache",
        "Vary": "Accept-Encoding",
        "Content-Security-Policy": POLICY,
        "Referrer-Policy": "no-referrer",
    }
    if tag in asked.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    if "gzip" in asked.get("accept-encoding", ""):
        data, headers["Content-Encoding"] = small, "gzip"
    return Response(data, media_type=MEDIA_TYPES[Path(name).suffix], headers=headers)


def endpoints() -> list[Endpoint]:
    """The page's routes."""

    async def index(call: Call) -> Any:
        return answer(call, INDEX)

    async def file(call: Call) -> Any:
        return answer(call, call.request.path_params["name"])

    return [
        Endpoint("GET", "/", index, "The page for people.", media="text/html"),
        Endpoint("GET", "/page/{name}", file, "A file of the page.", media="*/*"),
    ]
