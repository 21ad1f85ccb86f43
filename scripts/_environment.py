"""Virtual environments inside the checkout, made with what every Python has. No imports of ours."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STAMP = "sdlite-stamp.txt"
OLDEST, NEWEST = (3, 11), (3, 13)


def fail(message: str) -> None:
    """One clear line, and the exit code of a failure."""
    sys.exit(f"sdlite: error: {message}")


def suitable_python() -> str:
    """This interpreter, or another one on the path whose version sdlite runs on."""
    if OLDEST <= sys.version_info[:2] <= NEWEST:
        # Not the one in the environment itself, which would delete what it runs from.
        return getattr(sys, "_base_executable", sys.executable)
    for minor in range(NEWEST[1], OLDEST[1] - 1, -1):
        found = shutil.which(f"python3.{minor}")
        if found:
            return found
    this = ".".join(map(str, sys.version_info[:2]))
    fail(f"sdlite needs Python 3.11, 3.12 or 3.13, this is {this}; install one from python.org")
    raise AssertionError


def python_of(folder: Path) -> Path:
    """The interpreter of a virtual environment."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def stamp_of(stages: list[list[str]]) -> str:
    """What an environment depends on: the project file, this file, what is installed."""
    parts = [(ROOT / "pyproject.toml").read_bytes(), Path(__file__).read_bytes()]
    parts.append(repr((stages, sys.version_info[:2], sys.platform)).encode())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def environment(name: str, stages: list[list[str]], about: str) -> Path:
    """Make the environment ``name`` in the checkout, or take it as it is when nothing changed.

    Each stage is one call of ``pip install``, run in the checkout. Returns its interpreter. What
    is made halfway is made again the next time.
    """
    folder = ROOT / name
    python = python_of(folder)
    stamp = folder / STAMP
    wanted = stamp_of(stages)
    if python.exists() and stamp.is_file() and stamp.read_text() == wanted:
        return python
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        fail(
            "this Python cannot make virtual environments; on Debian and Ubuntu install it with: "
            "sudo apt install python3-venv"
        )
    print(f"sdlite: installing {about} into {folder} (once)", file=sys.stderr, flush=True)
    stamp.unlink(missing_ok=True)
    # From scratch: one that was interrupted has an interpreter, but perhaps no pip.
    make = [suitable_python(), "-m", "venv", "--clear", str(folder)]
    run(make, "making a virtual environment failed")
    for stage in stages:
        pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
        run([*pip, *stage], "installing failed; is there a network connection, and disk space?")
    stamp.write_text(wanted)
    return python


def run(command: list[str], problem: str) -> None:
    """Run in the checkout; end with ``problem`` when it fails."""
    # What pip prints is for people, and standard output belongs to the program that is started.
    done = subprocess.run(command, cwd=ROOT, stdout=sys.stderr, check=False)
    if done.returncode:
        fail(f"{problem} (exit code {done.returncode}: {' '.join(command)})")
