"""A server in a process of its own, with the model that ships and a real engine."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sdlite_runtimes.nullpackage import write_null_package

import sdlite
from sdlite import registry
from sdlite.errors import RuntimeUnavailable

RUNTIME = "onnxruntime"


@pytest.fixture(scope="session")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Where the server answers; it offers ``shapes`` and another model."""
    pytest.importorskip("starlette", reason="the extra [server] is not installed")
    pytest.importorskip("uvicorn", reason="the extra [server] is not installed")
    try:
        registry.probe(RUNTIME)
    except RuntimeUnavailable as error:
        pytest.skip(str(error))
    folder: Path = tmp_path_factory.mktemp("clients")
    write_null_package(folder / "models" / "another")
    command = [sys.executable, "-m", "sdlite.cli", "serve", "--port", "0", "--runtime", RUNTIME]
    command += ["--model", "shapes", "--models", str(folder / "models"), "--threads", "1"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline().rpartition(":")[2])
        process.terminate()


@pytest.fixture(scope="session")
def pipe() -> Iterator[sdlite.Pipeline]:
    """The same model in this process, to compare with."""
    with sdlite.load("shapes", runtime=RUNTIME, threads=1) as opened:
        yield opened
