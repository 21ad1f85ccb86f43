"""A home of its own for every test, with one model of the fake engine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from sdlite_runtimes.nullpackage import write_null_package

from sdlite.cli import main

Run = Callable[..., Result]

SLOW_PROGRAM = """
import sys
from sdlite import registry
from sdlite.cli import main
from sdlite_runtimes.null import NullRuntime

def event(what, artifact):
    print(f"[{what} {artifact.component}]", file=sys.stderr, flush=True)

options = {"component": "unet", "delay": sys.argv.pop(1)}
registry._runtimes["null"] = NullRuntime(options, event if options["delay"] > "1" else None)
main()
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, and a home beside it that holds the model ``tiny``."""
    for name in list(os.environ):
        if name.startswith("SDLITE_"):
            monkeypatch.delenv(name)
    place = tmp_path / "home"
    write_null_package(place / "models" / "tiny")
    monkeypatch.setenv("SDLITE_HOME", str(place))
    monkeypatch.setenv("SDLITE_MODEL", "tiny")
    monkeypatch.setenv("SDLITE_RUNTIME", "null")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return place


@pytest.fixture
def run(home: Path) -> Run:
    """The command in this process."""

    def call(*arguments: str, input: str | bytes | None = None) -> Result:
        return CliRunner().invoke(main, list(arguments), input=input)

    return call


@pytest.fixture
def start(home: Path) -> Callable[..., subprocess.Popen[str]]:
    """The command in a process of its own, each call of the U-Net taking ``delay`` seconds."""

    def call(delay: float, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", SLOW_PROGRAM, str(delay), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return call
