"""The wheel: what is in it, and that it works where nothing else of the checkout is."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHAPES = ROOT / "models" / "shapes" / "package"

pytest.importorskip("hatchling", reason="the extra [dev] builds wheels")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (found,) = out.glob("*.whl")
    return found


@pytest.fixture(scope="session")
def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_top_level_is_exactly_ours(names: list[str]) -> None:
    top = {name.partition("/")[0] for name in names}
    info = {name for name in top if name.endswith(".dist-info")}
    assert len(info) == 1
    assert top - info == {"sdlite", "sdlite_export", "sdlite_runtimes"}


def test_types_travel_along(names: list[str]) -> None:
    for package in ("sdlite", "sdlite_export", "sdlite_runtimes"):
        assert f"{package}/py.typed" in names


def test_the_model_travels_along(names: list[str]) -> None:
    inside = {
        name.removeprefix("sdlite/_models/shapes/")
        for name in names
        if name.startswith("sdlite/_models/shapes/")
    }
    there = {path.relative_to(SHAPES).as_posix() for path in SHAPES.rglob("*") if path.is_file()}
    assert inside == there
    assert "sdlite.json" in inside


def test_the_page_travels_along(names: list[str]) -> None:
    built = ROOT / "sdlite" / "server" / "page" / "built"
    there = {f"sdlite/server/page/built/{path.name}" for path in built.iterdir()}
    assert there <= set(names) and "sdlite/server/page/built/app.js" in there
    assert not any("node_modules" in name or "/page/src/" in name for name in names)


def test_licence_and_commands(wheel: Path, names: list[str]) -> None:
    assert any(name.endswith("licenses/LICENSE") for name in names)
    (entry,) = [name for name in names if name.endswith("entry_points.txt")]
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(entry).decode()
    assert "sdlite = sdlite.cli:main" in text
    assert "onnxruntime = sdlite_runtimes.ort:OrtRuntime" in text


def test_nothing_of_the_workshop_is_in_it(names: list[str]) -> None:
    for name in names:
        assert not name.startswith(("tests", "scripts", "benchmarks", "models"))
        assert "__pycache__" not in name
        assert not name.endswith((".pt", ".ckpt"))


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's files in a folder of their own."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_it_draws_with_the_model_that_ships(installed: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the extra [cpu] has an engine")
    environment = os.environ | {"PYTHONPATH": str(installed), "SDLITE_HOME": str(tmp_path / "home")}
    program = "import sdlite, sys; print(sdlite.__file__); from sdlite.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "generate", "a red circle", "--steps", "2", "-o", "a.png"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    where, picture = done.stdout.splitlines()
    assert Path(where).is_relative_to(installed)
    assert picture == "a.png"
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
