"""The scripts that set everything up: what they say when they cannot."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """``scripts/_environment.py`` for a checkout that is nearly empty."""
    specification = importlib.util.spec_from_file_location(
        "_environment", SCRIPTS / "_environment.py"
    )
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    return module


def pretend_made(module: ModuleType, name: str, stages: list[list[str]]) -> Path:
    python: Path = module.python_of(module.ROOT / name)
    python.parent.mkdir(parents=True)
    python.touch()
    (module.ROOT / name / module.STAMP).write_text(module.stamp_of(stages))
    return python


def test_an_environment_is_made_once(
    environment: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[list[str]] = []
    monkeypatch.setattr(environment, "run", lambda command, problem: calls.append(command))
    stages = [["--editable", ".[cpu]"]]
    python = pretend_made(environment, ".venv-try", stages)
    assert environment.environment(".venv-try", stages, "sdlite") == python
    assert calls == []
    (environment.ROOT / "pyproject.toml").write_text("[project]\nname = 'other'\n")
    assert environment.environment(".venv-try", stages, "sdlite") == python
    assert [command[-2:] for command in calls] == [["--editable", ".[cpu]"]]
    assert environment.environment(".venv-try", stages, "sdlite") == python
    assert len(calls) == 1


def test_a_failed_installation_is_tried_again(
    environment: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(command: list[str], problem: str) -> None:
        environment.fail(problem)

    pretend_made(environment, ".venv-try", [["--editable", ".[cpu]"]])
    monkeypatch.setattr(environment, "run", fail)
    with pytest.raises(SystemExit, match="installing failed"):
        environment.environment(".venv-try", [["--editable", ".[dev]"]], "sdlite")
    assert not (environment.ROOT / ".venv-try" / environment.STAMP).exists()


def test_a_python_without_venv(environment: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="sudo apt install python3-venv"):
        environment.environment(".venv-try", [["x"]], "sdlite")


@pytest.mark.parametrize("version", [(3, 10), (3, 14)])
def test_a_python_that_does_not_fit(
    environment: ModuleType, monkeypatch: pytest.MonkeyPatch, version: tuple[int, int]
) -> None:
    monkeypatch.setattr(sys, "version_info", (*version, 0, "final", 0))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match=r"needs Python 3\.11, 3\.12 or 3\.13, this is 3\.1"):
        environment.suitable_python()
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert environment.suitable_python() == "/usr/bin/python3.13"


def test_the_ci_script_is_valid_bash() -> None:
    bash = shutil.which("bash")
    if bash is None or sys.platform == "win32":
        pytest.skip("no bash")
    script = SCRIPTS.parent / ".ci" / "run"
    subprocess.run([bash, "-n", str(script)], check=True)
    assert script.stat().st_mode & 0o111
