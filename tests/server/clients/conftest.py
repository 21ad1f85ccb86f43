"""A server in a process of its own, with the model that ships and a real engine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sdlite_runtimes.nullpackage import write_null_package

import sdlite
from sdlite import home, registry
from sdlite.errors import RuntimeUnavailable

RUNTIME = "onnxruntime"
EDGES = Path(__file__).resolve().parents[3] / "models" / "shapes-edges" / "diffusers"


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``edges``, the model that ships with a ControlNet, and ``another``."""
    pytest.importorskip("onnx", reason="the extra [export] is not installed")
    if not EDGES.is_dir():
        pytest.skip("the ControlNet of the shapes model is not here")
    from sdlite_export.adapters import add_adapter

    folder = tmp_path_factory.mktemp("clients") / "models"
    write_null_package(folder / "another")
    add_adapter(EDGES, home.find_model("shapes"), folder / "edges", name="edges")
    return folder


@pytest.fixture(scope="session")
def upscalers(models: Path) -> Path:
    """An upscaler ``twice``, with random weights, beside the models."""
    from sdlite_export.upscaler.config import CompactConfig
    from sdlite_export.upscaler.export import export_upscaler

    from tests.export.test_upscalers import write

    source = write(models.parent / "twice.safetensors", CompactConfig(3, 4, 1, 2))
    folder = models / "upscalers"
    folder.mkdir()
    return export_upscaler(source, folder / "twice.onnx").path


@pytest.fixture(scope="session")
def port(models: Path, upscalers: Path) -> Iterator[int]:
    """Where the server answers."""
    pytest.importorskip("starlette", reason="the extra [server] is not installed")
    pytest.importorskip("uvicorn", reason="the extra [server] is not installed")
    try:
        registry.probe(RUNTIME)
    except RuntimeUnavailable as error:
        pytest.skip(str(error))
    command = [sys.executable, "-m", "sdlite.cli", "serve", "--port", "0", "--runtime", RUNTIME]
    command += ["--model", "shapes", "--threads", "1"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "SDLITE_HOME": str(models.parent)},
    ) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline().rpartition(":")[2])
        process.terminate()
    shutil.rmtree(models)


@pytest.fixture(scope="session")
def pipe() -> Iterator[sdlite.Pipeline]:
    """The same model in this process, to compare with."""
    with sdlite.load("shapes", runtime=RUNTIME, threads=1) as opened:
        yield opened
