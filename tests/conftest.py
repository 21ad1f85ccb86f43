"""What every test gets: the same examples each run, and no deadline a busy machine breaks."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

from sdlite.package import Package

settings.register_profile("sdlite", deadline=None, derandomize=True)
settings.load_profile("sdlite")


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder with a tiny random model; read only."""
    from tests.tiny import make_tiny_checkpoint

    return make_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint")


@pytest.fixture(scope="session")
def tiny_package(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Package:
    """The tiny model exported at fp16; read only. Copy the folder before breaking it."""
    from sdlite_export.export import export_package

    folder = tmp_path_factory.mktemp("tiny") / "package"
    export_package(tiny_checkpoint, folder, name="tiny")
    return Package.open(folder)
