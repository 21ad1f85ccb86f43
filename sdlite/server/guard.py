"""What every request passes before anything reads it: host, origin, key, size, time; the log."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import ipaddress
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sdlite.server.limits import Limits
from sdlite.server.problem import QueueFull, Refused

log = logging.getLogger("sdlite.server")


@dataclass(frozen=True)
class Access:
    """Who may use the server."""

    hosts: frozenset[str] = frozenset()
    """Names the server goes by, beside localhost and plain addresses."""
    origins: frozenset[str] = frozenset()
    """Origins of web pages that may use it, like ``https://example.org``; ``*`` for every one."""
    api_keys: tuple[str, ...] = ()
    """Keys, any of which lets in: as bearer token, ``X-API-Key``, or password of basic auth."""
    users: tuple[tuple[str, str], ...] = ()
    """Names and passwords for basic auth."""

    @property
    def guarded(self) -> bool:
        """Whether a key or password is needed."""
        return bool(self.api_keys or self.users)


@dataclass
class _Body:
    """What came of a request's body."""

    size: int = 0
    whole: bool = False


class Guard:
    """ASGI middleware that refuses what must not get through.

    Args:
        app: what is behind it.
        access: who may use it.
        limits: size of bodies and how long they may take.
        open_paths: paths answered without a key.
        refuse: ``(path, error) -> response``: how the API of a path writes errors.
        count: called with the status of every answer.
    """

    def __init__(
        self,
        app: ASGIApp,
        access: Access,
        limits: Limits,
        open_paths: frozenset[str],
        refuse: Callable[[str, Refused], JSONResponse],
        count: Callable[[int], None],
    ) -> None:
        self._app = app
        self._access = access
        self._limits = limits
        self._open_paths = open_paths
        self._refuse = refuse
        self._count = count
        self._held = 0
        """Bytes of the bodies of requests that are not answered."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or pass on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        status = 0
        body = _Body()

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                taken = f"{time.perf_counter() - start:.4f}".encode()
                message = {
                    **message,
                    "headers": [
                        *message["headers"],
                        (b"x-process-time", taken),
                        (b"x-content-type-options", b"nosniff"),
                    ],
                }
            await send(message)

        try:
            headers = {name.lower(): value for name, value in scope["headers"]}
            try:
                self._check_host(headers)
                self._check_origin(headers)
                self._sign_in(scope, headers)
                read = self._measured(headers, receive, body)
            except Refused as error:
                await self._refuse(scope["path"], error)(scope, receive, send_on)
            else:
                await self._app(scope, read, send_on)
        finally:
            self._held -= body.size
            self._count(status)
            log.info(
                "request",
                extra={
                    "data": {
                        "method": scope["method"],
                        "path": scope["path"][:200],
                        "status": status,
                        "seconds": round(time.perf_counter() - start, 4),
                    }
                },
            )

    def _check_host(self, headers: Mapping[bytes, bytes]) -> None:
        """A page of a stranger's name that resolves to this machine must not be answered.

        An address cannot be rebound to another machine, so those are as good as localhost.
        """
        host = hostname(headers.get(b"host", b"").decode("latin-1"))
        if not self._known(host):
            raise Refused(
                421,
                f"this server does not go by the name {host[:80]!r}; "
                "start it with --allow-host NAME if it should",
                "unknown_host",
            )

    def _known(self, host: str) -> bool:
        if host == "localhost" or host.endswith(".localhost") or host in self._access.hosts:
            return True
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return False
        return True

    def _check_origin(self, headers: Mapping[bytes, bytes]) -> None:
        """A page of another site may neither read answers (CORS) nor order pictures."""
        raw = headers.get(b"origin")
        if raw is None:
            return
        origin = raw.decode("latin-1")
        if "*" in self._access.origins or origin in self._access.origins:
            return
        try:
            same = urlsplit(origin).netloc == headers.get(b"host", b"").decode("latin-1")
        except ValueError:
            same = False
        if not same:
            raise Refused(
                403,
                f"pages of {origin[:80]!r} may not use this server; "
                "start it with --allow-origin if they should",
                "forbidden_origin",
            )

    def _sign_in(self, scope: Scope, headers: Mapping[bytes, bytes]) -> None:
        access = self._access
        if not access.guarded or scope["path"] in self._open_paths:
            return
        if scope["method"] == "OPTIONS" and access.origins:
            return  # a preflight carries no key, and gets nothing but headers
        # All are compared, so that the time tells neither which matched nor how much of it.
        name = None
        for key in access.api_keys:
            if any(same(given, key) for given in _keys(headers)):
                # Not its place among the keys: jobs that are kept would get another owner with it.
                name = name or f"key {_digest(key).hex()[:8]}"
        user = _basic(headers)
        for known, password in access.users:
            given = user or ("", "")
            if same(given[0], known) & same(given[1], password) & (user is not None):
                name = name or f"user {known}"
        if name is None:
            # A browser asks for a password by itself, which may be the key.
            person = b"text/html" in headers.get(b"accept", b"")
            scheme = 'Basic realm="sdlite"' if access.users or person else "Bearer"
            raise Refused(
                401,
                "sign in with an API key or a user name and password",
                "unauthorized",
                {"WWW-Authenticate": scheme},
            )
        scope["sdlite.client"] = name

    def _measured(self, headers: Mapping[bytes, bytes], receive: Receive, body: _Body) -> Receive:
        limits = self._limits
        too_large = Refused(413, f"a body of more than {limits.body_bytes} bytes", "body_too_large")
        declared = headers.get(b"content-length", b"0")
        if not declared.isdigit() or len(declared) > 18:
            raise Refused(400, "Content-Length is no number", "invalid_header")
        if int(declared) > limits.body_bytes:
            raise too_large
        end = time.monotonic() + limits.body_seconds

        async def read() -> Message:
            if body.whole:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(end - time.monotonic(), 0.001))
            except TimeoutError:
                raise Refused(
                    408, f"the body did not come within {limits.body_seconds:g} seconds", "timeout"
                ) from None
            size = len(message.get("body", b""))
            body.size += size
            self._held += size
            if body.size > limits.body_bytes:
                raise too_large
            if self._held > limits.bodies_bytes:
                raise QueueFull("the requests that wait are too large together; try later", 10)
            body.whole = not message.get("more_body", False)
            return message

        return read


def hostname(text: str) -> str:
    """The name in a Host header, lower case, without port and brackets; empty when malformed."""
    try:
        parts = urlsplit(f"//{text}")
        name = parts.hostname or ""
        valid = parts.username is None and not parts.path and parts.port is not False
    except ValueError:
        return ""
    return name.rstrip(".") if valid else ""


def same(given: str, known: str) -> bool:
    """Compare secrets in a time that depends on neither."""
    return hmac.compare_digest(_digest(given), _digest(known))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def _keys(headers: Mapping[bytes, bytes]) -> list[str]:
    found = []
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer":
        found.append(token.strip().decode("utf-8", "surrogateescape"))
    if b"x-api-key" in headers:
        found.append(headers[b"x-api-key"].decode("utf-8", "surrogateescape"))
    user = _basic(headers)
    if user is not None:
        found.append(user[1])
    return found


def _basic(headers: Mapping[bytes, bytes]) -> tuple[str, str] | None:
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() != b"basic":
        return None
    try:
        text = base64.b64decode(token.strip(), validate=True).decode("utf-8", "surrogateescape")
    except (binascii.Error, ValueError):
        return None
    name, _, password = text.partition(":")
    return name, password
