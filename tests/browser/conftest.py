"""A real browser, and servers for it in processes of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from sdlite_runtimes.nullpackage import write_null_package

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE_MS = 90_000
KEYS = [f"key-{number}" for number in range(60)]
PROGRAM = """
import pathlib, sys, time, types
from sdlite import registry
from sdlite.cli import main
from sdlite_runtimes import null
delay, fails, gate = sys.argv.pop(1), sys.argv.pop(1), pathlib.Path(sys.argv.pop(1))
options = {"component": "unet", "delay": delay} | ({"fail_call": fails} if fails else {})
registry._runtimes["null"] = null.NullRuntime(options)
made = 0
def pause(seconds):
    global made
    made += seconds > 0
    while seconds and made > int(gate.read_text()):
        time.sleep(0.005)
    time.sleep(seconds)
null.time = types.SimpleNamespace(sleep=pause)
main()
"""
NO_TIME = 1e-6
"""Seconds of a call that takes none, but counts."""


def chromium() -> str | None:
    """The browser: what CHROMIUM names, else the first that is installed."""
    named = os.environ.get("CHROMIUM")
    return named or next(filter(None, map(shutil.which, NAMES)), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a window, for one file: its event loop must not outlive those tests."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    pytest.importorskip("starlette", reason="the extra [server] is not installed")
    path = chromium()
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed, CHROMIUM names none")
    with api.sync_playwright() as playwright:
        # Its sandbox does not work for root, nor in most containers; only our own page is opened.
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        running = playwright.chromium.launch(executable_path=path, args=arguments)
        yield running
        running.close()


class Running:
    """A server in a process of its own.

    Args:
        options: of ``sdlite serve``.
        environment: of the process.
        delay: seconds each call of the U-Net takes.
        fails: which call of it fails; empty for none.
        calls: how many are made before it waits; None for as many as there are.
    """

    def __init__(
        self,
        options: tuple[str, ...],
        environment: dict[str, str],
        *,
        delay: float = NO_TIME,
        fails: str = "",
        calls: int | None = None,
    ) -> None:
        self.options, self.delay, self.fails = options, delay, fails
        self.environment = environment
        self.gate = Path(environment["SDLITE_HOME"]) / f"calls-{id(self)}"
        self.allow(calls)
        self.keys = [word for word in options if word in KEYS]
        self.url = ""
        self.start("0")

    def start(self, port: str) -> None:
        """Start, on a port; 0 is any."""
        settings = [str(self.delay), self.fails, str(self.gate)]
        command = [sys.executable, "-c", PROGRAM, *settings, "serve"]
        self.process = subprocess.Popen(
            [*command, "--port", port, *self.options],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=self.environment,
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().removeprefix("sdlite serves ").strip()
        assert self.url, "the server did not start"

    def allow(self, calls: int | None = None) -> None:
        """Let the U-Net be called so often since the process started; None as often as it is."""
        fresh = self.gate.with_suffix(".new")
        fresh.write_text(str(10**9 if calls is None else calls))
        fresh.replace(self.gate)

    def kill(self) -> None:
        """End it without a word, as a crash does, unless that was done."""
        if self.process.returncode is None:
            self.process.kill()
            self.process.communicate()

    def next_key(self) -> str | None:
        """A key nobody used yet: whoever has it sees no jobs of other tests."""
        return self.keys.pop() if self.keys else None

    def restart(self) -> None:
        """Start again at the same place."""
        self.start(self.url.rpartition(":")[2])


def environment_of(home: Path) -> dict[str, str]:
    """Of a server with the model ``tiny``, a LoRA and an embedding in a home of its own."""
    write_null_package(home / "models" / "tiny")
    for place, name in (("loras", "ink"), ("embeddings", "zork")):
        folder = home / "models" / place
        folder.mkdir()
        (folder / f"{name}.safetensors").write_bytes(b"")
        Image.new("RGB", (64, 64), "teal").save(folder / f"{name}.png")
    kept = {name: text for name, text in os.environ.items() if not name.startswith("SDLITE_")}
    return kept | {"SDLITE_HOME": str(home)}


@pytest.fixture(scope="module")
def shared(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server that draws at once; every visit has a key of its own."""
    environment = environment_of(tmp_path_factory.mktemp("shared") / "home")
    keys = [word for key in KEYS for word in ("--api-key", key)]
    server = Running(("--model", "tiny", "--runtime", "null", *keys), environment)
    yield server
    server.kill()


@pytest.fixture
def serve(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Start a server on the fake engine: ``serve(*options, delay=, fails=, calls=)``."""
    environment = environment_of(tmp_path / "home")
    servers: list[Running] = []

    def start(*options: str, real: bool = False, **settings: Any) -> Running:
        fake = () if real else ("--model", "tiny", "--runtime", "null")
        servers.append(Running((*fake, *options), environment, **settings))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open the page of a server: ``visit(server, **options of the context)``; scripts must not
    fail in it."""
    contexts: list[Any] = []
    problems: list[str] = []

    def opened(server: Running, **options: Any) -> Any:
        settings = {"viewport": {"width": 1280, "height": 860}, "locale": "en-GB"} | options
        key = server.next_key()
        if key is not None:
            # As in the browser's own dialog, once the server has said that it wants a password.
            settings["http_credentials"] = {
                "username": "anybody",
                "password": key,
                "send": "always",
            }
        context = browser.new_context(**settings)
        context.set_default_timeout(PATIENCE_MS)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(server.url)
        page.wait_for_selector("#prompt")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not problems


@pytest.fixture
def asked() -> Callable[[Any], list[dict[str, Any]]]:
    """Collects the jobs a page asks for: ``asked(page)`` is a list that grows."""

    def listen(page: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []

        def note(request: Any) -> None:
            if request.method == "POST" and request.url.endswith("/api/v1/jobs"):
                found.append(request.post_data_json)

        page.on("request", note)
        return found

    return listen
