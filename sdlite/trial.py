"""Import an engine in a process of its own first, on processors where that may end the process.

Wheels built for features a processor does not have end the process that imports them, without a
word. Where a processor has what all wheels known here are built for at most, nothing is tried;
elsewhere once for each version of the engine, where there is a folder to keep the answer in.
"""

from __future__ import annotations

import json
import logging
import signal
import sys
from pathlib import Path

from sdlite.errors import RuntimeUnavailable
from sdlite.hardware import describe

log = logging.getLogger("sdlite.trial")

ENOUGH = {"x86_64": "avx2", "arm64": "asimddp"}
"""A feature by architecture: processors that have it run every wheel known here."""
FILE = "engines.json"
SECONDS = 120
"""An import that takes longer hangs."""
_folder: Path | None = None


def keep_in(folder: Path) -> None:
    """Keep in a folder, for this process and later ones, which engines can be imported."""
    global _folder  # one machine a process
    _folder = folder


def check(module: str) -> None:
    """Raise ``RuntimeUnavailable`` for an engine that ends the process that imports it."""
    machine = describe()
    enough = ENOUGH.get(machine.arch)
    if enough is None or not machine.cpu_flags or enough in machine.cpu_flags:
        return
    if module in sys.modules or getattr(sys, "frozen", False):
        return
    # Imported here, and below: next to nobody needs them.
    import importlib.metadata

    try:
        version = importlib.metadata.version(module)
    except importlib.metadata.PackageNotFoundError:
        version = "unknown"
    key = f"{module} {version}, {machine.cpu_name}"
    if _folder is None:
        _try(module)
        return
    path = _folder / FILE
    try:
        known = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        known = {}
    if known.get(key) is True:
        return
    _try(module)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**known, key: True}), encoding="utf-8")
    except OSError as error:
        log.info("that %s can be imported is not kept: %s", module, error.strerror)


def _try(module: str) -> None:
    import subprocess

    command = [sys.executable, "-c", f"import {module}"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        reason = f"importing {module} takes longer than {SECONDS} s"
    else:
        # An exception ends with 1: the adapter says more of that.
        if done.returncode in (0, 1):
            return
        reason = f"importing {module} ends the process ({ended(done.returncode)})"
    raise RuntimeUnavailable(
        f"{reason}: its wheel does not fit this processor",
        f"Install an older version of {module}, or choose another engine with --runtime",
    )


def ended(code: int) -> str:
    """How a process ended, by its exit code."""
    if code < 0:
        try:
            return signal.Signals(-code).name
        except ValueError:
            return f"signal {-code}"
    return f"exit code {code:#x}" if code > 255 else f"exit code {code}"
