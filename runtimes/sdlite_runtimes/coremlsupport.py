"""What the Core ML adapter needs beside the seam: coremltools, compiling once, the cache."""

from __future__ import annotations

import logging
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from sdlite import compilecache
from sdlite.engine import Artifact, LoadOptions
from sdlite.errors import RuntimeUnavailable

log = logging.getLogger("sdlite.runtimes.coreml")

LEAST = (13, 0)
"""The macOS version that has every operation the exporter writes."""
UNITS: Mapping[str, tuple[str, str]] = {
    "cpu_and_gpu": ("CPU_AND_GPU", "processor and GPU"),
    "cpu_and_ne": ("CPU_AND_NE", "processor and Neural Engine"),
    "all": ("ALL", "processor, GPU and Neural Engine, as Core ML likes"),
}
"""Devices: coremltools' name of the compute units, and what they are."""
FIXED_WEIGHTS = (
    "Core ML programs are compiled with their weights, so LoRAs and other replaced weights cannot "
    "be put into them; merge LoRAs into the ONNX package of the model with sdlite bake, and draw "
    "with that"
)
PACKAGE, COMPILED = ".mlpackage", ".mlmodelc"
KEPT = f"model{COMPILED}"


def engine() -> ModuleType:
    """coremltools, where it can predict; raises ``RuntimeUnavailable``."""
    # Asked like this, type checkers take no side.
    if platform.system() != "Darwin":
        raise RuntimeUnavailable(
            f"Core ML is a part of macOS, and this is {platform.system()}",
            "Packages made with sdlite export --format coreml are for a Mac; "
            "export the model with --format onnx to draw here",
        )
    found = platform.mac_ver()[0]
    if tuple(int(part) for part in found.split(".")[:2]) < LEAST:
        raise RuntimeUnavailable(
            f"macOS {found} is too old for these programs", "Update to macOS 13 or later"
        )
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    try:
        import coremltools as tools
    except ImportError as error:
        raise RuntimeUnavailable(
            f"coremltools cannot be imported ({error})",
            'Install it with: pip install "sdlite[coreml]"',
        ) from error
    module: ModuleType = tools
    return module


def version() -> str:
    """What compiles and predicts."""
    return f"macOS {platform.mac_ver()[0]}, coremltools {engine().__version__}"


def folder_of(graph: Path) -> Path:
    """The package or compiled program a file lies in; raises ``ValueError``."""
    for path in (graph, *graph.parents):
        if path.suffix in (PACKAGE, COMPILED):
            return path
    raise ValueError(f"{graph} lies in no folder {PACKAGE} or {COMPILED}")


def open_cached(
    tools: ModuleType, folder: Path, artifact: Artifact, units: Any, options: LoadOptions
) -> tuple[Any, tuple[str, ...], Callable[[], None]]:
    """The loaded program, notes for the user, and what to call when the program is closed.

    Compiled programs are kept by what they were compiled from; what is kept and does not open is
    compiled anew. Raises what coremltools raises.
    """
    if folder.suffix == COMPILED:
        return _opened(tools, folder, units), (), _nothing
    what = f"{artifact.component} ({folder.name})"
    home = _home(folder, artifact, options)
    if home is None:
        log.warning("compiling %s for Core ML; nothing is kept, as caching is off", what)
        place = Path(tempfile.mkdtemp(prefix="sdlite-"))

        def forget() -> None:
            shutil.rmtree(place, ignore_errors=True)

        try:
            made = tools.models.utils.compile_model(str(folder), str(place / KEPT))
            return _opened(tools, Path(made), units), (), forget
        except BaseException:
            forget()
            raise
    notes = []
    kept = home / KEPT
    if kept.exists():
        try:
            return _opened(tools, kept, units), (), _nothing
        except Exception as error:
            notes.append(f"{what} was compiled anew: what was kept does not open ({error})")
            shutil.rmtree(kept, ignore_errors=True)
    log.warning(
        "compiling %s for Core ML for the first time; this takes a while, on the Neural Engine "
        "minutes",
        what,
    )
    _compile(tools, folder, kept)
    if options.cache is not None:
        compilecache.shrink(options.cache, options.cache_limit, spare=home)
    notes.append(f"{what} was compiled for Core ML; the next start needs that no more")
    return _opened(tools, kept, units), tuple(notes), _nothing


def _nothing() -> None:
    pass


def _compile(tools: ModuleType, folder: Path, kept: Path) -> None:
    """Compile into a place of its own, then rename: a run that is ended leaves no half program."""
    unfinished = kept.with_name(f"{os.urandom(6).hex()}{COMPILED}")
    try:
        made = Path(tools.models.utils.compile_model(str(folder), str(unfinished)))
        made.replace(kept)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _opened(tools: ModuleType, compiled: Path, units: Any) -> Any:
    return tools.models.CompiledMLModel(str(compiled), units)


def _home(folder: Path, artifact: Artifact, options: LoadOptions) -> Path | None:
    """The cache's folder for a package; None when there is no cache."""
    if options.cache is None:
        return None
    key = {
        "component": artifact.component,
        "graph": f"{folder.resolve()} {artifact.graph_sha256}",
        # Other tools' packages come without hashes.
        "weights": " ".join(entry.sha256 for entry in artifact.files).strip()
        or " ".join(compilecache.file_facts(path) for path in sorted(folder.rglob("*.bin"))),
        "engine": f"coreml {version()}",
    }
    return compilecache.engine_folder(options.cache, key, options.cache_limit)
