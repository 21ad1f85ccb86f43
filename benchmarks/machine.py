"""Where and with what a benchmark ran: everything needed to judge or repeat a figure."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from sdlite.hardware import describe
from sdlite.manifest import MANIFEST, read_manifest

DISTRIBUTIONS = ("sdlite", "numpy", "onnxruntime", "openvino", "tokenizers", "pillow")


def machine() -> dict[str, Any]:
    """Processor, cores, memory and system, and how busy the machine was with other work."""
    hardware = describe()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "cpu": hardware.cpu_name,
        "cpu_flags": list(hardware.cpu_flags),
        "physical_cores": hardware.physical_cores,
        "logical_cores": hardware.logical_cores,
        "ram_bytes": hardware.ram_total,
        "system": f"{platform.system()} {platform.release()} {hardware.arch}",
        "load_before": load,
    }


def versions() -> dict[str, str]:
    """Python and the packages that matter."""
    found = {"python": platform.python_version()}
    for name in DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """Commit of the checkout; None outside one."""
    command = ["git", "rev-parse", "HEAD"]
    root = Path(__file__).parent
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def command() -> str:
    """The command line, with folders of paths left out: they say nothing to others."""
    words = [_without_folder(word) for word in sys.argv[1:]]
    return " ".join(["python", "-m", f"benchmarks.{Path(sys.argv[0]).stem}", *words])


def _without_folder(word: str) -> str:
    name, separator, path = word.rpartition("=")
    return name + separator + Path(path).name if os.sep in path else word


def label(root: Path) -> str:
    """What a package is called in titles and file names: its folder, or that of its model."""
    return root.parent.name if root.name == "package" else root.name


def package_identity(root: Path) -> dict[str, Any]:
    """What was run: the package's source, precision and the hash of its manifest."""
    manifest = read_manifest(root)
    return {
        "name": root.name,
        "source": manifest.source.name,
        "precisions": sorted({artifact.precision for artifact in manifest.artifacts}),
        "manifest_sha256": hashlib.sha256((root / MANIFEST).read_bytes()).hexdigest(),
    }


def now() -> str:
    """UTC time, to the minute."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
