"""Pictures named by URL: only where allowed, and never from an address that is not public."""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("starlette", reason="the extra [server] is not installed")

from sdlite.server import fetch as fetching
from sdlite.server.fetch import fetch, is_public
from sdlite.server.problem import QueueFull, Refused

MOST = 100_000


def png() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(stream, "PNG")
    return stream.getvalue()


class Site(BaseHTTPRequestHandler):
    """Pictures, and everything else a site may answer."""

    def do_GET(self) -> None:
        if self.path.startswith("/slow"):
            with suppress(OSError):
                for byte in b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100:
                    self.wfile.write(bytes([byte]))
                    time.sleep(0.05)
            return
        elsewhere = {
            "/there": "/picture?x=1",
            "/round": "/round",
            "/inside": "http://127.0.0.2/picture",
            "/file": "file:///etc/passwd",
            "/nowhere": "",
        }
        if self.path in elsewhere:
            self.send_response(302)
            self.send_header("Location", elsewhere[self.path])
            self.end_headers()
            return
        self.send_response(404 if self.path == "/missing" else 200)
        self.end_headers()
        with suppress(OSError):
            self.wfile.write(png() if self.path.startswith("/picture") else bytes(2 * MOST))

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A site at 127.0.0.1, which alone counts as public."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(fetching, "is_public", lambda address: address == "127.0.0.1")
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    "address, public",
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("ff02::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:93.184.216.34", True),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
    ],
)
def test_addresses(address: str, public: bool) -> None:
    assert is_public(address) == public


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost/x.png",
        "http://127.0.0.1:22/",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "https://127.0.0.1/",
        "http://user@127.0.0.1/",
        "http://example.org@127.0.0.1/",
    ],
)
def test_private_addresses_are_not_connected_to(url: str) -> None:
    with pytest.raises(Refused, match=r"no public address|no host"):
        fetch(url, MOST, "the image")


def test_a_name_with_one_private_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    both = [(2, 1, 6, "", (address, 80)) for address in ("93.184.216.34", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
    with pytest.raises(Refused, match="no public address"):
        fetch("http://two.example/x.png", MOST, "the image")


@pytest.mark.parametrize(
    "url", ["ftp://a/x", "http://", "http:///x", "http://a:0/", "http://a/\r\nX: y", "http://é/x"]
)
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(Refused, match="no http or https URL"):
        fetch(url, MOST, "the image")


def test_fetching(site: str) -> None:
    assert fetch(f"{site}/picture", MOST, "the image") == png()
    assert fetch(f"{site}/there", MOST, "the image") == png()


@pytest.mark.parametrize(
    "path, words",
    [
        ("/round", "redirected more than 3 times"),
        ("/inside", "no public address"),
        ("/file", "no http or https URL"),
        ("/nowhere", "redirected more than 3 times"),
        ("/missing", "status 404"),
        ("/large", "more than 100000 bytes"),
    ],
)
def test_what_is_not_fetched(site: str, path: str, words: str) -> None:
    with pytest.raises(Refused, match=words):
        fetch(site + path, MOST, "the image")


def test_who_dribbles_is_given_up(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "SECONDS", 0.3)
    start = time.monotonic()
    with pytest.raises(Refused, match="could not be fetched"):
        fetch(f"{site}/slow", MOST, "the image")
    assert time.monotonic() - start < 10


def test_few_at_a_time(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "_places", threading.BoundedSemaphore(1))
    fetching._places.acquire()
    with pytest.raises(QueueFull):
        fetch(f"{site}/picture", MOST, "the image")
    fetching._places.release()
    assert fetch(f"{site}/picture", MOST, "the image") == png()


def test_only_where_it_is_allowed(serve: Any, site: str) -> None:
    body = {"init_images": [f"{site}/picture"], "steps": 1, "seed": 1}
    path = "/sdapi/v1/img2img"
    assert serve(fetches=True).post(path, json=body).status_code == 200
    refused = serve().post(path, json=body)
    assert refused.status_code == 422 and "URLs are not fetched" in refused.json()["errors"]
    body = {"prompt": "x", "steps": 1, "edit": {"image": f"{site}/missing"}}
    refused = serve(fetches=True).post("/api/v1/jobs", json=body)
    assert refused.status_code == 422 and "status 404" in refused.json()["error"]["message"]
