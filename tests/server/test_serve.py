"""``sdlite serve`` as a process: it starts, answers, notices who goes away, and ends."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

pytest.importorskip("starlette", reason="the extra [server] is not installed")
pytest.importorskip("uvicorn", reason="the extra [server] is not installed")

from sdlite.cli import main
from sdlite.cli.serve import is_loopback, serve, users
from sdlite.errors import RequestError
from tests.server.helpers import Running, until


def ask(server: Running, body: dict[str, Any], path: str = "/sdapi/v1/txt2img") -> socket.socket:
    """Send a request and leave the answer unread."""
    host, _, port = server.url.removeprefix("http://").partition(":")
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(data)}\r\n\r\n"
    connection = socket.create_connection((host, int(port)), timeout=30)
    connection.sendall(head.encode() + data)
    return connection


LONG = {"prompt": "secret words", "steps": 150, "cfg_scale": 1}


def test_listens_on_this_machine_only(start: Callable[..., Running]) -> None:
    server = start()
    assert server.url.startswith("http://127.0.0.1:")
    assert server.get("/healthz")["status"] == "ok"


def test_who_goes_away_frees_the_place(start: Callable[..., Running]) -> None:
    server = start(delay=0.05)
    first, second = ask(server, LONG), ask(server, LONG)

    def count(name: str) -> int:
        with urllib.request.urlopen(server.url + "/metrics", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        return int(next(line for line in lines if line.startswith(name)).split()[-1])

    until(lambda: count("sdlite_jobs_running") == 1 and count("sdlite_jobs_waiting") == 1)
    second.close()
    until(lambda: count("sdlite_jobs_waiting") == 0)
    first.close()
    until(lambda: count("sdlite_jobs_running") == 0)
    assert count('sdlite_jobs_total{state="cancelled"}') == 2


def test_who_leaves_a_stream_frees_the_place_too(start: Callable[..., Running]) -> None:
    server = start(delay=0.05)
    body = {"prompt": "x", "steps": 150, "guidance": 1, "stream": True, "partial_images": 1}
    connection = ask(server, body, "/v1/images/generations")

    def text() -> str:
        with urllib.request.urlopen(server.url + "/metrics", timeout=30) as answer:
            return str(answer.read().decode())

    until(lambda: "sdlite_jobs_running 1" in text())
    connection.close()
    until(lambda: 'sdlite_jobs_total{state="cancelled"} 1' in text())


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals for processes")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_ends_when_asked_to(start: Callable[..., Running], name: str) -> None:
    server = start(delay=0.05)
    with ask(server, LONG) as connection:
        until(lambda: server.get("/sdapi/v1/progress")["progress"] > 0)
        server.process.send_signal(getattr(signal, name))
        answer = connection.recv(1000)
    assert b" 409 " in answer.splitlines()[0]
    output, errors = server.process.communicate(timeout=30)
    assert output == "" and "Traceback" not in errors and "secret" not in errors
    assert server.process.returncode in (0, 130, -getattr(signal, name))


def test_who_sends_no_request_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    import uvicorn
    from starlette.responses import PlainTextResponse
    from uvicorn.server import ServerState

    from sdlite.server import run

    monkeypatch.setattr(run, "HEAD_SECONDS", 0.2)
    config = uvicorn.Config(PlainTextResponse("fine"), log_config=None, lifespan="off", ws="none")
    config.load()
    head = b"GET / HTTP/1.1\r\nHost: localhost\r\n"

    async def answers(*pieces: bytes) -> bytes:
        """What comes until the server hangs up, each piece sent a moment after the other."""
        loop = asyncio.get_running_loop()
        state = ServerState()
        server = await loop.create_server(
            lambda: run.Protocol(config, state, {}, loop), "127.0.0.1", 0
        )
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0.05)
        answer = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()
        return answer

    assert asyncio.run(answers()) == b""
    assert asyncio.run(answers(head)) == b""
    assert b"fine" in asyncio.run(answers(head, b"Connection: close\r\n\r\n"))
    # Between two requests there is more time, but not for half of the second.
    assert asyncio.run(answers(head + b"\r\n", head)).count(b"fine") == 1


def refusal(*words: str) -> str:
    result = CliRunner().invoke(main, ["serve", *words])
    assert result.exit_code in (1, 2) and result.stderr.count("\n") == 1
    return result.stderr


def test_bad_options(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDLITE_MODEL", "tiny")
    assert "can be reached by other machines" in refusal("--host", "0.0.0.0")
    assert "unknown model 'tyni'" in refusal("--model", "tyni")
    assert "--api-auth" in refusal("--api-auth", "secret")
    assert "secret" not in refusal("--api-auth", "secret")
    assert "--models" in refusal("--models", "/no/such/folder")
    assert "--port" in refusal("--port", "70000")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "cannot listen" in refusal("--port", str(taken.getsockname()[1]))
    assert "cannot listen" in refusal("--host", "no.such.host.invalid", "--no-key")


def test_a_missing_extra_is_named(place: Path) -> None:
    code = "import sys; sys.modules['uvicorn'] = None; from sdlite.cli import main; main()"
    command = [sys.executable, "-c", code, "serve"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and 'pip install "sdlite[server]"' in done.stderr


def test_words_of_options() -> None:
    assert users("a:b,c:d:e") == (("a", "b"), ("c", "d:e"))
    with pytest.raises(RequestError):
        users("a:")
    assert is_loopback("127.0.0.1") and is_loopback("::1") and is_loopback("localhost")
    assert not is_loopback("0.0.0.0") and not is_loopback("example.org")


def test_it_answers_before_numpy_and_pillow_are_loaded(place: Path) -> None:
    code = """if True:
        import sys
        import sdlite.cli, sdlite.server.run
        from sdlite.server.app import make_app
        from sdlite.server.state import Server, Setup
        make_app(Server(Setup()))
        print({"numpy", "PIL", "sqlite3", "mcp"} & sys.modules.keys())
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_deployment_names_options_that_are_there() -> None:
    text = (Path(__file__).parents[2] / "docs" / "deploy.md").read_text(encoding="utf-8")
    there = {name for option in serve.params for name in option.opts}
    lines = [line for line in text.splitlines() if re.search(r"\bserve\b.*--", line)]
    named = set(re.findall(r"--[a-z-]+", " ".join(lines)))
    assert len(lines) >= 2 and named <= there
