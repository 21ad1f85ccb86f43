"""Checkpoints of the model folders made into packages, and ControlNets added to those, one at a
time, in a process of its own."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdlite import home
from sdlite.errors import PackageError, UnknownName
from sdlite.server.problem import Refused
from sdlite.server.shelf import Shelf

PERCENT = re.compile(rb"(\d+)%\|")
"""What the command's bar writes."""
LAST_BYTES = 4000
"""How much of the end of what it wrote is kept, for its error."""
GRAPHS_BYTES = 16 << 20
"""Disk for graphs, tokenizer and manifest, beside the weights: what the exporter keeps free."""
END_SECONDS = 10.0
"""How long it may take to tidy up when it is stopped."""


@dataclass
class Export:
    """One that runs, or ran."""

    name: str
    """Of the file."""
    model: str | None
    """What a ControlNet is added to; None for a checkpoint."""
    process: subprocess.Popen[bytes]
    """``sdlite export``."""
    state: str = "running"
    """``running``, ``done``, ``failed`` or ``cancelled``."""
    share: float = 0.0
    """How much is done."""
    error: str | None = None
    """The line the command ended with."""


class Exports:
    """What can be exported, and what becomes of it.

    The process keeps the memory of an export out of the server, and a crash of it too.

    Args:
        folders: with models, beside the user's own.
        shelf: has what the packages say of themselves.
        changed: called when a package was made or changed.
    """

    def __init__(
        self, folders: Sequence[Path], shelf: Shelf, changed: Callable[[], object]
    ) -> None:
        self._folders = tuple(folders)
        self._shelf = shelf
        self._changed = changed
        self._lock = threading.Lock()
        self._exports: dict[tuple[str, bool], Export] = {}

    def checkpoints(self) -> dict[str, home.Model]:
        """By name, the first of each; no path ever comes from a client."""
        found: dict[str, home.Model] = {}
        for model in home.models(self._folders):
            if not model.ready:
                found.setdefault(model.name, model)
        return found

    def view(self) -> dict[str, Any]:
        """All as JSON."""
        from sdlite.assets import assets  # not at the top: it reads tensors, with NumPy

        place = home.folders().models
        while not place.exists():
            place = place.parent
        checkpoints = [
            self._row(name, model.path, False) | {"exported": _target(model).exists()}
            for name, model in self.checkpoints().items()
        ]
        packages = self.packages()
        controls = [
            self._row(item.name, item.path, True)
            | {"models": [name for name, model in packages.items() if self._has(model, item.name)]}
            for item in assets("ControlNet")
        ]
        return {
            "checkpoints": checkpoints,
            "controls": controls,
            "packages": list(packages),
            "free_bytes": shutil.disk_usage(place).free,
        }

    def packages(self) -> dict[str, home.Model]:
        """What a ControlNet can be added to: packages, but not those that come with sdlite."""
        ours = home.shipped()
        return {
            model.name: model
            for model in self._shelf.models()
            if model.kind == "package" and model.path not in ours
        }

    def _has(self, model: home.Model, name: str) -> bool:
        try:
            adapters = self._shelf.manifest(model).adapters
        except PackageError:
            return False
        return any(adapter.name == name for adapter in adapters)

    def _row(self, name: str, path: Path, control: bool) -> dict[str, Any]:
        export = self._exports.get((name, control))
        return {
            "name": name,
            "bytes": _needed(path),
            "state": None if export is None else export.state,
            "share": 0.0 if export is None else export.share,
            "error": None if export is None else export.error,
        }

    def start(self, name: str, model: str | None = None) -> None:
        """Make a package of a checkpoint, or add a ControlNet to ``model``.

        Raises ``UnknownName``, or ``Refused`` while another one runs.
        """
        if model is None:
            known = self.checkpoints()
            if name not in known:
                raise UnknownName("checkpoint", name, list(known))
            path, target = known[name].path, _target(known[name])
            words, there = [str(path), str(target)], target.exists()
        else:
            packages = self.packages()
            if model not in packages:
                raise UnknownName("model of your own", model, list(packages))
            from sdlite.assets import find_asset

            path = find_asset("ControlNet", name)
            words = [str(path), "--for", str(packages[model].path), "--name", name]
            there = self._has(packages[model], name)
        needed = _needed(path)
        with self._lock:
            for other in self._exports.values():
                if other.state == "running":
                    raise Refused(409, f"{other.name} is being exported; wait for it", "busy")
            if there:
                raise Refused(409, f"{name} was exported already", "exported")
            if (free := self.view()["free_bytes"]) < needed:
                raise Refused(
                    507,
                    f"exporting {name} may need {needed} bytes of disk; {free} are free",
                    "disk_full",
                )
            command = [sys.executable, "-m", "sdlite.cli", "export", *words, "--progress"]
            process = subprocess.Popen(
                command,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                bufsize=0,
            )
            export = Export(name, model, process)
            self._exports[name, model is not None] = export
        threading.Thread(target=self._follow, args=(export,), daemon=True).start()

    def cancel(self, name: str) -> None:
        """Stop one; nothing is left of it. Raises ``Refused`` when it does not run."""
        with self._lock:
            running = [item for item in self._exports.values() if item.state == "running"]
            export = next((item for item in running if item.name == name), None)
            if export is None:
                raise Refused(404, f"no export of {name[:40]!r} is running", "not_found")
            export.state = "cancelled"
        export.process.terminate()

    def close(self) -> None:
        """Stop what runs."""
        for export in tuple(self._exports.values()):
            if export.process.poll() is None:
                export.process.terminate()
                try:
                    export.process.wait(END_SECONDS)
                except subprocess.TimeoutExpired:
                    export.process.kill()

    def _follow(self, export: Export) -> None:
        stream = export.process.stderr
        assert stream is not None
        last = b""
        with stream:
            while piece := stream.read(1000):
                last = (last + piece)[-LAST_BYTES:]
                for found in PERCENT.findall(piece):
                    export.share = int(found) / 100
        code = export.process.wait()
        with self._lock:
            if export.state == "running":
                export.state = "failed" if code else "done"
        if export.state == "done":
            export.share = 1.0
            self._changed()
        elif export.state == "failed":
            lines = [line for line in re.split(r"[\r\n]+", last.decode("utf-8", "replace")) if line]
            export.error = lines[-1].strip() if lines else f"it ended with code {code}"


def _target(model: home.Model) -> Path:
    """Where the package goes; a folder of diffusers that lies just there keeps its place."""
    target = home.folders().models / model.name
    return target.with_name(f"{model.name}-sdlite") if target == model.path else target


def _needed(path: Path) -> int:
    """Bytes a package takes at most: weights are never stored larger than they came."""
    files = [path] if path.is_file() else [item for item in path.rglob("*") if item.is_file()]
    return sum(item.stat().st_size for item in files) + GRAPHS_BYTES
