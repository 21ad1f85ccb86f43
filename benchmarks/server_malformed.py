"""Requests that are wrong in every way: none may be answered 500 or not at all.

``python -m benchmarks.server_malformed [--count 2000] [--schemathesis ST]``. Part of the requests
are made by schemathesis from the published OpenAPI, which has to be true for that; the others are
made here: fields with values they cannot have, broken bodies and broken HTTP. After every few of
them a good request has to succeed.

schemathesis is no part of the development environment, as its plugin would be loaded by every run
of the tests: ``pip install schemathesis`` into one of its own, and give its ``st`` with
``--schemathesis``; without it all requests are made here.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import random
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from sdlite_runtimes.nullpackage import write_null_package

from benchmarks.machine import machine
from benchmarks.record import RESULTS, Measurement, write
from benchmarks.serving import Running, serving

PATIENCE = 30.0
"""Seconds after which an answer counts as none."""
EVERY = 25
"""A good request follows so many bad ones."""
SMALL = ("--max-pixels", "65536", "--max-steps", "8", "--max-images", "4", "--max-queue", "200")
"""Good requests among them shall not take long."""
REFUSED = frozenset({501, 503, 504, 507})
"""What a server may answer above 500: not supported, full, too long, no space."""
DEEP: Any = None
for _ in range(200):
    DEEP = [DEEP]
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, 10**30, 0.5, -0.5, 1e308, -1e308),
    *("", " ", "\x00", "a", "-1", "1e400", "NaN", "\ud800", "é" * 300, "x" * 30_000, "../../x"),
    *("/etc/passwd", "http://127.0.0.1/x.png", "data:image/png;base64,", "data:,x", "%00", "None"),
    *([], [1], [[]], ["x"] * 200, {}, {"a": 1}, {"args": [{}]}, {"": {"": []}}, DEEP),
)
RAW: tuple[bytes, ...] = (
    b"",
    b"\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
    b"GET /\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /%00/%ff/.. HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET http://localhost/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: \r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nOrigin: \xff\xfe\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 70_000 + b"\r\n\r\n",
    b"GET /" + b"y" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"POST /sdapi/v1/txt2img HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
    b"POST /sdapi/v1/txt2img HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
    b"POST /sdapi/v1/txt2img HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1" + b"0" * 30
    + b"\r\n\r\n{}",
    b"POST /sdapi/v1/txt2img HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n"
    b"Content-Length: 3\r\n\r\n{}",
    b"POST /sdapi/v1/txt2img HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz",
    b"POST /sdapi/v1/txt2img HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n",
    b"POST /v1/images/edits HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n"
    b"Content-Type: multipart/form-data\r\n\r\nhello",
    b"POST /v1/images/edits HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n"
    b"Content-Type: multipart/form-data; boundary=\xff\r\n\r\nhello",
    b"POST /v1/images/edits HTTP/1.1\r\nHost: localhost\r\nContent-Length: 11\r\n"
    b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\nx\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
)  # fmt: skip
BODIES: tuple[bytes, ...] = (
    *(b"{", b"[]", b"null", b'"x"', b"3", b"NaN", b"\xff\xfe", b"{}" * 3, b"\x00" * 20),
    *(b"[" * 50_000, b'{"a":' * 5000, b'{"seed": 1e999}', b'{"seed": ' + b"9" * 6000 + b"}"),
    b'{"prompt": "\\ud800"}',
)


@dataclass
class Found:
    """What came of it."""

    sent: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    """0 is a connection closed without an answer, which only broken HTTP may get."""
    wrong: list[str] = field(default_factory=list)
    slowest: float = 0.0


def operations(document: Mapping[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """Method, path and properties of the JSON body of everything published."""
    found = []
    schemas = document["components"]["schemas"]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            content = operation.get("requestBody", {}).get("content", {})
            name = content.get("application/json", {}).get("schema", {}).get("$ref", "")
            properties = schemas.get(name.rpartition("/")[2], {}).get("properties", {})
            found.append((method.upper(), path, properties))
    return found


def picture() -> str:
    stream = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def requests(document: Mapping[str, Any], seed: int) -> Iterator[tuple[str, str, bytes]]:
    """Method, path and body without end: of every operation in turn, wrong in some way."""
    chance = random.Random(seed)
    listed = [item for item in operations(document) if not item[1].startswith("/page")]
    fine = {"prompt": "a", "steps": 1, "image": picture(), "init_images": [picture()]}
    bomb = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"\x00" * 40).decode()
    while True:
        chance.shuffle(listed)
        # What draws has the most ways to be wrong.
        for method, path, properties in (*listed, *(item for item in listed if item[2])):
            for name in ("{job}", "{model}", "{number}", "{name}"):
                path = path.replace(name, chance.choice(("x", "..", "%00", "a" * 300, "-1", "é")))
            path = path.encode("utf-8").decode("latin-1")
            if not properties:
                body = chance.choice(BODIES) if method == "POST" else b""
                yield method, path + chance.choice(("", "?limit=x", "?size=-1&format=%ff")), body
                continue
            kind = chance.random()
            if kind < 0.1:
                yield method, path, chance.choice(BODIES)
                continue
            given = {name: value for name, value in fine.items() if name in properties}
            for name in chance.sample(
                sorted(properties), min(chance.randint(1, 4), len(properties))
            ):
                given[name] = chance.choice((*VALUES, bomb, fine))
            if kind < 0.2:
                given[chance.choice(("x", "", "__class__"))] = chance.choice(VALUES)
            yield method, path, json.dumps(given, ensure_ascii=True).encode()


def send(port: int, data: bytes, patience: float = PATIENCE) -> tuple[int, bytes]:
    """Status and body of an answer to bytes; 0 when the connection was closed without one."""
    with socket.create_connection(("127.0.0.1", port), timeout=patience) as connection:
        try:
            connection.sendall(data)
            answer = b""
            while piece := connection.recv(1 << 16):
                answer += piece
        except (ConnectionResetError, BrokenPipeError):
            return 0, b""
    head, _, body = answer.partition(b"\r\n\r\n")
    words = head.split(b" ", 2)
    return (int(words[1]) if len(words) > 2 and words[1].isdigit() else 0), body


def make(server: Running, count: int, seed: int, found: Found, raw_every: int = 20) -> None:
    """Send ``count`` bad requests, each ``raw_every``-th broken HTTP, good ones in between."""
    document = json.loads(server.ask("GET", "/openapi.json")[1])
    bad = requests(document, seed)
    for number in range(count):
        begun = time.monotonic()
        raw, patience = number % raw_every == raw_every - 1, PATIENCE
        if raw:
            # Half a request may wait for its other half: that is given up soon.
            patience = 0.5
            data = RAW[number // raw_every % len(RAW)]
            told = f"raw {data[:60]!r}"
        else:
            method, path, body = next(bad)
            told = f"{method} {path[:60]} {body[:150]!r}"
            head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            data = head.encode("latin-1") + b"Content-Length: %d\r\n\r\n" % len(body) + body
        try:
            status, _ = send(server.port, data, patience)
        except TimeoutError:
            if raw:
                note(found, 0, told, raw)
                continue
            found.wrong.append(f"no answer within {PATIENCE:g} s: {told}")
            continue
        finally:
            found.sent += 1
        found.slowest = max(found.slowest, time.monotonic() - begun)
        note(found, status, told, raw)
        if number % EVERY == EVERY - 1:
            good(server, found)


def note(found: Found, status: int, told: str, raw: bool = False) -> None:
    """Count an answer."""
    found.statuses[status] += 1
    if (status >= 500 and status not in REFUSED) or (status == 0 and not raw):
        found.wrong.append(f"{status}: {told}")


def good(server: Running, found: Found) -> None:
    """A request that is fine has to succeed."""
    body = {"prompt": "a", "steps": 1, "seed": 1}
    status, data = server.ask("POST", "/sdapi/v1/txt2img", body)
    if status != 200 or len(json.loads(data)["images"]) != 1:
        found.wrong.append(f"a good request was answered {status}: {data[:100]!r}")


def schemathesis(program: Path, server: Running, examples: int, seed: int, found: Found) -> None:
    """Let schemathesis make requests of the published description, and check it."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.har"
        # Not negative_data_rejection: bodies are read as leniently as in A1111, whose clients send
        # 0 for false and "20" for 20; what is published is what they should send.
        checks = "status_code_conformance,content_type_conformance,response_schema_conformance"
        checks += ",unsupported_method"
        command = [
            *(str(program), "run", f"http://127.0.0.1:{server.port}/openapi.json"),
            *("--checks", checks, "--max-examples", str(examples), "--seed", str(seed)),
            *("--phases", "coverage,fuzzing", "--request-timeout", str(PATIENCE), "--no-shrink"),
            *("--exclude-path-regex", "events$", "--continue-on-failure", "--warnings", "off"),
            *("--report", "har", "--report-har-path", str(report)),
            *("--suppress-health-check", "all"),
        ]
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
        if done.returncode not in (0, 1) or not report.exists():
            raise RuntimeError(f"schemathesis failed: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        entries = json.loads(report.read_text())["log"]["entries"]
    if done.returncode:
        print(done.stdout)
        found.wrong.append("the published description is not true: see above")
    found.sent += len(entries)
    for entry in entries:
        asked = entry["request"]
        text = asked.get("postData", {}).get("text", "")
        note(found, entry["response"]["status"], f"{asked['method']} {asked['url']} {text[:150]}")
    good(server, found)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.server_malformed", description=__doc__
    )
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--schemathesis", type=Path, help="the program st of schemathesis")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--note", action="append", default=[], help="what to say of this run")
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    before = machine()
    found = Found()
    with tempfile.TemporaryDirectory() as folder:
        write_null_package(Path(folder) / "models" / "tiny")
        os.environ["SDLITE_HOME"] = folder
        with serving("tiny", "--runtime", "null", *SMALL) as server:
            if given.schemathesis is not None:
                schemathesis(given.schemathesis, server, 10, given.seed, found)
            make(server, max(given.count - found.sent, given.count // 2), given.seed, found)
    for words in found.wrong[:20]:
        print(words)
    print(f"{found.sent} requests: {dict(sorted(found.statuses.items()))}")
    write(
        given.output / "server-malformed.json",
        "server_malformed",
        "Server: malformed requests",
        [
            Measurement(
                "malformed_wrong",
                f"{found.sent} malformed requests: answered 500, not at all, or good ones refused",
                "count",
                (float(len(found.wrong)),),
                target=0.0,
                note="; ".join(found.wrong[:3]),
            ),
            Measurement(
                "malformed_requests",
                "Requests",
                "count",
                (float(found.sent),),
                note="statuses: "
                + ", ".join(
                    f"{status} {count}x" for status, count in sorted(found.statuses.items())
                ),
            ),
            Measurement(
                "malformed_slowest_seconds",
                "Slowest answer to one made here",
                "s",
                (found.slowest,),
            ),
        ],
        machine_before=before,
        quick=given.count < 2000,
        notes=given.note,
    )
    return 1 if found.wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
