"""Pictures from addresses on the internet, where the server was started to allow it.

A stranger may name any address, so none that is not public is connected to: every address a name
stands for is looked at, and the connection goes to the one that was looked at, whatever the name
stands for a moment later.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import threading
import time
from contextlib import suppress
from urllib.parse import SplitResult, urljoin, urlsplit

from sdlite import __version__
from sdlite.server.problem import QueueFull, Refused

SECONDS = 20.0
"""How long fetching one picture may take, redirections included."""
REDIRECTIONS = 3
"""How often an address may point to another."""
AT_ONCE = 4
"""Pictures that are fetched at a time; each takes one of the server's threads."""
PIECE = 1 << 16
TRANSLATED = ipaddress.ip_network("64:ff9b::/96")
"""IPv6 addresses that stand for IPv4 ones behind a translator (RFC 6052)."""

_places = threading.BoundedSemaphore(AT_ONCE)


def fetch(url: str, most: int, name: str) -> bytes:
    """What is at a URL.

    Args:
        url: http or https.
        most: bytes.
        name: of the picture, for errors.

    Raises:
        Refused: the address is not public, does not answer in time or with something else than
            the file, or the file is too large.
        QueueFull: too many are being fetched.
    """
    if not _places.acquire(blocking=False):
        raise QueueFull(f"{AT_ONCE} pictures are being fetched; try again later", 5)
    try:
        end = time.monotonic() + SECONDS
        for _ in range(REDIRECTIONS + 1):
            found = _fetch(_parts(url, name), most, name, end)
            if isinstance(found, bytes):
                return found
            url = urljoin(url, found)
        raise _failed(name, f"it was redirected more than {REDIRECTIONS} times")
    finally:
        _places.release()


def _parts(url: str, name: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        fine = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        fine = False
    if not fine or not url.isascii() or any(char <= " " for char in url):
        raise Refused(422, f"{name}: {url[:80]!r} is no http or https URL", "invalid_url")
    return parts


def _fetch(parts: SplitResult, most: int, name: str, end: float) -> bytes | str:
    """The file, or where it is instead."""
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    connection = http.client.HTTPConnection(host, port)
    hurry: threading.Timer | None = None
    try:
        connection.sock = sock = _connect(host, port, name, end)
        if parts.scheme == "https":
            connection.sock = sock = ssl.create_default_context().wrap_socket(
                sock, server_hostname=host, do_handshake_on_connect=False
            )
        # A server that sends a byte now and then is never late for the socket's own timeout.
        hurry = threading.Timer(max(end - time.monotonic(), 0.0), _hang_up, [sock])
        hurry.daemon = True
        hurry.start()
        if isinstance(sock, ssl.SSLSocket):
            sock.do_handshake()
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        agent = {"User-Agent": f"sdlite/{__version__}", "Accept": "image/*"}
        connection.request("GET", path, headers=agent)
        data = bytearray()
        with connection.getresponse() as answer:
            if answer.status in (301, 302, 303, 307, 308):
                return answer.headers.get("Location", "")
            if answer.status != 200:
                raise _failed(name, f"the answer had status {answer.status}")
            while piece := answer.read(PIECE):
                data += piece
                if len(data) > most:
                    raise Refused(413, f"{name} has more than {most} bytes", "body_too_large")
        if time.monotonic() > end:
            raise _failed(name, f"it did not come within {SECONDS:g} seconds")
        return bytes(data)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _failed(name, f"{type(error).__name__} on the way") from error
    finally:
        if hurry is not None:
            hurry.cancel()
        connection.close()


def _connect(host: str, port: int, name: str, end: float) -> socket.socket:
    """A connection to an address that was looked at."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise _failed(name, f"there is no host {host[:80]!r}") from error
    addresses = [str(entry[4][0]) for entry in found]
    # One name for a public and a private address is how the check would be got round.
    if not addresses or not all(map(is_public, addresses)):
        raise Refused(
            422,
            f"{name}: {host[:80]!r} is no public address; only those are fetched from",
            "forbidden_url",
        )
    return socket.create_connection((addresses[0], port), timeout=max(end - time.monotonic(), 0.1))


def is_public(text: str) -> bool:
    """Whether an address is one of the internet's, also where it wraps another one."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        if address in TRANSLATED or address.sixtofour or address.teredo:
            return False
        if address.ipv4_mapped is not None:
            return is_public(str(address.ipv4_mapped))
    return address.is_global and not address.is_multicast


def _hang_up(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _failed(name: str, why: str) -> Refused:
    return Refused(422, f"{name} could not be fetched: {why}", "not_fetched")
