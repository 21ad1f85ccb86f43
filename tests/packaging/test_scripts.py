"""The scripts that set everything up: what they say when they cannot."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
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
    folder = str(environment.ROOT / ".venv-try")
    assert [command[-2:] for command in calls] == [["--clear", folder], ["--editable", ".[cpu]"]]
    assert environment.environment(".venv-try", stages, "sdlite") == python
    assert len(calls) == 2


def test_a_failed_installation_is_tried_again(
    environment: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[list[str]] = []

    def fail_to_install(command: list[str], problem: str) -> None:
        made.append(command)
        if "pip" in command:
            environment.fail(problem)

    pretend_made(environment, ".venv-try", [["--editable", ".[cpu]"]])
    monkeypatch.setattr(environment, "run", fail_to_install)
    for _ in range(2):
        with pytest.raises(SystemExit, match="installing failed"):
            environment.environment(".venv-try", [["--editable", ".[dev]"]], "sdlite")
        assert not (environment.ROOT / ".venv-try" / environment.STAMP).exists()
    assert ["venv" in command for command in made] == [True, False] * 2


def test_an_environment_interrupted_before_it_had_pip_is_made_again(
    environment: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = environment.ROOT / ".venv-try"
    python = environment.python_of(folder)
    python.parent.mkdir(parents=True)
    python.touch()  # all that a Ctrl-C during ensurepip leaves
    real = environment.run

    def without_network(command: list[str], problem: str) -> None:
        if "install" not in command:
            real([*command, "--without-pip"], problem)

    monkeypatch.setattr(environment, "run", without_network)
    assert environment.environment(".venv-try", [["x"]], "sdlite") == python
    assert python.stat().st_size > 0


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


SLOW_TO_STOP = """
import signal, sys, time
try:
    print("started", *sys.argv[1:], flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(0.7)
    print("finished its step", flush=True)
    sys.exit(130)
"""


def start_try(folder: Path, program: str, *arguments: str) -> subprocess.Popen[str]:
    """``scripts/try.py`` with an environment that is there and a command that is ``program``."""
    (folder / "sdlite" / "cli").mkdir(parents=True)
    (folder / "sdlite" / "__init__.py").touch()
    (folder / "sdlite" / "cli" / "__init__.py").touch()
    (folder / "sdlite" / "cli" / "__main__.py").write_text(program)
    (folder / "_environment.py").write_text(
        "import sys, pathlib\ndef environment(*_): return pathlib.Path(sys.executable)\n"
    )
    shutil.copy(SCRIPTS / "try.py", folder)
    return subprocess.Popen(
        [sys.executable, str(folder / "try.py"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        start_new_session=True,
    )


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent as on POSIX")
def test_trying_lets_the_command_stop_in_its_own_time(tmp_path: Path) -> None:
    process = start_try(tmp_path, SLOW_TO_STOP, "a circle")
    assert process.stdout is not None
    assert process.stdout.readline() == "started generate a circle\n"
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    out, err = process.communicate(timeout=30)
    assert out == "finished its step\n"
    assert err == ""
    assert process.returncode == 130


@pytest.mark.parametrize(("end", "code"), [("sys.exit(2)", 2), ("print('a.png')", 0)])
def test_trying_ends_as_the_command_does(tmp_path: Path, end: str, code: int) -> None:
    process = start_try(tmp_path, f"import sys\n{end}\n")
    _, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert ("s in all; from now on" in err) == (code == 0)


def test_the_ci_script_is_valid_bash() -> None:
    bash = shutil.which("bash")
    if bash is None or sys.platform == "win32":
        pytest.skip("no bash")
    script = SCRIPTS.parent / ".ci" / "run"
    subprocess.run([bash, "-n", str(script)], check=True)
    assert script.stat().st_mode & 0o111
