"""A server over the fake engine, with a client that speaks to it without a network."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sdlite_runtimes.null import NullRuntime
from sdlite_runtimes.nullpackage import write_null_package

from sdlite import registry
from tests.server.helpers import PROGRAM, Running
from tests.server.published import check

Serve = Callable[..., Any]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own, with the models ``tiny`` and ``other``."""
    for name in list(os.environ):
        if name.startswith("SDLITE_"):
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    write_null_package(home / "models" / "tiny")
    write_null_package(home / "models" / "other", size=32)
    monkeypatch.setenv("SDLITE_HOME", str(home))
    return home


@pytest.fixture
def serve(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Start a server: ``serve(engine_options, **setup)``.

    ``client.server`` is what is behind, ``client.stop(client)`` ends it politely.
    """
    from starlette.testclient import TestClient

    from sdlite.server.app import make_app
    from sdlite.server.state import Server, Setup

    clients: list[TestClient] = []

    def stop(client: TestClient) -> None:
        clients.remove(client)
        client.__exit__(None, None, None)

    def start(engine: dict[str, str] | None = None, **setup: Any) -> TestClient:
        monkeypatch.setitem(registry._runtimes, "null", NullRuntime(engine or {}))
        server = Server(Setup(**{"model": "tiny", "runtime": "null", **setup}))
        client = TestClient(make_app(server), base_url="http://localhost")
        client.server, client.stop = server, stop
        client.event_hooks["response"].append(check)
        client.__enter__()
        clients.append(client)
        return client

    yield start
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture
def client(serve: Serve) -> Any:
    """A server as it is without any option."""
    return serve()


@pytest.fixture
def start(place: Path) -> Iterator[Callable[..., Running]]:
    """Start a server in a process of its own: ``start(*options, delay=seconds)``."""
    running: list[Running] = []

    def run(*options: str, delay: float = 0.0) -> Running:
        command = [sys.executable, "-W", "error", "-c", PROGRAM, str(delay), "serve", "--port", "0"]
        command += ["--model", "tiny", "--runtime", "null", *options]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        running.append(Running(process))
        return running[-1]

    yield run
    for server in running:
        server.process.kill()
        server.process.communicate()
